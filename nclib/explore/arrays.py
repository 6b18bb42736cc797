"""One run as arrays for the browser: features in the few dimensions that its views can show, and what hovering tells.

At each checkpoint, features, class means and classifier rows are given in an orthonormal basis of the span of the
centered class means (its leading axes first), three leading principal axes of the features outside it, and the span of
the centered classifier rows. So every plane of class means and rows is shown exactly. The basis follows the next
checkpoint's, so that nothing flips.
"""

import numpy as np
from jaxtyping import Float

from nclib.figures.angles import collapse_angles
from nclib.results.geometry import Geometry

Arrays = dict[str, np.ndarray]
FREE_AXES = 3  # principal axes of the features outside the span of the class means
AXES_FROM = 400  # features that these are computed from
QUANTILES = 201  # of the margins
NO_LABEL = 65535
LARGEST = 32767


def geometry_arrays(g: Geometry) -> Arrays:
    """What the browser draws of the geometry; every array but those of the label sets has the checkpoints first."""
    pairs = np.flatnonzero(g.label_sets.sum(1).numpy() == 2)
    labels = slots(g.sample_labels.numpy())
    single = g.sample_labels.sum(1).numpy() == 1
    rows: dict[str, list[np.ndarray]] = {}
    reduced = [_reduced(g, e, pairs) for e in range(len(g.epochs))]
    _follow(reduced)
    width = max(arrays["means"].shape[1] for arrays in reduced)
    for e, arrays in enumerate(reduced):
        found = {name: _padded(array, width) for name, array in arrays.items()}
        points = found.pop("points")
        scale = np.abs(points).max(initial=1e-30) / LARGEST
        found |= {"points": np.round(points / scale).astype(np.int16), "point_scale": np.float32(scale)}
        found["predicted"], found["margin"] = _of_points(g, e, labels)
        found["margins"] = quantiles(np.sort(found["margin"][single]))
        found["released_margins"] = quantiles(g.margins[e].numpy())
        found["angles"] = collapse_angles(g, e)
        found["own_scales"], found["off"] = _set_fits(g, e)
        for name, array in found.items():
            rows.setdefault(name, []).append(array)
    stacked = {name: np.stack(found) for name, found in rows.items()}
    kept = ("bias", "gram_features", "gram_weight", "scales")
    stacked |= {name: getattr(g, name).numpy() for name in kept}
    stacked |= {"epochs": g.epochs.numpy(), "counts": g.counts.numpy(), "set_angles": g.angles.numpy()}
    stacked |= {"labels": labels, "sets": slots(g.label_sets.numpy()), "pairs": pairs}
    return {name: compact(array) for name, array in stacked.items()}


def compact(array: np.ndarray) -> np.ndarray:
    """Floats of 4 bytes and integers of 4; smaller ones as they are."""
    if array.dtype == np.float64:
        return array.astype(np.float32)
    return array.astype(np.int32) if array.dtype == np.int64 else array


def slots(multi_hot: np.ndarray) -> np.ndarray:
    """The classes of each label set, ascending; rows are filled up with `NO_LABEL`."""
    sizes = multi_hot.sum(1).astype(int)
    found = np.full((len(multi_hot), max(int(sizes.max(initial=1)), 1)), NO_LABEL, np.uint16)
    row, k = np.nonzero(multi_hot)
    found[row, np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)] = k
    return found


def quantiles(ascending: np.ndarray) -> np.ndarray:
    """At most `QUANTILES` evenly spaced ones of sorted values."""
    return ascending[np.linspace(0, max(len(ascending) - 1, 0), min(QUANTILES, len(ascending))).round().astype(int)]


def _reduced(g: Geometry, e: int, pairs: np.ndarray) -> Arrays:
    """Coordinates at a checkpoint, from the mean of the class means; classifier rows are centered."""
    means = g.class_means[e].double().numpy()
    center = means.mean(0)
    means = means - center
    rows = g.weight[e].double().numpy()
    rows = rows - rows.mean(0)
    points = g.sample_features[e].numpy() - center.astype(np.float32)
    basis = np.linalg.svd(means, full_matrices=False)[2][: len(means) - 1]
    some = points[:: max(1, -(-len(points) // AXES_FROM))].astype(float)
    basis = _extended(basis, some, most=FREE_AXES)
    basis = _extended(basis, rows, most=len(rows))
    return {
        "means": means @ basis.T,
        "rows": rows @ basis.T,
        "pair_means": (g.set_means[e].double().numpy()[pairs] - center) @ basis.T,
        "origin": (center @ basis.T)[None],
        "points": points @ basis.T.astype(np.float32),
    }


def _extended(
    basis: Float[np.ndarray, "r d"], vectors: Float[np.ndarray, "n d"], *, most: int
) -> Float[np.ndarray, "s d"]:
    """The basis with the leading axes of what vectors have outside its span."""
    rest = vectors - (vectors @ basis.T) @ basis
    sizes, axes = np.linalg.svd(rest, full_matrices=False)[1:]
    kept = sizes[:most] > 1e-6 * max(np.linalg.norm(vectors), 1e-30)
    return np.concatenate([basis, axes[:most][kept]])


def _follow(reduced: list[Arrays]) -> None:
    """Turn the leading two axes of each checkpoint, and give all others the sign, to be most like the next one's."""
    for arrays, after in zip(reduced[-2::-1], reduced[:0:-1], strict=True):
        r = min(arrays["means"].shape[1], after["means"].shape[1])
        likeness = (arrays["points"][:, :r] * after["points"][:, :r]).sum(0)
        turn = np.diag(np.where(np.arange(arrays["means"].shape[1]) < r, 1.0, 0.0))
        turn[np.arange(r), np.arange(r)] = np.where(likeness < 0, -1.0, 1.0)
        turn[np.arange(r, len(turn)), np.arange(r, len(turn))] = 1.0
        lead = min(2, r)
        u, _, v = np.linalg.svd(arrays["means"][:, :lead].T @ after["means"][:, :lead])
        turn[:lead, :lead] = u @ v
        for name, array in arrays.items():
            arrays[name] = array @ turn.astype(array.dtype)


def _padded(array: np.ndarray, width: int) -> np.ndarray:
    return np.pad(array, ((0, 0), (0, width - array.shape[1])))


def _of_points(g: Geometry, e: int, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The predicted label set of each feature of the sample (as many labels as it has), and its cosine margin.

    The margin is that of the angle between centered feature and centered rows, so it lies between -2 and 2; NaN for
    several labels.
    """
    points, weight = g.sample_features[e].numpy(), g.weight[e].numpy()
    logits = points @ weight.T + g.bias[e].numpy()
    top = np.argsort(-logits, axis=1)[:, : labels.shape[1]].astype(np.uint16)
    absent = labels[:, : top.shape[1]] == NO_LABEL
    predicted = np.where(absent, NO_LABEL, np.sort(np.where(absent, NO_LABEL, top), axis=1))
    centered = points - g.class_means[e].numpy().mean(0)
    cosines = unit(centered) @ unit(weight - weight.mean(0)).T
    own = labels[:, 0].astype(int)
    at = np.arange(len(cosines))
    of_own = cosines[at, own]
    cosines[at, own] = -np.inf
    several = ~absent[:, 1:].all(1)
    return predicted.astype(np.uint16), np.where(several, np.nan, of_own - cosines.max(1)).astype(np.float32)


def _set_fits(g: Geometry, e: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each label set: the scale of its own tag-wise average, and how far it is off the average scaled with C_m."""
    sets, means = g.label_sets.double().numpy(), g.set_means[e].double().numpy()
    sums = sets @ g.class_means[e].double().numpy()
    own = (means * sums).sum(1) / np.maximum((sums * sums).sum(1), 1e-30)
    common = g.scales[e].numpy()[sets.sum(1).astype(int) - 1]
    away = np.linalg.norm(means - common[:, None] * sums, axis=1)
    return own, away / np.maximum(np.linalg.norm(means, axis=1), 1e-30)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-30)
