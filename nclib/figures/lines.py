"""Lines with bands over seeds, and the axis they are drawn on."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from nclib.figures.layout import few_ticks
from nclib.figures.panels import Panel
from nclib.figures.style import MARKS_A_LINE, RunStyles


def draw_lines(
    axes: Axes, table: pd.DataFrame, column: str, runs: Sequence[str], styles: RunStyles, *, label: str = "run"
) -> None:
    """One line for each run: mean over seeds, with a band from the smallest to the largest.

    Args:
        axes: to draw on.
        table: long: columns `label`, `seed`, `epoch` and `column`.
        column: the quantity.
        runs: values of the column `label`, in the order drawn.
        styles: of those.
        label: the column that tells lines apart.
    """
    for place, run in enumerate(runs):
        rows = table.loc[table[label] == run, ["seed", "epoch", column]].dropna()
        if rows.empty:
            continue
        points = rows["epoch"].nunique()
        step = max(1, points // MARKS_A_LINE)
        sns.lineplot(
            rows,
            x="epoch",
            y=column,
            errorbar=("pi", 100) if rows["seed"].nunique() > 1 else None,
            err_kws={"alpha": 0.2, "linewidth": 0},
            color=styles.colors[run],
            linestyle=(0, styles.dashes[run]) if styles.dashes[run] else "-",
            marker=styles.markers[run],
            markevery=(place * step // max(1, len(runs)) % step, step),
            markeredgewidth=0.4,
            legend=False,
            ax=axes,
        )


def scale_axis(axes: Axes, shown: Panel) -> None:
    """Set the y-axis, after everything is drawn on it."""
    span = _span(axes) if shown.log else 1.0
    if span > 10:  # below, a log axis would have next to no numbers
        axes.set_yscale("log")
        if span < 100:  # two powers of ten need not fall into it
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
    few_ticks(axes)
    if shown.floor is not None:
        axes.set_ylim(bottom=shown.floor)
    if shown.ceiling is not None and axes.get_ylim()[1] > shown.ceiling:
        axes.set_ylim(top=shown.ceiling + 0.02 * (shown.ceiling - axes.get_ylim()[0]))


def _span(axes: Axes) -> float:
    """The factor between the largest and the smallest positive value of all lines on this y-axis."""
    shared = axes.get_shared_y_axes().get_siblings(axes)
    values = np.concatenate([np.asarray(line.get_ydata(), float) for one in shared for line in one.lines] or [[]])
    values = values[np.isfinite(values) & (values > 0)]
    return float(values.max() / values.min()) if len(values) else 1.0
