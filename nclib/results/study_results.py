"""All results of one study, as tables: what figures and result tables are made from.

Everything is read from the files of the stages 01_dataset, 02_train and 03_validate; what a study measured (labels,
multiplicities, imbalance) is decided by what these files hold.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import pandas as pd

from nclib.data import dataset
from nclib.data.dataset import Splits
from nclib.results.geometry import Geometry
from nclib.results.metrics_table import measured_labels, of_metric, read_metrics
from nclib.study.files import read_csv
from nclib.study.folders import StudyFolder
from nclib.study.parameters import Run
from nclib.study.stage import Stage, stages
from nclib.study.study import Study


@dataclass(frozen=True, eq=False)
class StudyResults:
    """Histories and metrics of all runs and seeds of a study, and access to its larger files.

    Args:
        history: one row per epoch, with columns `run` and `seed` before those of `history.csv`.
        metrics: one row per measured value, with columns `run` and `seed` before those of `metrics_table`.
        trainable_parameters: of each run.
        stages: 01_dataset to 03_validate of every run and seed, by key.
    """

    study: Study
    folder: StudyFolder
    history: pd.DataFrame
    metrics: pd.DataFrame
    trainable_parameters: dict[str, int]
    stages: dict[str, Stage]

    @classmethod
    def load(cls, study: Study, outputs: str | Path) -> "StudyResults":
        """Read the results of every run and seed in the folder of all studies; an error names the stage to run."""
        found = {stage.key: stage for stage in stages(study, outputs) if stage.name != "04_figures"}
        history, metrics, trainable = {}, {}, {}
        for run, seed in product(study.runs, study.seeds):
            trained = found[f"{run}/seed{seed}/02_train"].require()
            measured = found[f"{run}/seed{seed}/03_validate"].require()
            history[run, seed] = read_csv(trained.output("history.csv"), stage=trained.name)
            metrics[run, seed] = read_metrics(measured.output("metrics.csv"))
            trainable[run] = trained.manifest["trainable_parameters"]
        folder = StudyFolder(outputs, study.study)
        return cls(study, folder, _joined(history), _joined(metrics), trainable, found)

    @property
    def runs(self) -> tuple[str, ...]:
        return tuple(self.study.runs)

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.study.seeds

    @cached_property
    def resolved(self) -> dict[str, Run]:
        """The parameters of each run."""
        return {run: self.study.resolve(run) for run in self.runs}

    @property
    def labels(self) -> dict[str, str]:
        """What figures and tables call each run."""
        return {run: resolved.label for run, resolved in self.resolved.items()}

    @property
    def is_multi_label(self) -> bool:
        return bool(measured_labels(self.metrics, "tag_wise_scale"))

    @property
    def multiplicities(self) -> tuple[int, ...]:
        """The multiplicities from 2 on whose tag-wise ratio was measured; none for single-label data."""
        return measured_labels(self.metrics, "tag_wise_ratio")

    @property
    def imbalance_groups(self) -> tuple[int, ...]:
        """Samples per pair in the groups of an imbalanced study, largest first; empty for a balanced one."""
        return measured_labels(self.metrics, "imbalance_ratio")[::-1]

    def values(self, metric: str, *, split: str = "train", labels: int | None = None) -> pd.DataFrame:
        """One metric at every checkpoint of every run and seed: columns `run`, `seed`, `epoch` and `value`."""
        found = of_metric(self.metrics, metric, split=split, labels=labels)
        if found.empty:
            of_labels = "" if labels is None else f" of {labels} labels"
            measured = ", ".join(self.metrics.loc[self.metrics["split"] == split, "metric"].unique())
            raise ValueError(f"Expected a metric measured on '{split}' ({measured}), but got '{metric}'{of_labels}.")
        return found[["run", "seed", "epoch", "value"]].reset_index(drop=True)

    def geometry(self, run: str, seed: int) -> Geometry:
        """The last layer of one run and seed over its checkpoints."""
        return Geometry.load(self.stages[f"{run}/seed{seed}/03_validate"].output("geometry.safetensors"))

    def splits(self, name: str) -> Splits:
        """The images of one data set of the study."""
        return dataset.load(self.stages[f"datasets/{name}/01_dataset"].output(dataset.FILE))

    @property
    def inputs(self) -> dict[Path, str]:
        """The SHA-256 of every file that was read so far."""
        return {path: sha256 for stage in self.stages.values() for path, sha256 in stage.read.items()}


def _joined(tables: dict[tuple[str, int], pd.DataFrame]) -> pd.DataFrame:
    """The tables of all runs and seeds, with columns `run` and `seed` before their own."""
    return pd.concat(tables, names=["run", "seed"]).reset_index(["run", "seed"]).reset_index(drop=True)
