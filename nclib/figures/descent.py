"""Figures of the theory notebook: paths of K = 3 in the plane, loss gaps, tag-wise averages, strict saddles."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nclib.figures.descent_plane import (
    CLASS_COLORS,
    GRAY,
    draw_arrow,
    draw_parallelogram,
    draw_plane,
    draw_rays,
    plane_legend,
)
from nclib.figures.layout import add_legend
from nclib.figures.style import COLORS, TEXT_WIDTH, RunStyles, linestyle, style
from nclib.theory import Curvature, GlobalMinimum, Minimization, Point, Problem, objective, values_along

SMALLEST_GAP = 1e-17  # a gap of 0, or below it by rounding, is drawn here


def plot_path(result: Minimization, *, points: int = 8) -> Figure:
    """Small multiples of a recorded descent with K = 3 in the plane: features and classifier fall onto the ETF.

    The result is of `minimize(3, ..., feature_dim=2, record_every=1, record_path=True)`. Of its path at most `points`
    are shown: the first, the last, and more of the early ones.
    """
    chosen = _while_it_moves(result, points)
    with style():
        figure, axes = plt.subplots(
            2, -(-points // 2), figsize=(TEXT_WIDTH, 3.9), layout="constrained", sharex=True, sharey=True, squeeze=False
        )
        for ax, place in zip(axes.flat, chosen, strict=False):
            gap = (result.losses[place] - result.minimum.value) / result.minimum.value
            draw_plane(ax, result, result.path[place])
            ax.set_title(f"iteration {result.iterations[place]}\ngap {max(gap, 0):.0e}", fontsize=7.5)
        for ax in axes.flat[len(chosen) :]:
            ax.axis("off")
        extent = 1.12 * max(result.path[place].H.abs().max().item() for place in chosen)
        axes.flat[0].set(xlim=(-extent, extent), ylim=(-extent, extent))
        figure.legend(handles=plane_legend(result), loc="outside lower center", ncols=6, columnspacing=1.3)
    return figure


def plot_gaps(results: Mapping[str, Sequence[Minimization]]) -> Figure:
    """The relative gap to the predicted global minimum against the iteration; one line per random start."""
    styles = RunStyles.from_runs(list(results))
    with style():
        figure, ax = plt.subplots(figsize=(TEXT_WIDTH, 2.7), layout="constrained")
        for name, starts in results.items():
            for result in starts:
                gaps = (np.array(result.losses) - result.minimum.value) / abs(result.minimum.value)
                ax.plot(result.iterations, np.maximum(gaps, SMALLEST_GAP), **styles.look(name), markevery=[-1])
        ax.axhline(1e-9, color=GRAY, linewidth=0.8, linestyle=":")
        ax.annotate("1e-9", (1, 1e-9), xycoords=("axes fraction", "data"), xytext=(-3, 2), **_NOTE)
        ax.axhspan(SMALLEST_GAP / 3, np.finfo(float).eps, color="0.93", zorder=0)
        ax.annotate("rounding", (1, SMALLEST_GAP), xycoords=("axes fraction", "data"), xytext=(-3, 0), **_NOTE)
        ax.set(yscale="log", xlabel="L-BFGS iteration", ylabel="(loss - minimum) / minimum", xlim=(0, None))
        ax.set_ylim(SMALLEST_GAP / 3, None)
        add_legend(figure, {name: styles.line(name) for name in results})
    return figure


def plot_tag_wise(result: Minimization, scales: Mapping[str, Mapping[int, tuple[float, float]]]) -> Figure:
    """A pair's mean as the scaled sum of its tags' means, and the scale `C_2`, predicted and measured.

    Args:
        result: with K = 3 in the plane, and pairs.
        scales: name of a line -> samples per pair -> (predicted, measured) `C_2`.
    """
    rows = {tuple(torch.nonzero(S).flatten().tolist()): h for S, h in zip(result.labels, result.point.H, strict=True)}
    first, second, pair = (rows[S].numpy() for S in ((0,), (1,), (0, 1)))
    with style():
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(TEXT_WIDTH, 2.9), layout="constrained", width_ratios=(1, 1.25)
        )
        draw_rays(left, result)
        draw_parallelogram(left, first, second, pair)
        left.set(title=f"$\\mu_{{12}} = C_2\\,(\\mu_1 + \\mu_2)$, $C_2$ = {result.minimum.scales[2]:.4f}")
        styles = RunStyles.from_runs(list(scales))
        for name, points in scales.items():
            counts, predicted, measured = list(points), *zip(*points.values(), strict=True)
            color = styles.colors[name]
            right.plot(counts, predicted, color=color, linestyle=linestyle(styles.dashes[name]))
            right.plot(counts, measured, styles.markers[name], color=color, markersize=5, label=name)
        right.set(xscale="log", xlabel="samples per pair", ylabel="$C_2$", title="predicted (line), measured (mark)")
        right.set_xticks(counts, [str(n) for n in counts])
        right.xaxis.minorticks_off()
        right.legend(loc="best")
    return figure


def plot_saddle(problem: Problem, saddle: Point, curvature: Curvature, escape: Minimization) -> Figure:
    """A strict saddle of K = 3 in the plane: the way out, the loss along it, and a recorded descent that takes it."""
    with style():
        figure, axes = plt.subplots(1, 4, figsize=(TEXT_WIDTH, 2.2), layout="constrained")
        extent = 1.15 * max(point.H.abs().max().item() for point in (saddle, escape.point))
        for ax, point, title in (
            (axes[0], saddle, "saddle, and the way out"),
            (axes[3], escape.point, "after the descent"),
        ):
            draw_plane(ax, escape, point, rays=point is not saddle)
            ax.set(title=title, xlim=(-extent, extent), ylim=(-extent, extent))
        step = 0.55 * extent / curvature.direction.H.norm(dim=1).max().item()
        for h, moved in zip(saddle.H.numpy(), step * curvature.direction.H.numpy(), strict=True):
            if np.linalg.norm(moved) > 0.1 * extent:
                draw_arrow(axes[0], moved, start=h, color=GRAY)
        value = objective(problem)(*saddle.tensors).item()
        reach = 1.4 * step
        distances = np.linspace(-reach, reach, 81)
        along = np.array(values_along(problem, saddle, curvature.direction, distances=distances.tolist()))
        quadratic = curvature.eigenvalue / 2 * distances**2
        axes[1].plot(distances, along - value, color=COLORS[0], label="loss")
        axes[1].plot(distances, quadratic, color=COLORS[1], linestyle="--", label="λ t²/2")
        axes[1].set_ylim(1.25 * (along - value).min(), 0.1 * abs((along - value).min()))
        axes[1].set(title=f"along it, λ = {curvature.eigenvalue:.3f}", xlabel="distance t")
        axes[1].legend(loc="lower center", handlelength=1.6, fontsize=7)
        axes[2].plot(escape.iterations, escape.losses, color=COLORS[0], marker="o", markersize=2)
        for level, name in ((value, "saddle"), (escape.minimum.value, "minimum")):
            axes[2].axhline(level, color=GRAY, linewidth=0.8, linestyle=":")
            axes[2].annotate(name, (1, level), xycoords=("axes fraction", "data"), xytext=(-2, 2), **_NOTE)
        axes[2].set(title="descent from there", xlabel="iteration", xlim=(0, min(40, escape.iterations[-1])))
        span = value - escape.minimum.value
        axes[2].set_ylim(escape.minimum.value - 0.1 * span, value + 0.2 * span)
    return figure


def draw_prediction(
    axes: Sequence[Axes], minimum: GlobalMinimum, path: Mapping[float, GlobalMinimum], at: float
) -> None:
    """The predicted geometry in the plane of two classes, and the logits against the feature decay.

    `path` has the minimum by feature decay, all else being equal; `at` is the chosen one.
    """
    left, right = axes
    K = minimum.num_classes
    if 1 in minimum.logits and not minimum.is_zero:
        angle = np.arccos(-1 / (K - 1)) / 2
        directions = np.array([[-np.sin(angle), np.cos(angle)], [np.sin(angle), np.cos(angle)]])
        first, second = minimum.feature_norms[1] * directions
        for vector, color in ((first, CLASS_COLORS[0]), (second, CLASS_COLORS[1])):
            left.plot(*np.stack([np.zeros(2), vector]).T, color=color, linewidth=5, alpha=0.25)
        draw_parallelogram(left, first, second, minimum.scales[2] * (first + second) if 2 in minimum.scales else None)
    else:
        text = "all features are 0" if minimum.is_zero else "no samples with one label"
        left.annotate(text, (0.5, 0.5), xycoords="axes fraction", ha="center", color=GRAY)
        left.set(xticks=[], yticks=[])
    left.set_title(f"plane of two classes of {K} (bands: classifier rows)")
    styles = RunStyles.from_runs([f"$a_{m}$" for m in minimum.logits])
    for m, (name, color) in zip(minimum.logits, styles.colors.items(), strict=True):
        logits = [p.logits[m] for p in path.values()]
        right.plot(list(path), logits, color=color, linestyle=linestyle(styles.dashes[name]), label=name)
        right.plot(at, minimum.logits[m], marker=styles.markers[name], color=color, markersize=6)
    zero = [decay for decay, p in path.items() if p.is_zero]
    right.axvline(at, color=GRAY, linewidth=0.8, linestyle=":")
    right.set(xscale="log", xlim=(min(path), max(path)), ylim=(0, None), xlabel="feature decay $\\lambda_H$")
    if zero:
        right.axvspan(min(zero), max(path), color="0.9", zorder=0)
    right.set_title("logit on the labels (gray: the optimum is 0)" if zero else "logit on the labels")
    right.legend(loc="best")


_NOTE = {"textcoords": "offset points", "ha": "right", "fontsize": 7, "color": GRAY}


def _while_it_moves(result: Minimization, number: int) -> list[int]:
    """Places of at most `number` points of the path: dense at the start, where it moves in a plot, and the last."""
    gaps = (np.array(result.losses) - result.minimum.value) / result.minimum.value
    settled = max(int(np.argmax(gaps < 1e-3)), number)  # what moves less cannot be seen
    early = np.geomspace(2, settled, number - 2).round().astype(int)  # the first step of L-BFGS is tiny
    return sorted({0, *np.minimum(early, len(gaps) - 1).tolist(), len(gaps) - 1})
