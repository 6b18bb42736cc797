"""Lines against epoch with bands over seeds, and the axes for them."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from nclib.figures.panels import Panel
from nclib.figures.style import MARKERS_PER_LINE, MOST, NOTE, REFERENCE, RunStyles

NEAR_ONE = 0.003  # the axis of a share is linear in -log(1 + NEAR_ONE - share)
SHARE_TICKS = np.array([0, 0.5, 0.9, 0.97, 0.99, 1])
TICK = 0.2  # inches: from tick to tick
EDGE = 0.04  # of the axis, beyond a smallest or largest possible value, so that markers there are whole


def draw_lines(axes: Axes, values: pd.DataFrame, styles: RunStyles) -> None:
    """One line per run: the mean over seeds, and a band from the smallest to the largest.

    The values are long: columns `run`, `seed`, `epoch` and `value`.
    """
    over_seeds = values.dropna(subset="value").groupby(["run", "epoch"])["value"].agg(["mean", "min", "max"])
    names = [name for name in styles.colors if name in over_seeds.index]
    for place, name in enumerate(names):
        found = over_seeds.loc[name]
        step = max(1, len(found) // MARKERS_PER_LINE)
        axes.plot(found.index, found["mean"], **styles.look(name), markevery=(place * step // len(names), step))
        if len(names) <= MOST and values["seed"].nunique() > 1:
            band = {"color": styles.colors[name], "alpha": 0.2, "linewidth": 0}
            axes.fill_between(found.index, found["min"], found["max"], **band)


def draw_references(axes: Axes, values: Mapping[str, float], styles: RunStyles) -> None:
    """A dotted line per run at a value to compare with; where several coincide, their dots take turns."""
    for run, value in values.items():
        same = [other for other in values if np.isclose(values[other], value, rtol=0.01)]
        dots = (3 * same.index(run), (1, 3 * len(same) - 1))
        axes.axhline(value, color=styles.colors[run], zorder=1, **{**REFERENCE, "linestyle": dots})


def scale_axis(axes: Axes, shown: Panel) -> None:
    """Set the y-axis, after everything is drawn on it."""
    epochs, values = _points(axes)
    later = values[epochs > 0] if (epochs > 0).any() else values
    positive = values[values > 0]
    span = positive.max() / positive.min() if len(positive) else 1.0
    if shown.log and span > 10:  # below, a log axis would have next to no numbers
        axes.set_yscale("log")
        if (start := values[epochs == 0].max(initial=0)) > 10 * later.max():  # else it would squeeze all that follows
            axes.set_ylim(top=4 * later.max())
            note = f"↑ {start:{',.0f' if start > 10 else '.2g'}} at epoch 0"
            axes.annotate(note, (0.97, 0.96), xycoords="axes fraction", ha="right", va="top", **NOTE)
        low, high = axes.get_ylim()
        if high < 300 * low:  # two powers of ten need not fall into it
            ticks = np.outer(10 ** np.arange(np.floor(np.log10(low)), np.log10(high) + 1), (1, 3)).ravel()
            _set_ticks(axes, ticks[(ticks >= low) & (ticks <= high)])
    elif shown.ceiling and later.max(initial=0) > 0.9:
        _widen_towards_one(axes, values.min())
    else:
        bins = min(4, _room(axes))
        axes.yaxis.set_major_locator(MaxNLocator(bins, min_n_ticks=min(3, bins), steps=[1, 2, 2.5, 5, 10]))
        low, high = axes.get_ylim()
        low = low if shown.floor is None else shown.floor - EDGE * (high - shown.floor)
        high = high if shown.ceiling is None else min(high, shown.ceiling + EDGE * (shown.ceiling - low))
        axes.set_ylim(low, high)


def _widen_towards_one(axes: Axes, lowest: float) -> None:
    """An axis on which shares near 1 can be told apart: from 0.99 to 1 is as far as from 0.8 to 0.95."""
    axes.set_yscale("function", functions=(_stretched, _unstretched))
    low, high = _stretched(lowest), _stretched(1.0)
    edge = EDGE * (high - low)
    axes.set_ylim(_unstretched(low - edge), _unstretched(high + edge))
    _set_ticks(axes, SHARE_TICKS)


def _set_ticks(axes: Axes, ticks: Float[np.ndarray, " t"]) -> None:
    """Ticks at these values, or where there is no room at some of them."""
    axes.yaxis.set_major_locator(FixedLocator(ticks, nbins=_room(axes)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


def _room(axes: Axes) -> int:
    """How many ticks have room on the y-axis."""
    return max(2, int(axes.get_position().height * axes.figure.get_figheight() / TICK))


def _stretched(share: np.ndarray | float) -> np.ndarray | float:
    return -np.log(np.maximum(1 + NEAR_ONE - share, 1e-6))


def _unstretched(place: np.ndarray | float) -> np.ndarray | float:
    return 1 + NEAR_ONE - np.exp(-place)


def _points(axes: Axes) -> tuple[np.ndarray, np.ndarray]:
    """Epochs and finite values of all lines on this y-axis."""
    shared = axes.get_shared_y_axes().get_siblings(axes)
    points = [np.array(line.get_data(), float) for one in shared for line in one.lines]
    epochs, values = np.concatenate([np.empty((2, 0)), *points], axis=1)
    return epochs[np.isfinite(values)], values[np.isfinite(values)]
