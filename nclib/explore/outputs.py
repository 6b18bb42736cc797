"""What there is to explore in a folder of outputs, and one training run of it.

Only what 03_validate stored is read: no network is evaluated. What is missing is kept as a sentence, so that the
explorer can show the rest.
"""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from jaxtyping import UInt8
from pydantic import ValidationError
from torch import Tensor

from nclib.data import dataset
from nclib.results.geometry import Geometry
from nclib.results.metrics_table import read_metrics
from nclib.results.predictions import predict_geometry, values_at
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
    return sorted(path.name for path in outputs.iterdir() if _seeds(path)) if outputs.is_dir() else []


def runs(study: str | Path) -> dict[str, tuple[int, ...]]:
    """The runs in a study's folder with their seeds, in the order of `labels`; those without results come last."""
    study = Path(study)
    found = _seeds(study)
    measured = {path.parts[-3] for path in study.glob("*/seed*/geometry.safetensors")}
    order = sorted(labels(study), key=lambda run: run not in measured)
    return {run: found[run] for run in order if run in found}


def labels(study: str | Path) -> dict[str, str]:
    """What people call each run of a study, also of those not begun, in the order in which its figures color them.

    The study as it was run has it, or else its file in `params/`. Runs that it does not name come last: `learned` or
    `baseline`, then the others by name.
    """
    study, named = Path(study), {}
    for file in (study / "study.yaml", project_root(study) / "params" / f"{study.name}.yaml"):
        with suppress(ParameterError):
            planned = Study.from_file(file)
            named = named or {run: planned.resolve(run).label for run in planned.runs}
    others = sorted(_seeds(study).keys() - named.keys(), key=lambda run: (run not in LEADERS, run))
    return named | {run: run for run in others}


def _seeds(study: Path) -> dict[str, tuple[int, ...]]:
    """The seeds of each run that has a folder."""
    found: dict[str, list[int]] = {}
    for folder in study.glob("*/seed*"):
        if match := SEED_FOLDER.fullmatch(folder.name):
            found.setdefault(folder.parent.name, []).append(int(match[1]))
    return {run: tuple(sorted(seeds)) for run, seeds in found.items()}


@dataclass(frozen=True, eq=False)
class RunData:
    """One training run, as far as its files are there."""

    study: Path  # the folder of its study
    run: str
    seed: int
    label: str
    geometry: Geometry | None  # what 03_validate kept of the last layer
    metrics: pd.DataFrame | None  # one row per measured value (`nclib.results.metrics_table`)
    problems: tuple[str, ...]  # what is missing and the stage to run, in words
    parameters: Mapping[str, Any]  # sections of its study, as its manifest has them; empty without a manifest

    @cached_property
    def sample_images(self) -> UInt8[Tensor, "q c h w"] | None:
        """The images whose features the geometry has; None without them, or if there is no such data set."""
        settings = self.parameters.get("dataset")
        name = str(settings.get("name")) if isinstance(settings, Mapping) else "*"  # without a manifest: the only one
        found = list((self.study / "datasets").glob(f"{name}/{dataset.FILE}"))
        if self.geometry is None or len(found) != 1:
            return None
        try:
            return dataset.load(found[0]).train.images[self.geometry.sample_index]
        except (StageError, IndexError):
            return None

    @cached_property
    def theory(self) -> dict[str, float]:
        """What theory predicts for the run (`nclib.results.predictions`); empty where it has no say."""
        if self.geometry is None:
            return {}
        try:
            settings = Run(study=self.study.name, run=self.run, seeds=[self.seed], **self.parameters)
            K, d = self.geometry.weight.shape[1:]
            minimum = predict_geometry(settings, self.geometry.label_set_counts(), num_classes=K, feature_dim=d)
            found = {} if minimum is None else values_at(minimum, settings)
        except (ValidationError, ParameterError, TypeError, ValueError):  # of an older version, or damaged
            return {}
        return {name: value for name, value in found.items() if math.isfinite(value)}


def load_run(study: str | Path, run: str, seed: int) -> RunData:
    """Read what there is of one training run; nothing that is missing or damaged is an error here (see `problems`)."""
    study = Path(study)
    folder, problems, found = study / run / f"seed{seed}", [], []
    for name, read in (("geometry.safetensors", Geometry.load), ("metrics.csv", read_metrics)):
        try:
            found.append(read(finished_result(folder, name, stage="03_validate")))
        except StageError as error:
            found.append(None)
            problems.append(str(error))
    if measured_another_training(folder):
        problems.append(f"{folder} was trained again since it was measured: run stage 03_validate.")
    manifests = (json_or_empty(folder / f"{stage}.manifest.json") for stage in ("03_validate", "02_train"))
    parameters = next((noted for manifest in manifests if isinstance(noted := manifest.get("parameters"), dict)), {})
    label = f"{labels(study).get(run, run)}, seed {seed}"
    return RunData(study, run, seed, label, *found, tuple(problems), parameters)
