"""Lines against epoch with bands over seeds, in a grid of axes."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from nclib.figures.panels import Panel
from nclib.figures.style import MARKERS_PER_LINE, RunStyles


def line_grid(
    values: pd.DataFrame,
    styles: RunStyles,
    *,
    hue: str = "run",
    height: float,
    width: float,
    sharey: bool | str,
    **facets: str | int,
) -> sns.FacetGrid:
    """One axes per facet, and in each one line per run: the mean over seeds, with a band from smallest to largest.

    Args:
        values: long: columns `seed`, `epoch`, `value`, that of `hue` and those of the facets.
        styles: of the values of `hue`, the column that distinguishes lines.
        height, width: of one axes [inches].
        facets: `row`, `col` and `col_wrap`, as for `seaborn.relplot`.
    """
    grid = sns.relplot(
        values,
        kind="line",
        x="epoch",
        y="value",
        hue=hue,
        style=hue,
        hue_order=list(styles.colors),
        style_order=list(styles.colors),
        palette=styles.colors,
        dashes=styles.dashes,
        markers=styles.markers,
        markeredgewidth=0.4,
        errorbar=("pi", 100) if values["seed"].nunique() > 1 else None,
        err_kws={"alpha": 0.2, "linewidth": 0},
        legend=False,
        height=height,
        aspect=width / height,
        facet_kws={"sharey": sharey},
        **facets,
    )
    for axes in grid.axes.flat:
        for place, line in enumerate(axes.lines):
            step = max(1, len(line.get_xdata()) // MARKERS_PER_LINE)
            line.set_markevery((place * step // len(axes.lines), step))
    grid.set(xlabel="epoch", ylabel="").set_titles("")
    grid.figure.set_layout_engine("constrained")
    return grid


def scale_axis(axes: Axes, shown: Panel) -> None:
    """Set the y-axis, after everything is drawn on it."""
    span = _span(axes) if shown.log else 1.0
    if span > 10:  # below, a log axis would have next to no numbers
        axes.set_yscale("log")
        if span < 100:  # two powers of ten need not fall into it
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=3, steps=[1, 2, 2.5, 5, 10]))
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
