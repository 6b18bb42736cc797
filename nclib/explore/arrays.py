"""One run as arrays for the browser: coordinates in the few dimensions that it can show, and what hovering tells.

At each checkpoint all vectors start at the mean of the class means, in an orthonormal basis of these means' span (its
leading axes first; below three dimensions, with principal axes of the features beside it). Every plane that the browser
offers lies in it, so nothing is lost. The basis follows the next checkpoint's, so that nothing flips.

A feature is its label set's mean plus a rest, of one byte a coordinate: as the classes collapse, the error shrinks too.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from nclib.figures.angles import collapse_angles, unit
from nclib.figures.feature_plane import plane_axes
from nclib.results.geometry import Geometry

Arrays = dict[str, np.ndarray]
QUANTILES = 201  # of the margins
NO_LABEL = 65535
LARGEST = 127
FACTS = (
    "training images",
    "length of its mean (of all class means: 1)",
    "bias",
    "class mean to classifier row [°]",
    "angle to the tag-wise average [°]",
    "scale of its own",
    "scale C of all sets of its size",
    "scale predicted by theory",
    "off the tag-wise average (share of its length)",
)


def geometry_arrays(g: Geometry, theory: Mapping[str, float]) -> Arrays:
    """What the browser draws of the geometry; all but what does not change has the checkpoints first.

    Lengths are in units of the class means' distance from their center, those of classifier rows in units of theirs.
    """
    sets = g.label_sets.numpy().astype(bool)
    place = {tuple(labels): s for s, labels in enumerate(sets.tolist())}
    set_of = np.array([place[tuple(labels)] for labels in g.sample_labels.bool().tolist()], np.int32)
    checkpoints = [_reduced(g, e) for e in range(len(g.epochs))]
    _follow(checkpoints)
    for e, found in enumerate(checkpoints):
        found["circle"] = _circle(found["means"])
        rest = found.pop("points") - found["set_means"][set_of]
        found["step"] = np.abs(rest).max(initial=1e-30) / LARGEST
        found["rest"] = np.round(rest / found["step"]).astype(np.int8)
        found["predicted"], found["margin"] = _of_points(g, e, sets[set_of])
        found["margins"] = quantiles(found["margin"][np.isfinite(found["margin"])])
        found["released_margins"] = quantiles(g.margins[e].numpy())
        found["angles"] = collapse_angles(g, e)
        found["facts"] = _facts(g, e, sets, found["angles"].diagonal(), theory)
    arrays = {name: np.stack([found[name] for found in checkpoints]) for name in checkpoints[0]}
    arrays |= {name: getattr(g, name).numpy() for name in ("epochs", "gram_features", "gram_weight")}
    arrays |= {"sets": sets.astype(np.uint8), "set_of": set_of}
    small = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32}
    return {name: array.astype(small.get(array.dtype, array.dtype)) for name, array in arrays.items()}


def quantiles(values: np.ndarray) -> np.ndarray:
    """`QUANTILES` evenly spaced ones, ascending; none of no values."""
    return np.quantile(values, np.linspace(0, 1, QUANTILES), method="nearest") if len(values) else values


def _reduced(g: Geometry, e: int) -> Arrays:
    """Coordinates at a checkpoint."""
    means, rows = g.class_means[e].double().numpy(), g.weight[e].double().numpy()
    center = means.mean(0)
    means, rows = means - center, rows - rows.mean(0)
    points = g.sample_features[e].numpy() - center.astype(np.float32)
    K, d = means.shape
    basis = np.zeros((max(K - 1, 3), d))
    span = np.linalg.svd(means, full_matrices=False)[2][: K - 1]
    basis[: len(span)] = span
    if K < 4:
        beside = np.linalg.svd(means)[2][K - 1 :]
        rest = points @ beside.T
        leading = np.linalg.eigh(rest.T @ rest)[1].T[::-1][: 4 - K]
        basis[K - 1 : K - 1 + len(leading)] = leading @ beside
    sets = g.label_sets.double().numpy()
    scales = np.nan_to_num(g.scales[e].double().numpy())[sets.sum(1).astype(int) - 1]
    averages = (scales[:, None] * (sets @ (means + center)) - center)[sets.sum(1) == 2]
    size, length = (max(np.sqrt(np.square(vectors).sum(1).mean()), 1e-30) for vectors in (means, rows))
    return {
        "means": means @ basis.T / size,
        "rows": rows @ basis.T / length,
        "set_means": (g.set_means[e].double().numpy() - center) @ basis.T / size,
        "averages": averages @ basis.T / size,
        "points": points @ basis.T.astype(np.float32) / np.float32(size),
    }


def _follow(reduced: list[Arrays]) -> None:
    """Turn the leading two axes of each checkpoint, and give all others the sign, to be most like the next one's."""
    for arrays, after in zip(reduced[-2::-1], reduced[:0:-1], strict=True):
        likeness = sum((arrays[name] * after[name]).sum(0) for name in ("means", "points"))
        turn = np.diag(np.where(likeness < 0, -1.0, 1.0))
        u, _, v = np.linalg.svd(arrays["means"][:, :2].T @ after["means"][:, :2])
        turn[:2, :2] = u @ v
        for name, array in arrays.items():
            arrays[name] = array @ turn.astype(array.dtype)


def _circle(means: Float[np.ndarray, "k r"]) -> Float[np.ndarray, "3 r"]:
    """The axes of the plane in which a simplex ETF is a regular K-gon, and an axis out of it."""
    K, r = means.shape
    if K == 2:  # upright, the first class above
        return np.eye(3)[[1, 0, 2]] * np.sign([[1], means[0, :1] or 1, [1]])
    wave = means.T @ np.cos(2 * (np.pi / 2 - 2 * np.pi * np.arange(K) / K))
    out = wave + 1e-3 * np.eye(r)[-1]  # the wave of three classes lies in the plane
    axes, signs = np.linalg.qr(np.column_stack([plane_axes(means, "circle"), out]))
    return (axes * np.sign(np.diag(signs))).T


def _of_points(g: Geometry, e: int, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The predicted label set of each feature of the sample (as many labels as it has), and its cosine margin.

    The margin is that of the angle between centered feature and centered rows, so it lies between -2 and 2; NaN for
    several labels.
    """
    points, weight = g.sample_features[e].numpy(), g.weight[e].numpy()
    sizes = labels.sum(1, keepdims=True)
    top = np.argsort(-(points @ weight.T + g.bias[e].numpy()), axis=1)[:, : max(int(sizes.max(initial=1)), 1)]
    predicted = np.sort(np.where(np.arange(top.shape[1]) < sizes, top, NO_LABEL), axis=1).astype(np.uint16)
    centered = points - g.class_means[e].numpy().mean(0)
    cosines = unit(centered) @ unit(weight - weight.mean(0)).T
    margin = np.where(labels, cosines, 0).sum(1) - np.where(labels, -np.inf, cosines).max(1, initial=-np.inf)
    return predicted, np.where(sizes[:, 0] == 1, margin, np.nan).astype(np.float32)


def _facts(g: Geometry, e: int, sets: np.ndarray, angles: np.ndarray, theory: Mapping[str, float]) -> np.ndarray:
    """`FACTS` of each label set; NaN where one says nothing."""
    class_means, means = g.class_means[e].double().numpy(), g.set_means[e].double().numpy()
    sums = sets @ class_means
    own = (means * sums).sum(1) / np.maximum(np.square(sums).sum(1), 1e-30)
    common = g.scales[e].double().numpy()[sets.sum(1) - 1]
    off = np.linalg.norm(means - common[:, None] * sums, axis=1) / np.maximum(np.linalg.norm(means, axis=1), 1e-30)
    lengths = np.linalg.norm(class_means - class_means.mean(0), axis=1)
    of_class = np.stack([lengths / max(lengths.mean(), 1e-30), g.bias[e].double().numpy(), angles])
    single = sets.sum(1) == 1
    of_single = np.where(single, of_class @ sets.T, np.nan)
    predicted = [theory.get(f"tag_wise_scale_{m}", np.nan) for m in sets.sum(1)]
    of_several = np.where(single, np.nan, np.stack([g.angles[e].double().numpy(), own, common, predicted, off]))
    return np.concatenate([g.counts[None], of_single, of_several]).T
