"""Result tables of a study: every number as CSV, the ones to read as Markdown and in the terminal."""

import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pandas as pd

from nclib.results.metrics_table import wide
from nclib.results.predictions import distances, predictions
from nclib.results.study_results import StudyResults
from nclib.study.parameters import Run

SHARES = ("iou", "jaccard", "accuracy", "top1", "ceiling", "score")  # ends of the names of shares
EQUAL = 1e-4  # distances that differ by less are the same but for rounding
WIDTH, LONGEST = 80, 40  # letters: of a line in the terminal, of a run's label in it


class Column(NamedTuple):
    """A column of the tables to read: its name in `result_table`, its title, and its short head in the terminal.

    Without a head it is left out there.
    """

    name: str
    title: str
    head: str = ""


COLLAPSE = (
    Column("train_nc1", "NC1", "NC1"),
    Column("train_nc2_w_centered", "NC2 classifier", "NC2 W"),
    Column("train_nc2_h_centered", "NC2 means", "NC2 H"),
    Column("train_nc3_centered", "NC3", "NC3"),
)
SIZE = (Column("trainable_parameters", "trainable parameters"), Column("saved_percent", "saved", "saved"))
DECODING = {
    "Jaccard, nearest average": "test_onn_jaccard",
    "Jaccard, threshold": "test_threshold_jaccard",
    "Jaccard, true m": "test_jaccard",
    "subset accuracy, nearest average": "test_onn_subset_accuracy",
    "subset accuracy, threshold": "test_threshold_subset_accuracy",
    "subset accuracy, true m": "test_subset_accuracy",
}
RELEASED = {
    "NC1": "train_released_nc1",
    "NC2 classifier": "train_nc2_w",
    "NC2 means": "train_nc2_h",
    "NC3": "train_released_nc3",
}
OF_THEORY = {
    "classifier, to the ETF": "train_nc2_w_centered",
    "classifier, to the minimum": "train_to_minimum_w",
    "means, to the ETF": "train_nc2_h_centered",
    "means, to the minimum": "train_to_minimum_h",
}


def main_columns(results: StudyResults) -> list[Column]:
    """The columns of the first table: scores, collapse, size."""
    ratios = [
        Column(f"train_tag_wise_ratio_{m}", f"tag-wise ratio, {m} labels", f"tags {m}") for m in results.multiplicities
    ]
    if results.is_multi_label:
        scores = [
            Column("train_soft_iou", "train IoU", "train IoU"),
            Column("ceiling", "ceiling", "ceiling"),
            Column("test_soft_iou", "test IoU", "test IoU"),
            Column("best_test_score", "best test IoU (epoch)", "best (epoch)"),
            Column("train_subset_accuracy", "train subset accuracy"),
            Column("test_subset_accuracy", "test subset accuracy", "test subset"),
            Column("test_jaccard", "test Jaccard"),
        ]
    else:
        scores = [
            Column("train_top1", "train accuracy", "train accuracy"),
            Column("test_top1", "test accuracy", "test accuracy"),
            Column("best_test_score", "best test accuracy (epoch)", "best (epoch)"),
        ]
    return [*scores, *COLLAPSE, *ratios, *SIZE]


def checkpoint_table(results: StudyResults) -> pd.DataFrame:
    """Every metric of every checkpoint as `train_...` and `test_...`, one row per run, seed and epoch."""
    of_split, keys = results.metrics.set_index("split"), ["run", "seed", "epoch"]
    train, test = (wide(of_split.loc[split], keys).add_prefix(f"{split}_") for split in ("train", "test"))
    return train.join(test).reset_index()


def result_table(results: StudyResults) -> pd.DataFrame:
    """Every metric of the last checkpoint as `train_...` and `test_...`, one row per run and seed.

    The columns before them: `run`, `seed`, `label`, `dataset`, `arch`, `head`, `epoch` (of the checkpoint), `epochs`
    (trained), `seconds` (of training), `best_epoch` and `best_test_score` (IoU or accuracy; the first epoch with the
    highest one, whose weights the first paper's code keeps as `model_best`), `train_images`, `trainable_parameters`,
    `saved_percent`, and, empty where theory predicts no minimum for these settings, `ceiling` (the training IoU there),
    `train_to_minimum_w` and `train_to_minimum_h` (`nclib.results.predictions.distances`).
    """
    keys = ["run", "seed"]
    score = "test_soft_iou" if results.is_multi_label else "test_accuracy"
    by_run = results.history.groupby(keys, sort=False)
    best = results.history.loc[by_run[score].idxmax(), [*keys, "epoch", score]].set_index(keys)
    trained = by_run.agg(epochs=("epoch", "max"), seconds=("seconds", "sum"))
    trained = trained.join(best.set_axis(["best_epoch", "best_test_score"], axis=1))
    measured = checkpoint_table(results).groupby(keys, sort=False).tail(1)
    ceilings = predictions(results).get("train_soft_iou", {})
    about = pd.DataFrame(
        [
            {
                "run": run,
                "label": resolved.label,
                "dataset": resolved.dataset.name,
                "arch": resolved.model.arch,
                "head": resolved.model.head,
                "train_images": int(results.geometry(run, results.seeds[0]).counts.sum()),
                "trainable_parameters": results.trainable_parameters[run],
                "saved_percent": saved_percent(results, run),
                "ceiling": ceilings.get(run, math.nan),
            }
            for run, resolved in results.resolved.items()
        ]
    )
    table = measured.join(trained, on=keys).merge(about, on="run").merge(distances(results), on=keys)
    first = ["run", "seed", "label", "dataset", "arch", "head", "epoch", *trained.columns]
    first += ["train_images", "trainable_parameters", "saved_percent", "ceiling"]
    first += ["train_to_minimum_w", "train_to_minimum_h"]
    return table[[*first, *measured.columns[3:]]]


def saved_percent(results: StudyResults, run: str) -> float:
    """Trainable parameters that `run` saves against the learned run of the same network and data [%]; NaN if none is.

    Where several learned runs would do (other feature dimensions), the largest counts.
    """
    counts, network = results.trainable_parameters, _network(results.resolved[run])
    learned = [name for name, other in results.resolved.items() if other.model.head == "learned"]
    most = max([counts[name] for name in learned if _network(results.resolved[name]) == network], default=0)
    return 100 * (1 - counts[run] / most) if most > counts[run] else math.nan


def _network(run: Run) -> tuple[str, dict[str, Any]]:
    """What a run shares with another one that differs in its last layer only."""
    return run.dataset.name, run.model.model_dump(exclude={"head", "feature_dim"})


def summary(results: StudyResults) -> str:
    """The tables to read, as Markdown: one row per run, over several seeds mean ± standard deviation."""
    table = result_table(results)
    main = {column.title: column.name for column in main_columns(results)}
    parts = [f"# {results.study.study}", _about(results, table), _markdown(table, main)]
    if results.is_multi_label:
        parts += [
            "The ceiling is the training IoU at the minimum that theory predicts for a run's decays (docs/theory.md). "
            "The IoU is a share of the softmax. Jaccard index and subset accuracy are of the m most probable labels, m "
            "being given: no ceiling holds for them.",
            "## Decoding the test set",
            "Label sets by the nearest tag-wise average (no threshold), by a threshold on the softmax tuned on the "
            "training set, and by the m most probable labels where the true number m is given.",
            _markdown(table, DECODING),
            "## As the released code computes them",
            "NC1 and NC3 with the released global mean, NC2 and NC3 without centering, to compare with its curves.",
            _markdown(table, RELEASED),
        ]
    if (table["train_to_minimum_w"] - table["train_nc2_w_centered"]).abs().max() > EQUAL:
        parts += [
            "## Distance from the minimum",
            "The counts are not balanced, so that the minimum that theory predicts is no simplex ETF: distances from "
            "the one and from the other, between Gram matrices of norm 1 on the training set.",
            _markdown(table, OF_THEORY),
        ]
    return "\n\n".join(parts) + "\n"


def terminal_text(results: StudyResults) -> str:
    """The first table in lines of at most 80 letters, in blocks of columns."""
    table = result_table(results)
    cells = _cells(table, {column.head: column.name for column in main_columns(results) if column.head})
    cells.index = [label if len(label) <= LONGEST else f"{label[:20]}…{label[-19:]}" for label in cells.index]
    notes = "NC2 W is of the classifier, NC2 H of the class means"
    notes += "; tags m: tag-wise ratio of m labels" if results.multiplicities else ""
    about = textwrap.fill(f"{_about(results, table)} {notes}.", WIDTH)
    return f"{about}\n\n{cells.to_string(line_width=WIDTH)}\n"


def _about(results: StudyResults, table: pd.DataFrame) -> str:
    """When the values were measured, over how many seeds, and what the collapse metrics are."""
    seeds = results.seeds
    names = ", ".join(map(str, seeds))
    over = f"mean ± standard deviation of {len(seeds)} seeds ({names})"
    if len(seeds) == 1:
        over = f"of one seed ({names}), so without a deviation"
    first, last = table["epoch"].min(), table["epoch"].max()
    # two centered vectors are opposite to each other, as the two of the simplex ETF are, whatever was learned
    binary = any(len(results.geometry(run, results.seeds[0]).class_names) == 2 for run in results.runs)
    of_two = ", and so 0 by construction where there are two classes" if binary else ""
    when = f"after {last} epochs" if first == last else f"at each run's last checkpoint (epoch {first}–{last})"
    return (
        f"All values {when}, {over}. Collapse metrics are of the training set and 0 at exact "
        f"collapse; NC2 and NC3 are centered{of_two}."
    )


def _shown(of_run: pd.DataFrame, name: str) -> str:
    """A column of one run: shares in [0, 1] with four decimals, values that may be tiny with three digits."""
    values = of_run[name]
    if name == "trainable_parameters":
        return f"{values.iloc[0]:,}"
    if name == "saved_percent":
        return "–" if values.isna().all() else f"{values.iloc[0]:.2f} %"
    if name == "ceiling":  # the same for all seeds
        values = values.iloc[:1]
    text = _mean_and_deviation(values, 4 if name.endswith(SHARES) else None)
    if name == "best_test_score":
        ends = sorted({of_run["best_epoch"].min(), of_run["best_epoch"].max()})
        text += f" ({'–'.join(map(str, ends))})"
    return text


def _mean_and_deviation(values: Iterable[float], decimals: int | None = None) -> str:
    """The mean and, for several values, the standard deviation (n-1); None means three significant digits of the mean.

    >>> _mean_and_deviation([0.0123, 0.0125])
    '0.0124 ± 0.0001'
    """
    values = pd.Series(values).dropna()
    if values.empty:
        return "–"
    mean, deviation = values.mean(), values.std()
    if decimals is None and 0 < abs(mean) < 1e-4:
        return f"{mean:.1e}" + (f" ± {deviation:.0e}" if len(values) > 1 else "")
    if decimals is None:
        decimals = 3 if mean == 0 else max(0, 2 - math.floor(math.log10(abs(mean))))
    return f"{mean:.{decimals}f}" + (f" ± {deviation:.{decimals}f}" if len(values) > 1 else "")


def _cells(table: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """The texts of a table to read, by the runs' labels; `columns` has names in `result_table` by head."""
    rows = {
        label: {head: _shown(of_run, name) for head, name in columns.items()}
        for label, of_run in table.groupby("label", sort=False)
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _markdown(table: pd.DataFrame, columns: Mapping[str, str]) -> str:
    cells = _cells(table, columns).reset_index(names="run")
    rows = [[*cells.columns], ["---", *["---:"] * len(columns)], *cells.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
