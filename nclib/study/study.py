"""A study: shared sections, seeds and runs, read from a YAML file.

A study file has the sections `study`, `dataset`, `model`, `training`, `validation`, `seeds` and `runs`; `runs` maps
each run's name to overrides that are deep-merged over the sections, and to a `label`, its name in figures and tables.
Two more are optional: `sweep` multiplies the runs by lists of values, and `smoke` holds overrides that make the study
small enough to try in a minute. What is left out takes the defaults of `nclib.study.parameters`.
"""

import copy
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from nclib.study.files import StageError, write_text
from nclib.study.parameters import (
    SECTIONS,
    Dataset,
    Name,
    Run,
    Section,
    Seeds,
    Smoke,
    as_number,
    as_tuple,
)


class ParameterError(StageError, ValueError):
    """A study file or a notebook's parameters are not valid; the message names each field at fault."""


SEEDS = TypeAdapter(Seeds)
RESERVED_STUDIES = ("reference", "theory")  # folders of the outputs
RESERVED_RUNS = ("datasets", "figures", "slurm")  # folders of a study's results


class Study(Section):
    """A study: shared sections, the seeds, and the runs with their overrides (`resolve` gives one run's parameters).

    Raises:
        ParameterError: from `from_mapping` and `from_file`, when anything is not valid.
    """

    study: Name
    dataset: dict[str, Any] = Field(default_factory=dict)
    model: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    validation: dict[str, Any] = Field(default_factory=dict)
    seeds: Seeds = (0,)
    runs: Annotated[dict[Name, dict[str, Any] | None], Field(min_length=1)]
    sweep: dict[str, Annotated[tuple[Any, ...], BeforeValidator(as_tuple), Field(min_length=1)]] = Field(
        default_factory=dict
    )
    smoke: Smoke = Smoke()

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, smoke: bool = False) -> "Study":
        """Check `values` (a parsed study file), with the `smoke` overrides if asked for, and every run in it."""
        values = copy.deepcopy(dict(values))
        try:
            study = cls.model_validate(values)
            if smoke:
                study = study._made_small()
            study = study._swept()
        except ValidationError as error:
            raise ParameterError(explain(error)) from None
        study._check_runs()
        return study

    @classmethod
    def from_file(cls, path: str | Path, *, smoke: bool = False) -> "Study":
        """Read and check a study file."""
        values = read_yaml(path)
        if not isinstance(values, dict):
            raise ParameterError(
                f"{path}: expected the sections of a study (study, dataset, ...), but got {type(values).__name__}"
            )
        try:
            return cls.from_mapping(values, smoke=smoke)
        except ParameterError as error:
            raise ParameterError(f"{path}: {error}") from None

    def to_file(self, path: Path) -> None:
        """Write the study, smoke overrides and sweep applied, as a file that `from_file` reads."""
        values = self.model_dump(mode="json", exclude={"smoke", "sweep"})
        write_text(path, yaml.safe_dump(values, sort_keys=False))

    def only(self, runs: Sequence[str]) -> "Study":
        """The study without its other runs; as it is if `runs` is empty."""
        for run in runs:
            self.resolve(run)
        return self.model_copy(update={"runs": {run: self.runs[run] for run in runs}}) if runs else self

    def seeded(self, seeds: str | None) -> "Study":
        """The study with other seeds, e.g. `"0 1 2"`; as it is if there are none."""
        if not seeds:
            return self
        try:
            return self.model_copy(update={"seeds": SEEDS.validate_python(list(map(int, seeds.split())))})
        except ValueError as error:
            raise ParameterError(f"seeds: expected different integers such as '0 1 2', but got {seeds!r}") from error

    def resolve(self, run: str, **built: int) -> Run:
        """The parameters of one run.

        `built` are `classes` and `side` of its data set, once they are known, for sources where the files decide them.

        Raises:
            ParameterError: there is no such run, or its overrides are not valid.
        """
        if run not in self.runs:
            raise ParameterError(f"run: study '{self.study}' has no run '{run}'; it has {', '.join(self.runs)}")
        overrides = self.runs[run] or {}
        for field in overrides:
            if field not in (*SECTIONS, "label"):
                raise ParameterError(f"runs.{run}.{field}: a run overrides {', '.join(SECTIONS)}, and has a label")
        merged = merge({section: getattr(self, section) for section in SECTIONS}, overrides)
        try:
            return Run.model_validate({"study": self.study, "run": run, "seeds": self.seeds, **merged}, context=built)
        except ValidationError as error:
            raise ParameterError(explain(error, run=run, overrides=overrides)) from None

    def check_seed(self, seed: Any) -> None:
        """Refuse a seed that is not one of the study's."""
        if seed not in self.seeds:
            has = ", ".join(map(str, self.seeds))
            raise ParameterError(f"seed: study '{self.study}' has no seed {seed!r}; it has {has}")

    def varied(self, run: str, changes: Any) -> tuple["Study", str]:
        """The study with one more run, and its name: `run` with some fields changed, e.g. `etf-lr=0.3`.

        The changes are values by field, e.g. `{"training.lr": 0.3}`; also as YAML text, as papermill's `-p` has it.
        """
        if isinstance(changes, str):
            changes = yaml.load(changes, _StudyLoader)  # noqa: S506 (a SafeLoader)
        if not isinstance(changes, Mapping) or not changes:
            raise ParameterError(f"overrides: should be a mapping such as {{'training.lr': 0.3}}, but got {changes!r}")
        self.resolve(run)
        name, overrides = self._variant(run, changes, "overrides")
        varied = self.model_copy(update={"runs": {**self.runs, name: overrides}})
        varied._check_runs()
        return varied, name

    def datasets(self) -> dict[str, Dataset]:
        """Each data set of the study by name (runs that override nothing of it share one)."""
        return {resolved.dataset.name: resolved.dataset for resolved in map(self.resolve, self.runs)}

    def _check_runs(self) -> None:
        if self.study in RESERVED_STUDIES:
            raise ParameterError(f"study: the name '{self.study}' is taken by a folder of the outputs; choose another")
        seen: dict[str, tuple[str, Dataset]] = {}
        labels: dict[str, str] = {}
        for run in self.runs:
            if run in RESERVED_RUNS:
                raise ParameterError(f"runs.{run}: this name is taken by a folder of the outputs; choose another")
            resolved = self.resolve(run)
            if (other := labels.setdefault(resolved.label, run)) != run:
                raise ParameterError(f"runs.{run}.label: run '{other}' is called '{resolved.label}', too")
            dataset = resolved.dataset
            first, known = seen.setdefault(dataset.name, (run, dataset))
            if known != dataset:
                field = next(f for f in Dataset.model_fields if getattr(known, f) != getattr(dataset, f))
                raise ParameterError(
                    f"runs.{run}.dataset.name: runs '{first}' and '{run}' call their data set '{dataset.name}', "
                    f"but differ in dataset.{field}; give one of them another dataset.name"
                )

    def _made_small(self) -> "Study":
        """The study with its `smoke` overrides and without its sweep, under a name (and so in a folder) of its own."""
        if not self.smoke.model_fields_set:
            raise ParameterError(
                f"smoke: study '{self.study}' does not say how to make it small; "
                "add, for example, 'smoke: {training: {epochs: 2}, model: {width: 4}}'"
            )
        overrides = {section: values for section in SECTIONS if (values := getattr(self.smoke, section))}
        kept = self.only(self.smoke.runs or ()).runs
        runs = {run: merge(own or {}, overrides) for run, own in kept.items()}
        return self.model_copy(
            update={"study": f"{self.study}_smoke", "runs": runs, "seeds": self.smoke.seeds, "sweep": {}}
        )

    def _swept(self) -> "Study":
        """The study with `sweep` multiplied out into runs."""
        runs: dict[str, dict[str, Any]] = {}
        for run, values in itertools.product(self.runs, itertools.product(*self.sweep.values())):
            name, swept = self._variant(run, dict(zip(self.sweep, values, strict=True)), "sweep")
            if name in runs:
                raise ParameterError(f"sweep: two runs would get the name '{name}'; leave out one of their values")
            runs[name] = swept
        return self.model_copy(update={"runs": runs, "sweep": {}})

    def _variant(self, run: str, changes: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
        """Name and overrides of `run` with some fields changed; changed data get a data set of their own."""
        overrides, changed, of_data = copy.deepcopy(self.runs[run] or {}), [], []
        for key, value in changes.items():
            section, _, field = str(key).partition(".")
            if section not in SECTIONS or not field or "." in field:
                raise ParameterError(f"{where}.{key}: expected a field such as training.lr or model.arch")
            overrides = merge(overrides, {section: {field: value}})
            changed.append(f"{field}={_readable(value)}")
            of_data += changed[-1:] if section == "dataset" else []
        if of_data and "dataset.name" not in changes:
            name = merge(self.dataset, overrides["dataset"]).get("name", Dataset().name)
            overrides["dataset"]["name"] = "-".join([name, *of_data])
        if changed:
            overrides["label"] = ", ".join([overrides.get("label", run), *changed])
        return "-".join([run, *changed]), overrides


def read_yaml(path: str | Path) -> Any:
    """Read a YAML file (safe loading only; a key given twice is refused).

    Raises:
        ParameterError: it is not there, cannot be read or is not valid YAML.
    """
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), _StudyLoader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise ParameterError(
            f"{path}: there is no such study file; see params/ for those that come with nclib"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path}: cannot be read ({error})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ParameterError(
            f"{path}: not valid YAML ({' '.join(str(error).split()) or type(error).__name__})"
        ) from None


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge: mappings key by key; all else in `over` (`*_counts` are values, too) replaces what `base` has."""
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) and not key.endswith("_counts")
        merged[key] = merge(merged[key], value) if both else copy.deepcopy(value)
    return merged


_IN_YAML = {
    "tuple_type": "should be a list, such as [0, 1]",
    "list_type": "should be a list, such as [0, 1]",
    "dict_type": "should be a mapping, such as {name: value}",
    "model_type": "should be a mapping, such as {name: value}",
}


def explain(error: ValidationError, *, run: str | None = None, overrides: Mapping[str, Any] | None = None) -> str:
    """One line for each field at fault: its path, what was expected and what came."""
    lines = []
    for fault in error.errors():
        within = getattr(fault.get("ctx", {}).get("error"), "path", ())  # of a `FieldError`
        path = [str(part) for part in (*fault["loc"], *within) if part != "[key]"]
        section = (overrides or {}).get(path[0]) if path else None
        overridden = section is not None and (len(path) == 1 or path[1] in section)
        where = ".".join(["runs", run, *path] if run and overridden else path)
        if fault["type"] == "extra_forbidden":
            known = Run.model_fields[path[0]].annotation if path[0] in SECTIONS else Smoke if path[1:] else Study
            lines.append(f"{where}: no such parameter; there are {', '.join(known.model_fields)}")
        elif fault["type"] == "missing":
            lines.append(f"{where}: it is missing")
        elif fault["type"] == "string_type" and fault["loc"][-1] == "[key]":
            lines.append(f"{'.'.join(path[:-1])}: a name should be text, but got {fault['input']!r}: put it in quotes")
        elif fault["type"] == "value_error":
            lines.append(f"{where}: {fault['ctx']['error']}" + (f" (run '{run}')" if run and not overridden else ""))
        else:
            expected = fault["msg"].replace("Input should", "should").replace("String should", "should")
            expected = _IN_YAML.get(fault["type"], expected)
            lines.append(f"{where}: {expected}, but got {fault['input']!r}")
    return "\n".join(lines)


def _readable(value: Any) -> str:
    value = as_number(value)
    text = repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("_-") or "none"


class _StudyLoader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses aliases and a key given twice (PyYAML keeps the last one, silently)."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.constructor.ConstructorError(None, None, "aliases (*name) are not read; write it out", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)
