"""Each theorem of the papers as one number: how far free minimizations and critical points are from what it says.

All are on unconstrained features, in float64, with so few classes that they take seconds; notebook 00 shows the same
at length.
"""

from functools import cache

import torch

from nclib import theory
from nclib.theory import Minimization

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
COLLAPSE = ("nc1", "nc2_w_centered", "nc2_h_centered", "nc3_centered")


@cache
def _minima(loss: str) -> list[Minimization]:
    """Where descents end, one from a random start in each setting."""
    generator = torch.Generator().manual_seed(0)
    return [theory.minimize(K, **DECAYS, **setting, generator=generator) for setting in SETTINGS[loss]]


def _gap(loss: str) -> float:
    return max(abs(found.gap) for found in _minima(loss))


def _largest(loss: str, *metrics: str) -> float:
    return max(found.collapse().get(metric, 0.0) for found in _minima(loss) for metric in metrics)


def pal_minimum() -> float:
    """Largest relative distance of a minimum of pick-all-label cross-entropy from the predicted one."""
    return _gap("pal")


def pal_collapse() -> float:
    """Largest NC1, NC2 (of means and of the classifier) and NC3 at those minima."""
    return _largest("pal", *COLLAPSE)


def pal_tag_wise() -> float:
    """Largest 1 - cos between a label set's mean and the sum of its labels' means at those minima."""
    return _largest("pal", "tag_wise_cosine_residual_2", "tag_wise_cosine_residual_3")


def pal_scales() -> float:
    """Largest distance of a scale C_m of the tag-wise average from the predicted one at those minima."""
    return max(abs(c - found.minimum.scales[m]) for found in _minima("pal") for m, c in found.scales.items())


def mse_minimum() -> float:
    """As `pal_minimum`, of the squared error."""
    return _gap("mse")


def mse_collapse() -> float:
    """As `pal_collapse`, of the squared error."""
    return _largest("mse", *COLLAPSE)


def mse_saddles() -> float:
    """Largest of the smallest Hessian eigenvalues at critical points of the squared error that are no minima.

    Below 0 if all of them are strict saddles: all zeros, and the best points that leave feature dimensions unused.
    """
    generator = torch.Generator().manual_seed(0)
    problem = theory.Problem(num_classes=K, **DECAYS, **SETTINGS["mse"][0])
    points = [theory.trivial_point(problem, feature_dim=K)]
    for rank in range(1, K - 1):
        points.append(theory.rank_deficient_point(problem, feature_dim=K, rank=rank, generator=generator))
    return max(theory.most_negative_curvature(problem, point, generator=generator).eigenvalue for point in points)
