"""Drawing in the plane of features: marks for label sets, arrows for vectors."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from nclib.figures.style import COLOURS
from nclib.theory import Minimization, Point, Problem

GREY, FAINT = "0.35", "0.8"
CLASS_COLOURS, CLASS_MARKERS = COLOURS[:3], ("o", "s", "^")


def check_plane(problem: Problem, point: Point) -> None:
    if problem.num_classes != 3 or point.W.shape[1] != 2:
        raise ValueError(
            f"Expected K = 3 and d = 2 for a image in the plane, but got K = {problem.num_classes} "
            f"and d = {point.W.shape[1]}."
        )


def label_set_marker(classes: Sequence[int], *, size: float) -> dict:
    """The class's color and shape for one label; a diamond, half and half, for two."""
    marker = {"marker": CLASS_MARKERS[classes[0]], "markersize": size, "markerfacecolor": CLASS_COLOURS[classes[0]]}
    if len(classes) > 1:
        marker |= {"marker": "D", "fillstyle": "left", "markerfacecoloralt": CLASS_COLOURS[classes[1]]}
    return {
        **marker,
        "linestyle": "none",
        "markeredgecolor": "white",
        "markeredgewidth": 0.5,
        "zorder": 4 + len(classes),
    }


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
        draw_arrow(ax, row, color=CLASS_COLOURS[k])
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


def name_at(ax: Axes, at: np.ndarray, text: str) -> None:
    away = 9 * at / np.linalg.norm(at)
    ax.annotate(text, at, xytext=away, textcoords="offset points", ha="center", va="center", fontsize=8)


def frame_around(ax: Axes, points: np.ndarray) -> None:
    """Equal axes around points, without ticks."""
    low, high = points.min(0), points.max(0)
    pad = 0.2 * (high - low).max()
    ax.set_aspect("equal")
    ax.set(xlim=(low[0] - pad, high[0] + pad), ylim=(low[1] - pad, high[1] + pad), xticks=[], yticks=[])
    ax.grid(False)


def plane_legend(result: Minimization) -> list[Line2D]:
    marks = [Line2D([], [], label=f"class {k + 1}", **label_set_marker((k,), size=5.0)) for k in range(3)]
    if 2 in result.problem.counts:
        marks.append(Line2D([], [], label="classes 1 and 2", **label_set_marker((0, 1), size=6.0)))
    arrow = Line2D([], [], color=GREY, marker=">", markevery=[1], markersize=4, label="classifier row")
    return [*marks, arrow, Line2D([], [], color=FAINT, label="final direction")]
