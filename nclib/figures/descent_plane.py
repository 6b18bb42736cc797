"""Drawing in the plane of features: marks for label sets, arrows for vectors."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from nclib.figures.style import COLORS
from nclib.theory import Minimization, Point

GRAY, FAINT = "0.35", "0.8"
_NAME = {"textcoords": "offset points", "ha": "center", "va": "center", "fontsize": 8}
CLASS_COLORS, CLASS_MARKERS = COLORS[:3], ("o", "s", "^")


def label_set_marker(classes: Sequence[int], *, size: float) -> dict:
    """The class's color and shape for one label; a diamond, half and half, for two."""
    marker = {"marker": CLASS_MARKERS[classes[0]], "markersize": size, "markerfacecolor": CLASS_COLORS[classes[0]]}
    if len(classes) > 1:
        marker |= {"marker": "D", "fillstyle": "left", "markerfacecoloralt": CLASS_COLORS[classes[1]]}
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.5}
    return {**marker, **edge, "linestyle": "none", "zorder": 4 + len(classes)}


def draw_plane(ax: Axes, result: Minimization, point: Point, *, rays: bool = True) -> None:
    """Features as marks, classifier rows as arrows, lengthened so that at the minimum they end at the class means."""
    if rays:
        draw_rays(ax, result)
    for S, h in zip(result.labels, point.H, strict=True):
        classes = torch.nonzero(S).flatten().tolist()
        ax.plot(*h.numpy(), **label_set_marker(classes, size=5.0))
    minimum = result.minimum
    length = minimum.feature_norms[1] / (minimum.etf_scale * (2 / 3) ** 0.5) if minimum.etf_scale else 1.0
    for k, row in enumerate(length * point.W.numpy()):
        draw_arrow(ax, row, color=CLASS_COLORS[k])
    ax.set_aspect("equal")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)


def draw_rays(ax: Axes, result: Minimization) -> None:
    """Where the descent ends: rays through the final classifier rows."""
    for row in result.point.W:
        end = (100 * row / row.norm()).numpy()
        ax.plot(*np.stack([np.zeros(2), end]).T, color=FAINT, linewidth=0.7, zorder=0, scalex=False, scaley=False)


def draw_arrow(ax: Axes, vector: np.ndarray, *, color: object, start: np.ndarray | None = None) -> None:
    start = np.zeros(2) if start is None else start
    ax.annotate(
        "",
        start + vector,
        xytext=start,
        arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0},
        zorder=3,
    )


def draw_parallelogram(ax: Axes, first: np.ndarray, second: np.ndarray, pair: np.ndarray | None) -> None:
    """Two class means, their sum, and the mean of their pair (if any) on the diagonal."""
    corner = first + second
    named = [(first, "$\\mu_1$"), (second, "$\\mu_2$")]
    for (vector, _), color in zip(named, CLASS_COLORS, strict=False):
        draw_arrow(ax, vector, color=color)
    if pair is not None:
        named.append((corner, "$\\mu_1 + \\mu_2$"))
        ax.plot(*np.stack([first, corner, second]).T, color=FAINT, linewidth=1, linestyle="--")
        ax.plot(*np.stack([np.zeros(2), corner]).T, color=GRAY, linewidth=0.8, linestyle=":")
        ax.plot(*corner, marker="o", color="none", markeredgecolor=GRAY, markersize=6)
        ax.plot(*pair, **label_set_marker((0, 1), size=7.0))
        ax.annotate("$\\mu_{12}$", pair, xytext=(13, -4), **_NAME)
    for at, name in named:
        ax.annotate(name, at, xytext=9 * at / np.linalg.norm(at), **_NAME)
    points = np.stack([first, second, corner, np.zeros(2)])
    low, high = points.min(0), points.max(0)
    pad = 0.2 * (high - low).max()
    ax.set_aspect("equal")
    ax.set(xlim=(low[0] - pad, high[0] + pad), ylim=(low[1] - pad, high[1] + pad), xticks=[], yticks=[])
    ax.grid(False)


def plane_legend(result: Minimization) -> list[Line2D]:
    marks = [Line2D([], [], label=f"class {k + 1}", **label_set_marker((k,), size=5.0)) for k in range(3)]
    if 2 in result.problem.counts:
        marks.append(Line2D([], [], label="classes 1 and 2", **label_set_marker((0, 1), size=6.0)))
    arrow = Line2D([], [], color=GRAY, marker=">", markevery=[1], markersize=4, label="classifier row")
    return [*marks, arrow, Line2D([], [], color=FAINT, label="final direction")]
