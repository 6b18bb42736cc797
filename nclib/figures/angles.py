"""Angles that vanish at collapse, as one K x K map per run."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.colors import LogNorm

from nclib.figures.display import Display
from nclib.figures.style import TEXT_WIDTH
from nclib.results.geometry import Geometry

SMALLEST = 0.01  # degrees: float32 features cannot tell smaller angles from 0


def collapse_angles(geometry: Geometry, checkpoint: int) -> Float[np.ndarray, "k k"]:
    """Angles in degrees, one for each cell of a K x K map.

    Beside the diagonal: mean of a pair's features to its tag-wise average, or, for single-label data, how far the
    angle between two centered class means is from that of the simplex ETF. On the diagonal: centered class mean to
    centered classifier row. NaN where the training data have no such pair.

    Args:
        geometry: of a run.
        checkpoint: its place in `geometry.epochs`.
    """
    means, rows = geometry.class_means[checkpoint].double().numpy(), geometry.weight[checkpoint].double().numpy()
    means, rows = (unit(vectors - vectors.mean(0)) for vectors in (means, rows))
    K = len(means)
    sets = geometry.label_sets.numpy().astype(bool)
    if sets.sum(1).max() > 1:
        found = np.full((K, K), np.nan)
        for place in np.flatnonzero(sets.sum(1) == 2):
            i, j = np.flatnonzero(sets[place])
            found[i, j] = found[j, i] = geometry.angles[checkpoint, place]
    else:
        found = np.abs(np.degrees(np.arccos((means @ means.T).clip(-1, 1)) - np.arccos(-1 / (K - 1))))
    apart, along = (np.linalg.norm(vectors, axis=1) for vectors in (means - rows, means + rows))
    np.fill_diagonal(found, np.degrees(2 * np.arctan2(apart, along)))  # arccos would lose half of the digits near zero
    return found


def unit(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """The rows at length 1; rows of zeros stay."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)


@dataclass
class AngleMaps(Display):
    """`collapse_angles` of each run, on one logarithmic scale.

    Args:
        angles: run -> K x K degrees.
    """

    angles: Mapping[str, Float[np.ndarray, "k k"]]

    def _draw(self) -> None:
        known = np.concatenate([angles[np.isfinite(angles)] for angles in self.angles.values()]).clip(SMALLEST)
        norm = LogNorm(known.min(), max(known.max(), 1.01 * known.min()), clip=True)
        side = min(2.4, (TEXT_WIDTH - 0.8) / len(self.angles))
        self._subplots(1, len(self.angles), (side * len(self.angles) + 0.8, side + 0.3))
        for axes, (run, angles) in zip(self.axes_, self.angles.items(), strict=True):
            drawn = axes.imshow(angles, cmap="cividis", norm=norm, interpolation="nearest")
            axes.set(title=run, xticks=[], yticks=[])
            axes.grid(False)
        self.figure_.colorbar(drawn, ax=list(self.axes_), label="angle [°]", format="%g", shrink=0.9)
