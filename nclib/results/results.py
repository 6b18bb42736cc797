"""All results of one study, as tables: what figures and result tables are made from.

Everything is read from the files of the stages 01_dataset, 02_train and 03_validate; what a study measured (labels,
multiplicities, imbalance) is decided by what these files hold.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from nclib.data import dataset
from nclib.data.dataset import Splits
from nclib.results.geometry import Geometry
from nclib.study.files import StageError, read_csv
from nclib.study.parameters import Run
from nclib.study.runs import StudyFolder, require_stage
from nclib.study.study import Study

HISTORY_COLUMNS = ("epoch", "lr", "train_loss", "train_soft_iou", "train_accuracy", "test_soft_iou", "test_accuracy")
METRICS_COLUMNS = ("epoch", "split", "nc1", "nc2_w_centered", "nc2_h_centered", "nc3_centered", "soft_iou")


@dataclass(frozen=True, eq=False)
class StudyResults:
    """Histories and metrics of all runs and seeds of a study, and access to its larger files.

    Args:
        study: the study.
        folder: its folder of results.
        history: one row an epoch, with columns `run` and `seed` before those of `history.csv`.
        metrics: one row a checkpoint and split, with columns `run` and `seed` before those of `metrics.csv`; columns
            without any number are left out.
        trainable_parameters: of each run.
    """

    study: Study
    folder: StudyFolder
    history: pd.DataFrame
    metrics: pd.DataFrame
    trainable_parameters: dict[str, int]

    @classmethod
    def load(cls, study: Study, outputs: str | Path) -> "StudyResults":
        """Read the results of every run and seed.

        Args:
            study: the study.
            outputs: folder of all studies; relative to the project's root.

        Raises:
            StageError: a file is missing or damaged; the message names it and the stage to run.
        """
        folder = StudyFolder(outputs, study.study)
        history, metrics, trainable = [], [], {}
        for run in study.runs:
            for seed in study.seeds:
                place, settings = folder.run(run, seed), study.resolve(run)
                trained = require_stage(place, "02_train", settings, files=["history.csv"])
                require_stage(place, "03_validate", settings, files=["metrics.csv"])
                history.append(_table(place / "history.csv", HISTORY_COLUMNS, run, seed, stage="02_train"))
                metrics.append(_table(place / "metrics.csv", METRICS_COLUMNS, run, seed, stage="03_validate"))
                trainable[run] = _trainable(trained, place)
        joined = pd.concat(metrics, ignore_index=True)
        return cls(study, folder, pd.concat(history, ignore_index=True), joined.dropna(axis=1, how="all"), trainable)

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
    def is_multi_label(self) -> bool:
        return bool(self.multiplicities)

    @property
    def multiplicities(self) -> tuple[int, ...]:
        """The multiplicities from 2 on whose tag-wise averages were measured; none for single-label data."""
        return self._numbers_after("tag_wise_ratio_")

    @property
    def imbalance_groups(self) -> tuple[int, ...]:
        """Samples of each pair in the groups of an imbalanced study, largest first; empty for a balanced one."""
        return self._numbers_after("imbalance_ratio_")[::-1]

    def _numbers_after(self, prefix: str) -> tuple[int, ...]:
        found = (re.fullmatch(rf"{prefix}(\d+)", column) for column in self.metrics.columns)
        return tuple(sorted(int(match.group(1)) for match in found if match))

    def last(self, split: str) -> pd.DataFrame:
        """The metrics of the last checkpoint: one row a run and seed, in the study's order."""
        chosen = self.metrics[self.metrics["split"] == split]
        return chosen.loc[chosen.groupby(["run", "seed"], sort=False)["epoch"].idxmax()].reset_index(drop=True)

    def geometry(self, run: str, seed: int) -> Geometry:
        """The last layer of one run and seed over its checkpoints.

        Raises:
            StageError: the file is missing, or not what the manifest says.
        """
        place, name = self.folder.run(run, seed), "geometry.safetensors"
        require_stage(place, "03_validate", self.resolved[run], files=[name])
        return Geometry.load(place / name)

    def splits(self, name: str) -> Splits:
        """The images of one data set of the study.

        Raises:
            StageError: the file is missing, or not what the manifest says.
        """
        place = self.folder.dataset(name)
        settings = next(settings for settings in self.resolved.values() if settings.dataset.name == name)
        require_stage(place, "01_dataset", settings, files=[dataset.FILE])
        return dataset.load(place)

    @property
    def inputs(self) -> list[Path]:
        """Every file that figures and tables are made from."""
        names = ("history.csv", "02_train.manifest.json", "metrics.csv", "geometry.safetensors")
        trained = [self.folder.run(run, seed) / name for run in self.runs for seed in self.seeds for name in names]
        return [self.folder.dataset(name) / dataset.FILE for name in self.study.datasets()] + trained


def _table(path: Path, columns: Sequence[str], run: str, seed: int, *, stage: str) -> pd.DataFrame:
    table = read_csv(path, stage=stage)
    missing = [column for column in columns if column not in table.columns]
    if missing or table.empty:
        why = f"it lacks the column '{missing[0]}'" if missing else "it has no row"
        raise StageError(f"{path} is no table of stage {stage} ({why}): delete it and run stage {stage} again.")
    table.insert(0, "run", run)
    table.insert(1, "seed", seed)
    return table


def _trainable(manifest: dict[str, Any], place: Path) -> int:
    number = manifest.get("trainable_parameters")
    if not isinstance(number, int):
        path = place / "02_train.manifest.json"
        raise StageError(f"{path} does not say 'trainable_parameters': delete it and run stage 02_train again.")
    return number
