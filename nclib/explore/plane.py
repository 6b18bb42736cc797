"""Two-dimensional views of the last layer: the plane of three classes, of all classes, or of the principal axes.

Each checkpoint has a plane of its own, since features turn while a network learns; its orientation follows the class
means, so that the picture does not turn with them. Lengths are in units of the class means' distance from their centre
(root mean square over the classes), so that runs and epochs share one scale and the corners of a simplex ETF lie at 1.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from nclib.explore.run_data import LabelSet, RunData

CIRCLE, PRINCIPAL = "circle", "principal"
Plane = str | tuple[int, int, int]  # CIRCLE, PRINCIPAL, or three classes


@dataclass(frozen=True, eq=False)
class Projection:
    """One run seen in one plane, at each of its checkpoints.

    Attributes:
        classes: those whose means and classifier rows are drawn: all, or the three that span the plane.
        shown: which rows of the feature sample are drawn (in the plane of three classes: those with no other label).
        points: those features.
        means: class means.
        origin: mean of all K class means, where the classifier's arrows start.
        tips: ends of the arrows: centered classifier rows, in units of their own root mean square length.
        pairs: the two-label sets that are drawn.
        pair_means: mean features of those.
        averages: their tag-wise averages, C_2 times the sum of both class means.
    """

    classes: list[int]
    shown: Bool[np.ndarray, " q"]
    points: Float[np.ndarray, "e n 2"]
    means: Float[np.ndarray, "e c 2"]
    origin: Float[np.ndarray, "e 2"]
    tips: Float[np.ndarray, "e c 2"]
    pairs: list[LabelSet]
    pair_means: Float[np.ndarray, "e p 2"]
    averages: Float[np.ndarray, "e p 2"]


def project(data: RunData, plane: Plane) -> Projection:
    """See `data` in `plane`.

    Args:
        data: a run whose geometry is there.
        plane: `circle` (that in which a simplex ETF is a regular K-gon), `principal` (the two axes along which the
            class means vary most), or three classes (the triangle of their means in true shape, the first on top).

    Raises:
        ValueError: `plane` is none of these, or names a class twice or one that does not exist.
    """
    g = data.geometry
    means = g.class_means.numpy().astype(np.float64)
    centre = means.mean(1, keepdims=True)
    size = np.sqrt(np.square(means - centre).sum(-1).mean(-1))[:, None, None].clip(1e-30)
    if isinstance(plane, str):
        frame, origin, classes = _frame_of_all(means - centre, plane), centre, set(range(data.num_classes))
    else:
        if len(set(plane)) != 3 or not set(plane) <= set(range(data.num_classes)):
            raise ValueError(f"Expected three different classes of {data.num_classes}, but got {plane}.")
        origin, classes = means[:, list(plane)].mean(1, keepdims=True), set(plane)
        frame = _frame_of_three(means[:, list(plane)])

    def seen(vectors: np.ndarray) -> np.ndarray:
        each = zip(vectors, origin, frame, size, strict=True)  # all epochs' features at once can be gigabytes
        return np.stack([(own - o) @ axes / length for own, o, axes, length in each])

    rows = g.weight.numpy().astype(np.float64)
    rows = rows - rows.mean(1, keepdims=True)
    rows /= np.sqrt(np.square(rows).sum(-1).mean(-1))[:, None, None].clip(1e-30)
    labels = g.sample_labels.numpy().astype(bool)
    shown = ~labels[:, [k for k in range(data.num_classes) if k not in classes]].any(1)
    places = [p for p, labels in enumerate(data.label_sets) if len(labels) == 2 and set(labels) <= classes]
    pairs = [data.label_sets[place] for place in places]
    scale = g.scales.numpy()[:, 1, None, None] if pairs else 0.0
    sums = np.stack([means[:, i] + means[:, j] for i, j in pairs], 1) if pairs else means[:, :0]
    at = seen(centre)
    return Projection(
        classes=sorted(classes),
        shown=shown,
        points=seen(g.sample_features.numpy()[:, shown]),
        means=seen(means[:, sorted(classes)]),
        origin=at[:, 0],
        tips=at + rows[:, sorted(classes)] @ frame,
        pairs=pairs,
        pair_means=seen(g.set_means.numpy()[:, places]),
        averages=seen(scale * sums),
    )


def _frame_of_three(corners: Float[np.ndarray, "e 3 d"]) -> Float[np.ndarray, "e d 2"]:
    """Orthonormal axes of the plane through three points: the first on top, the second on the left."""
    up = corners[:, 0] - corners.mean(1)
    up /= np.linalg.norm(up, axis=-1, keepdims=True).clip(1e-30)
    right = corners[:, 2] - corners[:, 1]
    right -= (right * up).sum(-1, keepdims=True) * up
    right /= np.linalg.norm(right, axis=-1, keepdims=True).clip(1e-30)
    return np.stack([right, up], -1)


def _frame_of_all(means: Float[np.ndarray, "e k d"], plane: str) -> Float[np.ndarray, "e d 2"]:
    K = means.shape[1]
    if plane == CIRCLE:
        turn = np.pi / 2 - 2 * np.pi * np.arange(K) / K
        return _orthonormal(means.swapaxes(1, 2) @ np.stack([np.cos(turn), np.sin(turn)], -1))
    if plane != PRINCIPAL:
        raise ValueError(f"Expected plane to be '{CIRCLE}', '{PRINCIPAL}' or three classes, but got {plane!r}.")
    axes = np.linalg.svd(means, full_matrices=False)[2][:, :2].swapaxes(1, 2)
    if axes.shape[-1] < 2:  # two classes or one-dimensional features
        axes = np.concatenate([axes, np.zeros_like(axes)], -1)
    for e in range(len(axes) - 2, -1, -1):  # principal axes have no sign or order of their own: follow the next epoch
        axes[e] = axes[e] @ _orthonormal((means[e] @ axes[e]).T @ (means[e + 1] @ axes[e + 1]))
    return axes


def _orthonormal(a: Float[np.ndarray, "*e d 2"]) -> Float[np.ndarray, "*e d 2"]:
    """The matrix with orthonormal columns nearest to `a` (its polar factor)."""
    u, _, v = np.linalg.svd(a, full_matrices=False)
    return u @ v
