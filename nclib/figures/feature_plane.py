"""Features, class means and classifier rows in a plane."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes

from nclib.figures.display import Display
from nclib.figures.layout import SHORT, drawable
from nclib.figures.style import TEXT_WIDTH
from nclib.results.geometry import Geometry

Plane = str | tuple[int, int, int]  # "circle", "principal", or three classes


def plane_axes(means: Float[np.ndarray, "k d"], plane: Plane) -> Float[np.ndarray, "d 2"]:
    """Orthonormal axes of a plane.

    Args:
        means: centered class means.
        plane: `circle` (that in which a simplex ETF is a regular K-gon), `principal` (the two axes along which the
            class means vary most), or three classes (the triangle of their means in true shape, the first on top).

    Raises:
        ValueError: `plane` is none of these, or has a class twice or one that does not exist.
    """
    K, d = means.shape
    if plane == "principal":
        axes = np.zeros((d, 2))
        leading = np.linalg.svd(means, full_matrices=False)[2][:2].T
        axes[:, : leading.shape[1]] = leading
        return axes
    if plane == "circle":
        turn = np.pi / 2 - 2 * np.pi * np.arange(K) / K
        u, _, v = np.linalg.svd(means.T @ np.stack([np.cos(turn), np.sin(turn)], -1), full_matrices=False)
        return u @ v
    if isinstance(plane, str) or len(set(plane)) != 3 or not set(plane) <= set(range(K)):
        raise ValueError(f"Expected plane to be 'circle', 'principal' or three classes of {K}, but got {plane!r}.")
    corners = means[list(plane)]
    up = corners[0] - corners.mean(0)
    up /= max(np.linalg.norm(up), 1e-30)
    right = corners[2] - corners[1]
    right -= (right @ up) * up
    return np.stack([right / max(np.linalg.norm(right), 1e-30), up], -1)


@dataclass
class FeaturePlane(Display):
    """A sample of the training features in a plane, with class means (discs) and classifier rows (lines).

    Lengths are in units of the class means' distance from their center, so that runs share one scale.

    Args:
        layers: run -> its last layer, and the place of a checkpoint in `Geometry.epochs`.
        plane: see `plane_axes`.
    """

    layers: Mapping[str, tuple[Geometry, int]]
    plane: Plane = "circle"

    def _draw(self) -> None:
        columns = len(self.layers)
        side = min(3.2, TEXT_WIDTH / columns)
        self._subplots(1, columns, (side * columns, side + 0.2))
        for axes, (run, (geometry, checkpoint)) in zip(self.axes_, self.layers.items(), strict=True):
            self._draw_run(axes, geometry, checkpoint)
            axes.set_title(run)

    def _draw_run(self, axes: Axes, g: Geometry, checkpoint: int) -> None:
        means = g.class_means[checkpoint].double().numpy()
        center = means.mean(0)
        means = means - center
        K, size = len(means), max(np.sqrt(np.square(means).sum(1).mean()), 1e-30)
        frame = plane_axes(means, self.plane)
        of_all = isinstance(self.plane, str)
        classes = list(range(K)) if of_all else list(self.plane)
        origin = np.zeros(len(center)) if of_all else means[classes].mean(0)
        rows = g.weight[checkpoint].double().numpy()
        rows = rows - rows.mean(0)
        rows /= max(np.sqrt(np.square(rows).sum(1).mean()), 1e-30)
        labels = g.sample_labels.numpy().astype(bool)
        shown = ~np.delete(labels, classes, axis=1).any(1)
        points = (g.sample_features[checkpoint].numpy()[shown] - center - origin) @ frame / size
        palette = np.array(sns.husl_palette(K, s=0.7, l=0.5))
        colors = labels[shown] @ palette / labels[shown].sum(1, keepdims=True)
        axes.scatter(*points.T, s=4, c=colors, alpha=0.6, linewidths=0)
        at = -origin @ frame / size
        for k in classes:
            axes.plot(*np.stack([at, at + rows[k] @ frame]).T, color="0.2", linewidth=1.0 if K <= 20 else 0.4)
        discs = (means[classes] - origin) @ frame / size
        axes.scatter(*discs.T, s=40 if K <= 20 else 12, c=palette[classes], edgecolors="white", linewidths=0.8)
        if K <= 20:
            names = drawable(g.class_names, longest=SHORT)
            for k, disc in zip(classes, discs, strict=True):
                away = (disc - at) / max(np.linalg.norm(disc - at), 1e-9)
                axes.annotate(
                    names[k], disc, 11 * away, textcoords="offset points", ha="center", va="center", fontsize=7
                )
        reach = 1.8 * np.sqrt(2 / max(K - 1, 2)) if self.plane == "circle" else 1.4
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
        axes.grid(False)
