"""What there is to explore in a folder of outputs, and one training run of it.

Only what 03_validate stored is read: no network is evaluated. What is missing is kept as a sentence, so that the
explorer can show the rest.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from jaxtyping import UInt8
from matplotlib.colors import to_hex
from pydantic import ValidationError
from torch import Tensor

from nclib.data import dataset
from nclib.figures.style import COLORS
from nclib.results.geometry import Geometry
from nclib.results.metrics_table import read_metrics
from nclib.results.predictions import predict_run
from nclib.study.files import StageError, json_or_empty
from nclib.study.folders import project_root
from nclib.study.parameters import Run
from nclib.study.stage import finished_result, measured_another_training
from nclib.study.study import ParameterError, Study

SEED_FOLDER = re.compile(r"seed(\d+)")
LEADERS = ("learned", "baseline")


def studies(outputs: str | Path) -> list[str]:
    """Names of the studies in `outputs` that have at least one training run, in alphabetical order."""
    outputs = Path(outputs)
    if not outputs.is_dir():
        return []
    return sorted(path.name for path in outputs.iterdir() if path.is_dir() and _seeds(path))


def runs(study: str | Path) -> dict[str, tuple[int, ...]]:
    """The runs in a study's folder with their seeds; those that 03_validate has finished come first.

    Within each group the order is that of `study_order`.
    """
    study = Path(study)
    found = _seeds(study)

    def unfinished(run: str) -> bool:
        return not any((study / run / f"seed{seed}" / "geometry.safetensors").is_file() for seed in found[run])

    return {run: found[run] for run in sorted((run for run in study_order(study) if run in found), key=unfinished)}


def study_order(study: str | Path) -> list[str]:
    """All runs of a study, those not begun included, in the order in which its figures show and color them.

    The manifest of 04_figures has it; before that stage, the study's file in `params/`. Runs that neither names come
    last, by name, but `learned` or `baseline` first, since the others are usually compared with it.
    """
    study = Path(study)
    noted = json_or_empty(study / "04_figures.manifest.json").get("parameters")
    planned = noted.get("runs") if isinstance(noted, Mapping) else None
    if not isinstance(planned, Mapping):
        try:
            planned = Study.from_file(project_root(study) / "params" / f"{study.name}.yaml").runs
        except ParameterError:
            planned = {}
    others = sorted(_seeds(study).keys() - planned.keys(), key=lambda run: (run not in LEADERS, run))
    return [*planned, *others]


def _seeds(study: Path) -> dict[str, tuple[int, ...]]:
    """The seeds of each run that has a folder."""
    found = {}
    for folder in study.iterdir() if study.is_dir() else []:
        seeds = sorted(int(match[1]) for path in folder.glob("seed*") if (match := SEED_FOLDER.fullmatch(path.name)))
        if seeds:
            found[folder.name] = tuple(seeds)
    return found


@dataclass(frozen=True, eq=False)
class RunData:
    """One training run, as far as its files are there.

    Attributes:
        run, seed: which.
        geometry: what 03_validate kept of the last layer; None if that is missing.
        metrics: one row per measured value (`nclib.results.metrics_table`); None if missing.
        dataset_folder: of the images; None if no manifest names it.
        problems: what is missing and the stage to run, in words.
        color: of the run's lines and name, the same for all its seeds.
        theory: what theory predicts for the run (`nclib.results.predictions.predict_run`); empty where it has no say.
    """

    run: str
    seed: int
    geometry: Geometry | None
    metrics: pd.DataFrame | None
    dataset_folder: Path | None
    problems: tuple[str, ...]
    color: str
    theory: dict[str, float]

    @property
    def label(self) -> str:
        return f"{self.run}, seed {self.seed}"

    @cached_property
    def sample_images(self) -> UInt8[Tensor, "q c h w"] | None:
        """The images whose features the geometry has; None without them, or if there is no such data set."""
        if self.geometry is None or self.dataset_folder is None:
            return None
        try:
            images = dataset.load(self.dataset_folder / dataset.FILE).train.images
        except StageError:
            return None
        index = self.geometry.sample_index
        return images[index] if not len(index) or int(index.max()) < len(images) else None


def load_run(study: str | Path, run: str, seed: int) -> RunData:
    """Read what there is of one training run; nothing that is missing or damaged is an error here (see `problems`)."""
    study = Path(study)
    folder, problems = study / run / f"seed{seed}", []
    found: dict[str, Any] = {"geometry.safetensors": None, "metrics.csv": None}
    for name, read in (("geometry.safetensors", Geometry.load), ("metrics.csv", read_metrics)):
        try:
            found[name] = read(finished_result(folder, name, stage="03_validate"))
        except StageError as error:
            problems.append(str(error))
    if measured_another_training(folder):
        problems.append(f"{folder} was trained again since it was measured: run stage 03_validate.")
    manifests = (json_or_empty(folder / f"{stage}.manifest.json") for stage in ("03_validate", "02_train"))
    parameters = next((noted for manifest in manifests if isinstance(noted := manifest.get("parameters"), dict)), {})
    order = study_order(study)
    color = to_hex(COLORS[order.index(run) % len(COLORS) if run in order else 0])
    geometry = found["geometry.safetensors"]
    theory = _theory(study.name, run, seed, parameters, geometry)
    return RunData(run, seed, *found.values(), _dataset_folder(study, parameters), tuple(problems), color, theory)


def _dataset_folder(study: Path, parameters: Mapping[str, Any]) -> Path | None:
    """The run's data set by its parameters; where there are none, the study's only data set."""
    settings = parameters.get("dataset")
    if isinstance(settings, dict) and isinstance(settings.get("name"), str):
        return study / "datasets" / settings["name"]
    found = [path for path in (study / "datasets").glob("*") if path.is_dir()]
    return found[0] if len(found) == 1 else None


def _theory(
    study: str, run: str, seed: int, parameters: Mapping[str, Any], geometry: Geometry | None
) -> dict[str, float]:
    if geometry is None:
        return {}
    try:
        settings = Run(study=study, run=run, seeds=[seed], **parameters)
        K, d = geometry.weight.shape[1:]
        return predict_run(settings, geometry.label_set_counts(), num_classes=K, feature_dim=d)
    except (ValidationError, ParameterError, TypeError, ValueError):  # of an older version, or damaged
        return {}
