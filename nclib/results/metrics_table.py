"""The table `metrics.csv`: one row per measured value, so that nobody has to parse the name of a column.

Columns `epoch`, `split` (`train` or `test`), `metric`, `labels` and `value`. `labels` is the multiplicity m of a
tag-wise metric, the samples per pair of a group for `imbalance_ratio`, and empty for all other metrics.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from nclib.study.files import damaged, read_csv

COLUMNS = ("epoch", "split", "metric", "labels", "value")


def long(rows: Iterable[tuple[int, str, str, int | None, float]]) -> pd.DataFrame:
    """The table of rows (epoch, split, metric, labels, value)."""
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"labels": "Int64", "value": float})


def read_metrics(path: str | Path) -> pd.DataFrame:
    """Read `metrics.csv`; an error names the stage to run."""
    table = read_csv(path, stage="03_validate")
    if tuple(table.columns) != COLUMNS:
        raise damaged(Path(path), f"its columns are not {', '.join(COLUMNS)}", stage="03_validate")
    return table.astype({"labels": "Int64"})


def of_metric(table: pd.DataFrame, metric: str, *, split: str = "train", labels: int | None = None) -> pd.DataFrame:
    """The rows of one metric on one split; none if it was not measured."""
    same_labels = table["labels"].isna() if labels is None else (table["labels"] == labels).fillna(False)
    return table[(table["metric"] == metric) & (table["split"] == split) & same_labels]


def measured_labels(table: pd.DataFrame, metric: str) -> tuple[int, ...]:
    """The values of `labels` for which a metric was measured, ascending."""
    return tuple(sorted(table.loc[table["metric"] == metric, "labels"].dropna().unique().tolist()))


def wide(table: pd.DataFrame, index: Sequence[str]) -> pd.DataFrame:
    """One column per metric of one split: `nc1`, `tag_wise_ratio_2`; `index` are the columns that distinguish rows."""
    names = table["metric"] + ("_" + table["labels"].astype("string")).fillna("")
    found = table.assign(metric=names).set_index([*index, "metric"])["value"].unstack()
    order = table.set_index([*index]).index.unique()
    return found.loc[order, names.unique()].rename_axis(columns=None)
