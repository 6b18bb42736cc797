"""Where a study's results lie, and the manifest that says what made them.

    outputs/STUDY/datasets/NAME/   data.safetensors, 01_dataset.ipynb, 01_dataset.manifest.json
    outputs/STUDY/RUN/seedS/       history.csv, checkpoints/epoch_0020.safetensors, metrics.csv, geometry.safetensors
                                   and, for one label a image, misclassified.*; 02_train.* and 03_validate.*
                                   (executed notebook, manifest, log); unfinished/ while it trains
    outputs/STUDY/figures/         *.pdf, *.png
    outputs/STUDY/                 table.csv, table.md, 04_figures.*

Stages share nothing but these files. A stage goes on only from inputs that its own parameters would have made
(`require_stage`), so that what a manifest says is true of everything before it, too. Relative paths are taken from the
project's root (the nearest parent folder with a `Snakefile` and `notebooks/`), so that a notebook finds the same files
from JupyterLab, papermill and Snakemake.
"""

import itertools
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from nclib.study.files import StageError, damaged, read_json, require, sha256, write_json
from nclib.study.parameters import Run
from nclib.study.study import Study

PACKAGES = (
    "nclib",
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "scikit-learn",
    "safetensors",
    "papermill",
    "snakemake",
)

SECTIONS_OF = {  # the parameters that decide the result of each stage of a run
    "01_dataset": ("dataset",),
    "02_train": ("dataset", "model", "training"),
    "03_validate": ("dataset", "model", "training", "validation"),
}


def project_root(start: str | Path | None = None) -> Path:
    """The nearest folder at or above `start` (default: the working folder) that holds `Snakefile` and `notebooks/`.

    Outside a project it is `start` itself.
    """
    start = Path(start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "Snakefile").is_file() and (folder / "notebooks").is_dir():
            return folder
    return start


@dataclass(frozen=True)
class StudyFolder:
    """The paths of one study's results.

    Args:
        outputs: folder of all studies; relative to the project's root.
        study: the study's name.
    """

    outputs: str | Path
    study: str

    @property
    def root(self) -> Path:
        return project_root() / self.outputs / self.study

    def dataset(self, name: str) -> Path:
        """Folder of one composed data set."""
        return self.root / "datasets" / name

    def run(self, run: str, seed: int) -> Path:
        """Folder of one training run."""
        return self.root / run / f"seed{seed}"

    def checkpoint(self, run: str, seed: int, epoch: int) -> Path:
        """The weights after `epoch` finished epochs (0: as initialized)."""
        return self.run(run, seed) / "checkpoints" / f"epoch_{epoch:04d}.safetensors"

    def checkpoints(self, run: str, seed: int) -> dict[int, Path]:
        """All checkpoints of a run, by epoch, ascending."""
        found = (self.run(run, seed) / "checkpoints").glob("epoch_*.safetensors")
        return dict(sorted((checkpoint_epoch(path), path) for path in found))

    @property
    def figures(self) -> Path:
        return self.root / "figures"


def checkpoint_epoch(path: Path) -> int:
    """The number of finished epochs in a checkpoint's file name.

    Raises:
        StageError: the name is not of the form `epoch_0020.safetensors`.
    """
    found = re.fullmatch(r"epoch_(\d{4,})\.safetensors", path.name)
    if found is None:
        raise StageError(f"{path} is no checkpoint of stage 02_train (expected a name like epoch_0020.safetensors).")
    return int(found.group(1))


def parameters_of_run(settings: Run, stage: str) -> dict[str, Any]:
    """The sections of a run's parameters that decide the result of `stage`, as JSON values."""
    return {section: getattr(settings, section).model_dump(mode="json") for section in SECTIONS_OF[stage]}


def parameters_of_study(study: Study) -> dict[str, Any]:
    """The parameters that decide the result of 04_figures, as JSON values."""
    return study.model_dump(mode="json", exclude={"smoke", "sweep"})


def parameters_of_stages(study: Study) -> dict[str, dict[str, Any]]:
    """The parameters of every stage of a study, by the path of its manifest without the ending."""
    expected = {"04_figures": parameters_of_study(study)}
    for run, seed in itertools.product(study.runs, study.seeds):
        settings = study.resolve(run)
        expected[f"datasets/{settings.dataset.name}/01_dataset"] = parameters_of_run(settings, "01_dataset")
        for stage in ("02_train", "03_validate"):
            expected[f"{run}/seed{seed}/{stage}"] = parameters_of_run(settings, stage)
    return expected


def difference(manifest: Mapping[str, Any], expected: Mapping[str, Any]) -> str | None:
    """The first parameter, such as `training.lr`, in which a manifest is not as expected; None if there is none."""
    made, wanted = manifest.get("parameters"), json.loads(json.dumps(expected))
    if not isinstance(made, dict):
        return "parameters"
    for section, values in wanted.items():
        found = made.get(section)
        if isinstance(values, dict) and isinstance(found, dict):
            for field in {**values, **found}:
                if values.get(field) != found.get(field):
                    return f"{section}.{field}"
        elif values != found:
            return section
    return None


def require_stage(folder: Path, stage: str, settings: Run, *, files: Iterable[str] = ()) -> dict[str, Any]:
    """The manifest of a finished stage that was made with the parameters of `settings`.

    Args:
        folder: where the stage's results are.
        stage: e.g. `02_train`.
        settings: of the run that goes on from these results.
        files: results, relative to `folder`, that shall be as the manifest says, to the last bit.

    Raises:
        StageError: the stage was not run, was run with other parameters, or a file has changed since.
    """
    path = folder / f"{stage}.manifest.json"
    manifest = read_json(path, stage=stage)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("outputs"), dict):
        raise damaged(path, "it is no manifest", stage=stage)
    if other := difference(manifest, parameters_of_run(settings, stage)):
        raise StageError(f"{folder} was made with another {other}: run stage {stage} again with these parameters.")
    for name in files:
        if manifest["outputs"].get(name) != sha256(require(folder / name, stage=stage)):
            raise damaged(folder / name, f"it is not what {path.name} says", stage=stage)
    return manifest


def _git_commit() -> str | None:
    """The commit the code stands at, with `+` where tracked files differ from it; None outside a git checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@dataclass
class Manifest:
    """What one stage was given and what it made; written beside its results when it ends well.

    Args:
        stage: the notebook's name, e.g. `02_train`.
        parameters: the resolved parameters of the stage, as JSON values.
        seed: the training seed, if the stage has one.
    """

    stage: str
    parameters: Mapping[str, Any]
    seed: int | None = None
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    _clock: float = field(default_factory=time.monotonic)  # the wall clock may be set while a stage runs

    @classmethod
    def of_run(cls, stage: str, settings: Run, *, seed: int | None = None) -> "Manifest":
        """The manifest of a stage of one run, or of the data set (no seed) that runs share."""
        own = {"study": settings.study} if seed is None else {"study": settings.study, "run": settings.run}
        return cls(stage, {**own, **parameters_of_run(settings, stage)}, seed)

    @classmethod
    def of_study(cls, stage: str, study: Study) -> "Manifest":
        """The manifest of a stage over all runs."""
        return cls(stage, parameters_of_study(study))

    def write(
        self, folder: Path, *, inputs: Iterable[Path], outputs: Iterable[Path], device: str, **facts: Any
    ) -> Path:
        """Write `STAGE.manifest.json` into `folder`.

        Args:
            folder: where the stage's results are.
            inputs: files the stage read; their SHA-256 is noted.
            outputs: files it wrote; likewise.
            device: where the tensors were, e.g. `cpu` or `NVIDIA H100`.
            facts: further JSON values worth keeping (threads, precision, samples a second).

        Returns:
            The manifest's path.
        """
        from torch import get_num_threads

        path = folder / f"{self.stage}.manifest.json"

        def hashes(files: Iterable[Path]) -> dict[str, str]:
            return {os.path.relpath(file, folder): sha256(file) for file in files}

        write_json(
            path,
            {
                "stage": self.stage,
                "seed": self.seed,
                "parameters": dict(self.parameters),
                "inputs": hashes(inputs),
                "outputs": hashes(outputs),
                "git_commit": _git_commit(),
                "packages": {name: metadata.version(name) for name in PACKAGES},
                "python": platform.python_version(),
                "platform": platform.platform(),
                "device": device,
                "threads": get_num_threads(),
                "started": self.started.isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - self._clock, 3),
                **facts,
            },
        )
        return path
