"""Each theorem of the papers as one number: how far free minimizations and critical points are from what it says.

All are on unconstrained features, in float64, with so few classes that they take seconds; notebook 00 shows the same
at length.
"""

from functools import cache

import torch

from nclib import theory

K = 4
DECAYS = {"weight_decay": 2e-3, "feature_decay": 1e-3}
SETTINGS = {
    "pal": (  # multiplicities that occur equally often, and not
        {"counts": {1: 3, 2: 3, 3: 3}, "bias_decay": 1e-3},
        {"counts": {1: 8, 2: 3, 3: 1}},
        {"counts": {1: 2, 2: 9}, "label_mean": True, "feature_dim": K - 1},
    ),
    "mse": ({"counts": {1: 6}, "loss": "mse"}, {"counts": {1: 6}, "loss": "mse", "feature_dim": K - 1}),
}
METRICS = {
    "collapse": ("nc1", "nc2_w_centered", "nc2_h_centered", "nc3_centered"),
    "tag_wise": ("tag_wise_cosine_residual_2", "tag_wise_cosine_residual_3"),
}


def gap(name: str) -> float:
    """The number of one theorem, the largest over all settings.

    Of pick-all-label cross-entropy (`pal_`) or the squared error (`mse_`), at the ends of descents from random starts:
    `minimum`, the relative distance from the predicted minimum; `collapse`, NC1, NC2 and NC3; `tag_wise`, 1 - cos
    between a label set's mean and the sum of its labels' means; `scales`, the distance of `C_m` from the predicted
    one. And `saddles`: the smallest Hessian eigenvalue at points that are critical and no minima (all zeros, and the
    best ones that leave feature dimensions unused), below 0 if all are strict saddles.
    """
    loss, _, what = name.partition("_")
    if what == "saddles":
        return _largest_escape(theory.Problem(num_classes=K, **DECAYS, **SETTINGS[loss][0]))
    if what == "minimum":
        return max(abs(found.gap) for found in _minima(loss))
    if what == "scales":
        return max(abs(c - found.minimum.scales[m]) for found in _minima(loss) for m, c in found.scales.items())
    return max(found.collapse().get(metric, 0.0) for found in _minima(loss) for metric in METRICS[what])


@cache
def _minima(loss: str) -> list[theory.Minimization]:
    generator = torch.Generator().manual_seed(0)
    return [theory.minimize(K, **DECAYS, **setting, generator=generator) for setting in SETTINGS[loss]]


def _largest_escape(problem: theory.Problem) -> float:
    generator = torch.Generator().manual_seed(0)
    points = [theory.trivial_point(problem, feature_dim=K)]
    for rank in range(1, K - 1):
        points.append(theory.rank_deficient_point(problem, feature_dim=K, rank=rank, generator=generator))
    return max(theory.most_negative_curvature(problem, point, generator=generator).eigenvalue for point in points)
