"""Result tables of a study: every number as CSV, the ones to read as Markdown."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd

from nclib.results.metrics_table import wide
from nclib.results.study_results import StudyResults
from nclib.study.files import write_csv, write_text
from nclib.study.parameters import Run

Column = tuple[str, Callable[[pd.DataFrame], str]]


def result_table(results: StudyResults) -> pd.DataFrame:
    """Every metric of the last checkpoint, one row per run and seed.

    Args:
        results: of the study.

    Returns:
        Columns `run`, `seed`, `dataset`, `arch`, `head`, `epoch` (of the checkpoint), `epochs` (trained), `seconds` (of
        training), `trainable_parameters`, `saved_percent` (against the run with a learned last layer and otherwise the
        same network, NaN where there is none), then `train_...` and `test_...` of each metric.
    """
    keys = ["run", "seed"]
    trained = results.history.groupby(keys, sort=False).agg(epochs=("epoch", "max"), seconds=("seconds", "sum"))
    train, test = (
        wide(results.last(split), [*keys, "epoch"]).dropna(axis=1, how="all").add_prefix(f"{split}_")
        for split in ("train", "test")
    )
    about = pd.DataFrame(
        [
            {
                "run": run,
                "dataset": resolved.dataset.name,
                "arch": resolved.model.arch,
                "head": resolved.model.head,
                "trainable_parameters": results.trainable_parameters[run],
                "saved_percent": saved_percent(results, run),
            }
            for run, resolved in results.resolved.items()
        ]
    )
    table = train.join(test).reset_index().join(trained, on=keys).merge(about, on="run")
    first = ["run", "seed", "dataset", "arch", "head", "epoch", "epochs", "seconds"]
    first += ["trainable_parameters", "saved_percent"]
    return table[[*first, *train.columns, *test.columns]]


def saved_percent(results: StudyResults, run: str) -> float:
    """Trainable parameters that `run` saves against the learned run of the same network and data [%]; NaN if none is.

    Where several learned runs would do (other feature dimensions), the largest counts.
    """
    own = results.resolved[run]
    learned = [
        results.trainable_parameters[name]
        for name, other in results.resolved.items()
        if name != run and other.model.head == "learned" and _same_network(own, other)
    ]
    parameters = results.trainable_parameters[run]
    if own.model.head == "learned" and not any(n > parameters for n in learned):
        return math.nan
    return 100 * (1 - parameters / max(learned)) if learned else math.nan


def _same_network(one: Run, other: Run) -> bool:
    fields = ("arch", "width", "depth", "stem", "bias")
    same = all(getattr(one.model, field) == getattr(other.model, field) for field in fields)
    return same and one.dataset.name == other.dataset.name


def summary(results: StudyResults) -> str:
    """The tables to read, as Markdown: one row a run, mean ± standard deviation over seeds where there are several.

    Args:
        results: of the study.
    """
    table = result_table(results)
    seeds = len(results.seeds)
    over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else f"seed {results.seeds[0]}"
    epochs = sorted(set(table["epoch"]))
    when = (
        f"after {epochs[0]} epochs"
        if len(epochs) == 1
        else f"at each run's last checkpoint (epoch {epochs[0]}–{epochs[-1]})"
    )
    parts = [
        f"# {results.study.study}",
        f"All values {when}, {over}. Collapse metrics are of the training set and 0 at exact collapse; NC2 and NC3 are "
        "centered.",
        _markdown(table, _main_columns(results)),
    ]
    decoding = _decoding_columns(table)
    if decoding:
        parts += [
            "## Decoding the test set",
            "Label sets by the nearest tag-wise average (no threshold), by a threshold on the softmax tuned on the "
            "training set, and by the m most probable labels where the true number m is given.",
            _markdown(table, decoding),
        ]
    if results.is_multi_label:
        parts += [
            "## As the released code computes them",
            "NC1 and NC3 with the released global mean, NC2 and NC3 without centering, to compare with its curves.",
            _markdown(table, _released_columns()),
        ]
    return "\n\n".join(parts) + "\n"


def write_tables(results: StudyResults, folder: str | Path) -> list[Path]:
    """Write `table.csv` and `table.md`.

    Args:
        results: of the study.
        folder: of the study's results.

    Returns:
        The two files.
    """
    paths = [Path(folder) / "table.csv", Path(folder) / "table.md"]
    write_csv(paths[0], result_table(results))
    write_text(paths[1], summary(results))
    return paths


def _main_columns(results: StudyResults) -> list[Column]:
    collapse = [
        ("NC1", _value("train_nc1")),
        ("NC2 classifier", _value("train_nc2_w_centered")),
        ("NC2 means", _value("train_nc2_h_centered")),
        ("NC3", _value("train_nc3_centered")),
    ]
    if results.is_multi_label:
        scores = [("train IoU", _share("train_soft_iou")), ("test IoU", _share("test_soft_iou"))]
        collapse += [
            (f"tag-wise ratio, {m} labels", _value(f"train_tag_wise_ratio_{m}")) for m in results.multiplicities
        ]
    else:
        scores = [("train accuracy", _share("train_top1")), ("test accuracy", _share("test_top1"))]
    return [*scores, *collapse, ("trainable parameters", _parameters), ("saved", _saved)]


def _decoding_columns(table: pd.DataFrame) -> list[Column]:
    """Scores of each way to read a label set off a test image; none for single-label data."""
    decoders = {"nearest average": "test_onn_", "threshold": "test_threshold_", "true m": "test_"}
    scores = {"Jaccard": "jaccard", "subset accuracy": "subset_accuracy"}
    if "test_onn_jaccard" not in table.columns:
        return []
    return [
        (f"{score}, {decoder}", _share(prefix + column))
        for score, column in scores.items()
        for decoder, prefix in decoders.items()
        if prefix + column in table.columns
    ]


def _released_columns() -> list[Column]:
    columns = {"NC1": "released_nc1", "NC2 classifier": "nc2_w", "NC2 means": "nc2_h", "NC3": "released_nc3"}
    return [(title, _value(f"train_{column}")) for title, column in columns.items()]


def _share(column: str) -> Callable[[pd.DataFrame], str]:
    """A share in [0, 1], with four digits behind the point."""
    return lambda rows: _mean_and_deviation(rows[column], lambda _: 4)


def _value(column: str) -> Callable[[pd.DataFrame], str]:
    """A value that may be tiny: three significant digits."""
    return lambda rows: _mean_and_deviation(rows[column], lambda mean: _digits(mean, 3))


def _parameters(rows: pd.DataFrame) -> str:
    return f"{rows['trainable_parameters'].iloc[0]:,}"


def _saved(rows: pd.DataFrame) -> str:
    saved = rows["saved_percent"].iloc[0]
    return "–" if math.isnan(saved) else f"{saved:.2f} %"


def _digits(value: float, significant: int) -> int:
    """Digits behind the point that show `significant` digits of `value`."""
    return significant if value == 0 else max(0, significant - 1 - math.floor(math.log10(abs(value))))


def _mean_and_deviation(values: Iterable[float], decimals: Callable[[float], int]) -> str:
    """The mean and, for several values, the standard deviation (n-1), with as many digits behind the point as it needs.

    >>> _mean_and_deviation([0.0123, 0.0125], lambda mean: _digits(mean, 3))
    '0.0124 ± 0.0001'
    """
    values = pd.Series(values).dropna()
    if values.empty:
        return "–"
    mean = values.mean()
    if mean != 0 and abs(mean) < 1e-4 and decimals(mean) > 4:
        return f"{mean:.1e}" + (f" ± {values.std():.0e}" if len(values) > 1 else "")
    places = decimals(mean)
    return f"{mean:.{places}f}" + (f" ± {values.std():.{places}f}" if len(values) > 1 else "")


def _markdown(table: pd.DataFrame, columns: Sequence[Column]) -> str:
    """A Markdown table with a row for each run, padded so that it also reads as plain text."""
    rows = [["run", *(title for title, _ in columns)]]
    for run, group in table.groupby("run", sort=False):
        rows.append([str(run), *(show(group) for _, show in columns)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    lines = []
    for place, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("| " + " | ".join(cells if place != 1 else row) + " |")
    return "\n".join(lines)
