"""What there is to explore in a folder of outputs, and one training run of it as arrays.

Only what 03_validate stored is read: no network is evaluated. What is missing is kept as a sentence, so that the
explorer can show the rest.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, UInt8

from nclib.data import dataset
from nclib.data.compose import MultiLabelData
from nclib.explore.theme import FIRST_COLOR, run_colors
from nclib.results.geometry import Geometry
from nclib.results.metrics_table import read_metrics
from nclib.study.files import StageError, json_or_empty, read_json
from nclib.study.runs import project_root
from nclib.study.study import ParameterError, Study

LabelSet = tuple[int, ...]
SEED_FOLDER = re.compile(r"seed(\d+)")
LEADERS = ("learned", "baseline")
MARGIN_POINTS = 201  # quantiles of the margins that are drawn


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

    The manifest of 04_figures tells it; before that stage, the study's file in `params/`. Runs that neither names come
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
        dataset_folder: of the pictures; None if no manifest tells it.
        problems: what is missing and the stage to run, in words.
        color: of the run's lines and name, the same for all its seeds.
    """

    run: str
    seed: int
    geometry: Geometry | None
    metrics: pd.DataFrame | None
    dataset_folder: Path | None
    problems: tuple[str, ...] = ()
    color: str = FIRST_COLOR

    @property
    def label(self) -> str:
        return f"{self.run}, seed {self.seed}"

    @cached_property
    def epochs(self) -> Int[np.ndarray, " e"]:
        """Finished epochs of each checkpoint, ascending."""
        if self.geometry is not None:
            return self.geometry.epochs.numpy()
        return np.unique(self.metrics["epoch"]) if self.metrics is not None else np.zeros(0, np.int64)

    def position(self, epoch: int) -> int:
        """The checkpoint to show at `epoch`: the last one up to it (the first, if there is none)."""
        return max(int(np.searchsorted(self.epochs, epoch, side="right")) - 1, 0)

    @cached_property
    def label_sets(self) -> list[LabelSet]:
        """The label sets of the training data, by multiplicity."""
        rows = self.geometry.label_sets.numpy()
        return [tuple(map(int, np.flatnonzero(row))) for row in rows]

    @property
    def is_multi_label(self) -> bool:
        return any(len(labels) > 1 for labels in self.label_sets)

    @property
    def num_classes(self) -> int:
        return len(self.geometry.class_names)

    def name(self, labels: LabelSet) -> str:
        """The classes of a label set in words, e.g. `3 & 7`."""
        return " & ".join(self.geometry.class_names[k] for k in labels)

    @cached_property
    def margins(self) -> Float[np.ndarray, "e q"]:
        """Evenly spaced quantiles of the cosine margins at each epoch, ascending."""
        margins = self.geometry.margins.numpy()
        places = np.linspace(0, margins.shape[1] - 1, min(MARGIN_POINTS, margins.shape[1])).round().astype(int)
        return margins[:, places]

    @cached_property
    def angles(self) -> Float[np.ndarray, "e k k"]:
        """Angles in degrees that vanish at collapse, one for each cell of a K x K map.

        Beside the diagonal: mean of a pair's features to its tag-wise average, or, for single-label data, how far the
        angle between two centered class means is from that of the simplex ETF. On the diagonal: centered class mean to
        centered classifier row. NaN where the training data have no such pair.
        """
        g, K = self.geometry, self.num_classes
        found = np.full((len(self.epochs), K, K), np.nan)
        for place, labels in enumerate(self.label_sets):
            if len(labels) == 2:
                i, j = labels
                found[:, i, j] = found[:, j, i] = g.angles[:, place].numpy()
        ideal = np.degrees(np.arccos(-1 / (K - 1)))
        for e, of_epoch in enumerate(found):  # all epochs at once would take gigabytes for a hundred classes
            means, rows = (unit((a - a.mean(0)).numpy()) for a in (g.class_means[e].double(), g.weight[e].double()))
            if not self.is_multi_label:
                of_epoch[:] = np.abs(np.degrees(np.arccos((means @ means.T).clip(-1, 1))) - ideal)
            np.fill_diagonal(of_epoch, degrees(means, rows))
        return found

    @cached_property
    def _training_data(self) -> MultiLabelData:
        return dataset.load(self.dataset_folder).train

    def pictures(self, labels: LabelSet, *, limit: int) -> UInt8[np.ndarray, "n c h w"]:
        """The first training pictures whose label set is exactly `labels`.

        Raises:
            StageError: the data set is missing or damaged; the message names the stage to run.
        """
        if self.dataset_folder is None:
            raise StageError(f"No manifest tells which data set {self.label} was trained on: run stage 02_train first.")
        data = self._training_data
        wanted = torch.zeros(data.num_classes, dtype=torch.uint8)
        wanted[list(labels)] = 1
        return data.images[(data.labels == wanted).all(1).nonzero().flatten()[:limit]].numpy()


def load_run(study: str | Path, run: str, seed: int) -> RunData:
    """Read what there is of one training run; nothing that is missing or damaged is an error here (see `problems`)."""
    folder, problems = Path(study) / run / f"seed{seed}", []
    geometry = metrics = None
    try:
        geometry = Geometry.load(folder / "geometry.safetensors")
    except StageError as error:
        problems.append(str(error))
    try:
        metrics = read_metrics(folder / "metrics.csv")
    except StageError as error:
        problems.append(str(error))
    color = run_colors(study_order(study)).get(run, FIRST_COLOR)
    return RunData(run, seed, geometry, metrics, _dataset_folder(Path(study), folder), tuple(problems), color)


def _dataset_folder(study: Path, run: Path) -> Path | None:
    """The run's data set by its manifests; where there is none, the study's only data set."""
    for stage in ("03_validate", "02_train"):
        try:
            return (
                study
                / "datasets"
                / read_json(run / f"{stage}.manifest.json", stage=stage)["parameters"]["dataset"]["name"]
            )
        except (StageError, KeyError, TypeError):
            continue
    found = [path for path in (study / "datasets").glob("*") if path.is_dir()]
    return found[0] if len(found) == 1 else None


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-30)


def degrees(a: np.ndarray, b: np.ndarray) -> np.ndarray | float:
    """Angles between unit vectors; arccos would lose half of the digits near zero."""
    return np.degrees(2 * np.arctan2(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1)))
