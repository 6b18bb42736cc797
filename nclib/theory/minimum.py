"""The global minimum of the unconstrained-feature problem, with a trained classifier or with a fixed simplex ETF."""

import math
from collections.abc import Mapping
from typing import Any

from nclib.theory.problem import Loss, Problem
from nclib.theory.reduced import GlobalMinimum, solve


def global_minimum(
    num_classes: int,
    counts: Mapping[int, int],
    *,
    weight_decay: float,
    feature_decay: float,
    bias_decay: float = 0.0,
    label_mean: bool = False,
    loss: Loss = "cross_entropy",
) -> GlobalMinimum:
    """The global minimum over classifier, bias and free features, to about 1e-14 relative.

    `min_{s,a} (1/N) Σ_m N_m ω_m l_m(a_m) + λ_W s² (K-1) + (λ_H/s²) Σ_m q_m a_m²` with `N_m = n_m C(K,m)`,
    `q_m = N_m mK/(K-m)`, ω_m = m (1 with `label_mean`) and, for cross-entropy, `l_m(a) = log(m + (K-m)
    exp(-aK/(K-m)))`. It is 0 in a exactly if `Σ_m N_m ω_m² (K-m)/(mK) <= 4 λ_W λ_H N² (K-1)`
    (cross-entropy).

    Source: the theorems on global optimality of arXiv 2310.15903 (PAL cross-entropy; with single labels that is
    cross-entropy, Zhu et al. 2021) and arXiv 2203.01238 (MSE, there with `1/(2N)` and halved penalties). One argument
    for all of them is in docs/theory.md.

    Args, Raises: as `Problem`.

    >>> minimum = global_minimum(10, {1: 5, 2: 1, 3: 1}, weight_decay=5e-3, feature_decay=1.5e-4)
    >>> print(f"{minimum.value:.10f}")
    2.6539369659
    """
    problem = Problem(
        num_classes=num_classes,
        counts=counts,
        weight_decay=weight_decay,
        feature_decay=feature_decay,
        bias_decay=bias_decay,
        label_mean=label_mean,
        loss=loss,
    )
    return solve(problem)


def fixed_head_minimum(
    num_classes: int,
    counts: Mapping[int, int],
    *,
    row_norm: float = 1.0,
    nonnegative: bool = False,
    **settings: Any,
) -> GlobalMinimum:
    """The global minimum over bias and free features when the classifier is a fixed simplex ETF.

    The problem falls apart into one convex problem per sample, so there is one scalar equation for each
    multiplicity, and `s² = row_norm² K/(K-1)` is given. There is no threshold: the logits are never 0. The
    penalty of the fixed classifier is not counted.

    Features that end in a ReLU cannot be the min-norm ones, whose sum is 0. For the unrotated ETF with d >= K the best
    features >= 0 are `α_m 1_S`, and 0 in the further dimensions, which the frame does not see: the same logits cost
    K/(K-m) times the squared norm, and the tag-wise average stays exact.

    Source: the fixed-classifier arms of both papers; the derivation is in docs/theory.md.

    Args:
        num_classes, counts: as for `Problem`.
        row_norm: the norm of the classifier's rows.
        nonnegative: allow only features >= 0, for the classifier `row_norm sqrt(K/(K-1)) (I - 11ᵀ/K)`, with columns of
            zeros for d > K.
        settings: `feature_decay` and the others of `Problem` but `weight_decay`.

    >>> minimum = fixed_head_minimum(3, {1: 4, 2: 2}, feature_decay=1e-3)
    >>> print(f"s² = {minimum.etf_scale**2:.3f}, a_1 = {minimum.logits[1]:.3f}, C_2 = {minimum.scales[2]:.3f}")
    s² = 1.500, a_1 = 2.343, C_2 = 0.856
    """
    if not 0 < row_norm < math.inf:
        raise ValueError(f"Expected row_norm > 0, but got {row_norm}.")
    # the weight decay is not used: the classifier does not move
    problem = Problem(num_classes=num_classes, counts=counts, weight_decay=1.0, **settings)
    return solve(problem, squared_scale=row_norm**2 * num_classes / (num_classes - 1), nonnegative=nonnegative)
