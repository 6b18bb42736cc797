"""A stage: one notebook's part of a study, from its parameters and inputs to its results and their manifest.

A notebook opens its stage, reads inputs through it, and hands it the results:

    step = stage("02_train", globals())
    splits = dataset.load(step.input("data.safetensors"))
    ...
    step.save({"history.csv": history})

Where files lie, in which order they are written and when results are finished is decided here. A stage is done when
its manifest is there and parameters, inputs and code are those it would run with now (`Stage.missing` says what
differs, `Stage.changed_source` whether images were replaced). Times of files and Snakemake's memory decide nothing.
What is done is kept: `save` leaves it alone.
"""

import itertools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from nclib.study.code import changed_code, loaded_code, notebook_fingerprint
from nclib.study.files import (
    StageError,
    damaged,
    describe_file,
    json_or_empty,
    require,
    sha256,
    unwritable,
    write_csv,
    write_json,
    write_text,
)
from nclib.study.folders import StudyFolder, project_root
from nclib.study.parameters import SECTIONS, Run
from nclib.study.source_files import files_fingerprint
from nclib.study.study import ParameterError, Study

SECTIONS_OF = {  # the parameters that decide the result of each stage of a run
    "01_dataset": ("dataset",),
    "02_train": ("dataset", "model", "training"),
    "03_validate": ("dataset", "model", "training", "validation"),
}
STAGES = (*SECTIONS_OF, "04_figures")
PARAMETERS = ("study", "run", "seed", "outputs", "overrides")
PACKAGES = ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "safetensors", "papermill", "snakemake")
KEEP_CODE = "NCLIB_KEEP_CODE"  # environment variable: results of other code count as done

Content = Any  # a DataFrame, text, an object with save(path), or a function that writes a path


class Stage:
    """One stage of a study, as it would run now.

    Args:
        name: of the notebook, e.g. `02_train`.
        study: the study.
        run: the run; of `01_dataset` any run that uses the data set.
        seed: the training seed, of `02_train` and `03_validate`.
        outputs: folder of all studies; relative to the project's root.

    Attributes:
        settings: the run's parameters (not for `04_figures`).
        folder: where the results are.
        key: the manifest's path in the study's folder, without its ending.
        read: files read and checked so far, with their SHA-256.
    """

    def __init__(
        self, name: str, study: Study, *, run: str = "", seed: int | None = None, outputs: str | Path = "outputs"
    ) -> None:
        self.name, self.study, self.run, self.seed, self.outputs = name, study, run, seed, outputs
        place = StudyFolder(outputs, study.study)
        self.folder = place.root
        if name != "04_figures":
            self.settings: Run = study.resolve(run)
            of_data = name == "01_dataset"
            self.folder = place.dataset(self.settings.dataset.name) if of_data else place.run(run, seed)
        self.key = (self.folder / name).relative_to(place.root).as_posix()
        self.manifest_file = self.folder / f"{name}.manifest.json"
        self.manifest = json_or_empty(self.manifest_file)
        self.read: dict[Path, str] = {}
        self._started, self._clock = datetime.now(UTC), time.monotonic()
        self._code, self._commit, self._source = loaded_code(name), None, {}

    @cached_property
    def upstream(self) -> list["Stage"]:
        """The stages whose results this one reads."""
        if self.name != "04_figures":
            before = STAGES[: STAGES.index(self.name)]
            return [Stage(name, self.study, run=self.run, seed=self.seed, outputs=self.outputs) for name in before]
        runs = self.included.runs
        return [stage for stage in stages(self.study, self.outputs, runs=runs) if stage.name != "04_figures"]

    @cached_property
    def included(self) -> Study:
        """The study with the runs that `04_figures` shows: those that are done for every seed (all, if none is)."""
        unfinished = {stage.run for stage in stages(self.study, self.outputs)[:-1] if stage.missing()}
        return self.study.only([run for run in self.study.runs if run not in unfinished])

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters that decide the result, as JSON values."""
        if self.name == "04_figures":
            return self.included.model_dump(mode="json", exclude={"smoke", "sweep"})
        sections = SECTIONS_OF[self.name]
        return {section: getattr(self.settings, section).model_dump(mode="json") for section in sections}

    def missing(self) -> str | None:
        """Why the stage is not done, in words; None if it is."""
        if not self.manifest:
            return "there is no result yet"
        outputs, inputs = self.manifest.get("outputs"), self.manifest.get("inputs")
        if not isinstance(outputs, dict) or not isinstance(inputs, dict):
            return f"{self.manifest_file.name} is damaged"
        if other := _difference(self.manifest.get("parameters"), self.parameters):
            return other
        for name, record in outputs.items():
            path = self.folder / name
            if not path.is_file():
                return f"{name} is gone"
            if path.stat().st_size != record.get("bytes"):
                return f"{name} has another size than it had"
        known = {path: digest for stage in self.upstream for path, digest in stage.files().items()}
        for name, digest in inputs.items() if self.upstream else ():
            if known.get(Path(os.path.normpath(self.folder / name))) != digest:
                return f"{Path(name).name} is another"
        return None if os.environ.get(KEEP_CODE) else self.changed_code()

    def changed_source(self) -> str | None:
        """Whether 01_dataset would read other images now, in words; None too where they are not there any more."""
        now = self._source or self.source()
        if now and [*now.values()] != [*self.manifest["inputs"].values()]:
            return f"the images in {self.settings.dataset.source_folder} are others"
        return None

    def source(self) -> dict[str, str]:
        """Of 01_dataset: the fingerprint of the files that it reads, by their folder; empty where there are none."""
        if self.name != "01_dataset":
            return {}
        found = files_fingerprint(self.settings.dataset, self.folder / f"{self.name}.files.json")
        return {os.path.relpath(self.settings.dataset.source_folder, self.folder): found} if found else {}

    def changed_code(self) -> str | None:
        """Which modules and notebooks have changed since they made the result, in words; None if none has."""
        changed = changed_code(self.manifest.get("code", {}), project_root() / "notebooks")
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        return f"the code of {', '.join(changed[:3])}{more} has changed" if changed else None

    @cached_property
    def done(self) -> bool:
        """Whether the results are there; `save` then keeps them."""
        return (self.missing() or self.changed_source()) is None

    def reread(self) -> "Stage":
        """The stage itself, after another process may have finished it."""
        self.manifest = json_or_empty(self.manifest_file)
        self.done = self.missing() is None
        return self

    def files(self) -> dict[Path, str]:
        """The SHA-256 of each result, by its path, as the manifest has it."""
        outputs = self.manifest.get("outputs") or {}
        return {Path(os.path.normpath(self.folder / name)): record["sha256"] for name, record in outputs.items()}

    def require(self) -> "Stage":
        """The stage itself.

        Raises:
            StageError: it is not done.
        """
        if why := self.missing():
            raise StageError(f"{self.folder}: run stage {self.name} first ({why}).")
        return self

    def output(self, name: str) -> Path:
        """The path of a result, whose bytes are those that the manifest has.

        Raises:
            StageError: the file is missing or has changed.
        """
        path = Path(os.path.normpath(self.folder / name))
        if path in self.read:
            return path
        self.read[path] = _check(path, self.files().get(path), stage=self.name)
        return path

    def input(self, name: str) -> Path:
        """The path of an earlier stage's result, by its name there; checked as `output` does, and noted as an input."""
        for stage in reversed(self.upstream):
            if name in (stage.require().manifest.get("outputs") or {}):
                path = stage.output(name)
                self.read[path] = stage.read[path]
                return path
        raise StageError(f"No stage before {self.name} makes {name} in {self.folder}: run them again.")

    @property
    def inputs(self) -> dict[str, str]:
        """The SHA-256 of each input read so far, by its path from the stage's folder."""
        if self.name == "01_dataset":
            return self._source or self.source()  # which has been downloaded since
        return {os.path.relpath(path, self.folder): sha256 for path, sha256 in self.read.items()}

    @property
    def code(self) -> dict[str, str]:
        """Fingerprints of the notebook and of the modules loaded, as they were when the stage was opened."""
        notebook = f"{self.name}.ipynb"
        own = notebook_fingerprint(project_root() / "notebooks" / notebook)
        return {**loaded_code(self.name), **self._code, **({notebook: own} if own else {})}

    def clear(self) -> None:
        """Remove the manifest and the results it lists: new ones are about to take their place."""
        try:
            self.manifest_file.unlink(missing_ok=True)
            for path in self.files():
                path.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(Path(error.filename or self.folder), error) from error
        self.manifest = {}

    def save(
        self,
        files: Mapping[str, Content],
        *,
        made: Mapping[str, dict[str, Any]] | None = None,
        device: str = "cpu",
        **facts: Any,
    ) -> None:
        """Write the results and then the manifest; does nothing if the stage is done.

        Args:
            files: results by file name: a DataFrame, text, an object with `save(path)`, or a function of the path.
            made: results that are in the folder already, with `describe_file` of each.
            device: where the tensors were, e.g. `cpu` or `NVIDIA H100`.
            facts: further JSON values worth keeping (precision, trainable parameters).

        Raises:
            StageError: a file cannot be written.
        """
        if self.done:
            print(f"kept: {self._age()}")
            return
        if self.manifest:
            self.clear()
        for name, content in files.items():
            _write(self.folder / name, content)
        outputs = {**(made or {}), **{name: describe_file(self.folder / name) for name in files}}
        self.manifest = {
            "stage": self.name,
            "study": self.study.study,
            **({"run": self.run, "seed": self.seed} if self.seed is not None else {}),
            "parameters": self.parameters,
            "inputs": self.inputs,
            "outputs": outputs,
            "code": self.code,
            "git_commit": self._commit,
            "packages": {name: metadata.version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": device,
            "threads": sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None,
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._clock, 3),
            **facts,
        }
        write_json(self.manifest_file, self.manifest)
        self.done = True
        more = f" and {len(outputs) - 5} more files" if len(outputs) > 5 else ""
        print(f"wrote {', '.join(list(outputs)[-5:])}{more} to {os.path.relpath(self.folder, project_root())}")

    def announce(self) -> "Stage":
        """Print whether the stage is done, and if not why it runs; note commit and images before anything is read."""
        self._commit, self._source = _git_commit(), self.source()
        why = self.missing() or self.changed_source()
        self.done = why is None
        if why is None:
            print(f"{self.key}: {self._age()}; the cells below show the results")
        else:
            print(f"{self.key}: to be run, since {why}")
        return self

    def _age(self) -> str:
        ended = datetime.fromisoformat(self.manifest["started"]).timestamp() + self.manifest["seconds"]
        return f"already done, {timedelta(seconds=max(0, int(time.time() - ended)))} ago"


def finished_result(folder: Path, name: str, *, stage: str) -> Path:
    """A result in the folder of a stage, compared with the manifest beside it, whatever its study says now.

    Raises:
        StageError: the file or the manifest is missing, or they do not agree.
    """
    manifest = json_or_empty(folder / f"{stage}.manifest.json")
    _check(folder / name, manifest.get("outputs", {}).get(name, {}).get("sha256"), stage=stage)
    return folder / name


def measured_another_training(folder: Path) -> bool:
    """Whether `03_validate` in a run's folder measured other checkpoints than `02_train` left there since."""
    trained, measured = (json_or_empty(folder / f"{name}.manifest.json") for name in ("02_train", "03_validate"))
    now = {name: record["sha256"] for name, record in trained.get("outputs", {}).items()}
    then = {name: sha256 for name, sha256 in measured.get("inputs", {}).items() if name.startswith("checkpoints/")}
    return bool(now) and any(now.get(name) != sha256 for name, sha256 in then.items())


def _check(path: Path, recorded: str | None, *, stage: str) -> str:
    """The SHA-256 of a file that is as it was recorded."""
    if recorded != sha256(require(path, stage=stage)):
        raise damaged(path, f"it is not what {stage}.manifest.json says", stage=stage)
    return recorded


def stage(name: str, namespace: Mapping[str, Any]) -> Stage:
    """The stage of a notebook, from the notebook's parameters.

    Args:
        name: of the notebook, e.g. `02_train`.
        namespace: the notebook's `globals()`; of its parameters, `study` is a study file and `overrides` maps fields
            such as `training.lr` to values. A run with overrides has a name and a folder of its own.

    Raises:
        ParameterError: a parameter is unknown or not valid, or the study file is not.
    """
    given = _parameters(namespace)
    path = Path(given["study"])
    study = Study.from_file(path if path.is_absolute() or path.is_file() else project_root() / path)
    run, seed = given.get("run", ""), given.get("seed")
    if overrides := given.get("overrides"):
        study, run = study.varied(run, overrides)
    if name in ("02_train", "03_validate"):
        study.check_seed(seed)
    return Stage(name, study, run=run, seed=seed, outputs=given["outputs"]).announce()


_calls = itertools.count()


def _parameters(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook's parameters. papermill adds unknown ones without an error; the first call in a kernel refuses them.

    Later calls see variables of the notebook, and the user's own.
    """
    plain = {
        name
        for name, value in namespace.items()
        if isinstance(value, bool | int | float | str | list | dict | type(None))
        and not name.startswith("_")
        and name not in ("In", "Out")
    }
    first_call, unknown = next(_calls) == 0, sorted(plain - set(PARAMETERS))
    if first_call and unknown:
        raise ParameterError(f"{unknown[0]}: no such parameter; a notebook takes {', '.join(PARAMETERS)}")
    return {name: namespace[name] for name in PARAMETERS if name in namespace}


def stages(study: Study, outputs: str | Path, *, runs: Iterable[str] | None = None) -> list[Stage]:
    """Every stage of a study, or of some of its runs, in the order of their dependence."""
    chosen = list(study.runs if runs is None else runs)
    found: dict[str, Stage] = {}
    for name in SECTIONS_OF:
        for run in chosen:
            for seed in study.seeds if name != "01_dataset" else (None,):
                each = Stage(name, study, run=run, seed=seed, outputs=outputs)
                found.setdefault(each.key, each)
    return [*found.values(), Stage("04_figures", study, outputs=outputs)]


def to_do(found: Iterable[Stage]) -> dict[str, str | None]:
    """Why each of the `stages` that is not done would run, by its key; None: only because one before it runs."""
    why: dict[str, str | None] = {}
    for each in found:
        if each.name == "04_figures" and why:  # which runs it shows is not known yet
            why[each.key] = None
        elif (reason := each.missing() or each.changed_source()) or any(before.key in why for before in each.upstream):
            why[each.key] = reason
    return why


def _difference(made: Any, wanted: Mapping[str, Any]) -> str | None:
    """The first parameter in which results are not as wanted, in words; None if there is none."""
    if not isinstance(made, dict):
        return "its parameters are unknown"
    for section, values in json.loads(json.dumps(wanted)).items():
        found = made.get(section)
        if not isinstance(values, dict) or not isinstance(found, dict):
            if values != found:
                return f"{section} was {found!r} and is {values!r}"
            continue
        values, found = (_defaults(section) | each for each in (values, found))  # a field may have come later
        for field in {**values, **found}:
            if values.get(field) != found.get(field):
                return f"{section}.{field} was {found.get(field)!r} and is {values.get(field)!r}"
    return None


def _defaults(section: str) -> dict[str, Any]:
    return json.loads(Run.model_fields[section].annotation().model_dump_json()) if section in SECTIONS else {}


def _write(path: Path, content: Content) -> None:
    if isinstance(content, str):
        write_text(path, content)
    elif hasattr(content, "to_csv"):
        write_csv(path, content)
    else:
        write: Callable[[Path], Any] = content.save if hasattr(content, "save") else content
        write(path)


def _git_commit() -> str | None:
    """The commit the code stands at, with `+` where tracked files differ from it; None outside a git checkout."""
    words = ("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+")
    try:
        command = ["git", "-C", Path(__file__).parent, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
