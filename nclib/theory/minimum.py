"""The global minimum for balanced labels, with a trained classifier or with a fixed simplex ETF.

It follows from a reduced problem, of one logit for each multiplicity instead of all weights and features, which
docs/theory.md derives. By the variational form of the nuclear norm, `min λ_W|W|² + λ_H|H|²` over `W Hᵀ = Z` is
`2 sqrt(λ_W λ_H) |Z|_*`; what is left is convex in Z and unchanged by a permutation of the classes, so some optimal Z is
unchanged, too: centered logits `a_m` on the label set and `-m a_m/(K-m)` off it, plus a mean logit `e_m`. Its singular
values then are known, and the stationarity conditions have one unknown each, monotone in it: a bracketing root finder
meets it to the last bits.
"""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from scipy.optimize import brentq

from nclib.theory.problem import Loss, Problem


@dataclass(frozen=True, kw_only=True)
class GlobalMinimum:
    """The global minimum of an unconstrained-feature problem; every global minimizer has these values.

    Args:
        num_classes: K.
        value: the objective at the minimum, penalties included.
        data_loss: the data term alone (what a training log calls the loss).
        soft_iou: the mean over samples of the softmax's share on their labels (what a training log calls IoU).
        logits: m -> `a_m`, the centered logit (bias left out) on the labels of a sample with m labels; off
            them it is `-m a_m/(K-m)`.
        mean_logits: m -> `e_m`, the mean over the classes of those logits. 0 save for MSE with a penalized
            or missing bias.
        bias: every entry of the bias that has the smallest norm among the optimal ones (cross-entropy does
            not see a constant).
        etf_scale: s, where the centered classifier has `W Wᵀ = s² (I - 11ᵀ/K)`.
        scales: m -> `C_m`, the least-squares scale in `mu_S ~ C_m Σ_{k in S} mu_k`; empty where there are
            no class means to compare with (no samples with one label, or a zero optimum).
        feature_norms: m -> |h_S|.
        min_feature_dim: the smallest feature dimension that attains the minimum, K - 1 (K where the mean
            logits are not 0).
    """

    num_classes: int
    value: float
    data_loss: float
    soft_iou: float
    logits: dict[int, float]
    mean_logits: dict[int, float]
    bias: float
    etf_scale: float
    scales: dict[int, float]
    feature_norms: dict[int, float]
    min_feature_dim: int

    @property
    def is_zero(self) -> bool:
        """Whether the decays are so large that no feature carries a label: all centered logits are 0."""
        return not any(self.logits.values())


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


def solve(problem: Problem, *, squared_scale: float | None = None, nonnegative: bool = False) -> GlobalMinimum:
    """Solve the reduced problem, for a free classifier or (with `squared_scale` = s²) for a fixed ETF."""
    K, N, lw, lh = problem.num_classes, problem.num_samples, problem.weight_decay, problem.feature_decay
    shares = {m: problem.counts[m] * math.comb(K, m) / N for m in problem.multiplicities}
    # squared centered logits of a sample = spread[m] a_m², squared norm of its features = cost[m] a_m² / s²
    spread = {m: m * K / (K - m) for m in shares}
    cost = {m: spread[m] * K / (K - m) if nonnegative else spread[m] for m in shares}

    def centered(kappa: float) -> dict[int, float]:
        return {m: _centered_logit(problem, m, kappa * cost[m] / spread[m]) for m in shares}

    def norm(a: dict[int, float]) -> float:
        return math.sqrt(N * sum(shares[m] * spread[m] * a[m] ** 2 for m in shares))

    def mean_norm(e: dict[int, float]) -> float:
        return math.sqrt(N * K * sum(shares[m] * e[m] ** 2 for m in shares))

    # κ = λ_H/s² for the centered logits; a second one for the mean logits, which only the squared error sees
    mean_kappa = math.inf
    if squared_scale is not None:
        kappa = lh / squared_scale
    else:
        kappa = _balance(
            lambda k: k * norm(centered(k)),
            target=math.sqrt(lw * lh * (K - 1)),
            limit=norm({m: _pull(problem, m) for m in shares}),
        )
        if problem.loss == "mse":
            missing = 1 / K - _mean_logits(problem, math.inf)[1]
            mean_kappa = _balance(
                lambda k: k * mean_norm(_mean_logits(problem, k)[0]),
                target=math.sqrt(lw * lh),
                limit=mean_norm({m: missing * problem.label_weight(m) / (K * N) for m in shares}),
            )
    a = centered(kappa) if kappa < math.inf else dict.fromkeys(shares, 0.0)
    e, beta = _mean_logits(problem, mean_kappa)
    s2, mean_s2 = lh / kappa, lh / mean_kappa

    squares = {m: _over(cost[m] * a[m] ** 2, s2) + _over(K * e[m] ** 2, mean_s2) for m in shares}
    data_loss = sum(shares[m] * problem.label_weight(m) * _loss(problem, m, a[m], e[m] + beta) for m in shares)
    penalty = lh * N * sum(shares[m] * squares[m] for m in shares)
    if squared_scale is None:
        penalty += lw * (s2 * (K - 1) + mean_s2)
    if beta:
        penalty += problem.bias_decay * K * beta**2

    scales = {}
    if 1 in shares and (a[1] or e[1]):
        for m in shares:  # inner products of h_S, and of the sum of its tags' means, with that sum
            tags = a[1] * (K - m) / (K - 1)  # the centered logit of the sum
            cross = _over(cost[m] * a[m] * tags, s2) + _over(K * m * e[m] * e[1], mean_s2)
            scales[m] = cross / (_over(cost[m] * tags**2, s2) + _over(K * (m * e[1]) ** 2, mean_s2))
    return GlobalMinimum(
        num_classes=K,
        value=data_loss + penalty,
        data_loss=data_loss,
        soft_iou=sum(shares[m] * m / (m + (K - m) * math.exp(-a[m] * K / (K - m))) for m in shares),
        logits=a,
        mean_logits=e,
        bias=beta,
        etf_scale=math.sqrt(s2),
        scales=scales,
        feature_norms={m: math.sqrt(squares[m]) for m in shares},
        min_feature_dim=K - 1 + any(e.values()),
    )


def bias_at_zero(problem: Problem) -> float:
    """Every entry of the best bias where all features are 0."""
    return _mean_logits(problem, math.inf)[1]


def _loss(problem: Problem, m: int, a: float, mean: float) -> float:
    """The loss averaged over the labels of a sample with centered logit `a` and mean logit (bias included) `mean`."""
    K = problem.num_classes
    if problem.loss == "cross_entropy":
        return math.log(m + (K - m) * math.exp(-a * K / (K - m)))
    target = (K - m) / (m * K)
    return (a - target) ** 2 * m / (K - m) + (mean - 1 / K) ** 2 + (1 - 1 / m) / K


def _centered_logit(problem: Problem, m: int, kappa: float) -> float:
    """The `a_m` that minimizes the data term plus `κ q_m a_m²`; κ = λ_H/s²."""
    K, N, weight = problem.num_classes, problem.num_samples, problem.label_weight(m)
    if problem.loss == "mse":
        return (K - m) / (m * K) * weight / (weight + kappa * K * N)
    slope = 2 * kappa * m * K / (K - m)

    # Minus the derivative, for one sample: it falls from weight/N at 0. Its root is bounded by the line above it and,
    # beyond (K-m)/K, by its exponential alone.
    steep = math.log(weight * K**2 / (N * m * (K - m) * slope))
    high = min(weight / (N * slope), (K - m) / K * max(1.0, steep)) * (1 + 1e-9)
    return _root(lambda a: weight / N * K / (m * math.exp(a * K / (K - m)) + K - m) - slope * a, 0.0, high)


def _pull(problem: Problem, m: int) -> float:
    """The limit of `κ a_m` for a large κ: how hard the data pull a logit away from 0."""
    K, N = problem.num_classes, problem.num_samples
    at_zero = problem.label_weight(m) * (K - m) / (m * K * N)
    return at_zero / K if problem.loss == "mse" else at_zero / 2


def _mean_logits(problem: Problem, kappa: float) -> tuple[dict[int, float], float]:
    """The `e_m` and the bias that minimize the squared error's mean part plus `κ K Σ_m N_m e_m²` (CE: 0)."""
    K, N, lb = problem.num_classes, problem.num_samples, problem.bias_decay
    weights = {m: problem.label_weight(m) for m in problem.multiplicities}
    if problem.loss == "cross_entropy":
        return dict.fromkeys(weights, 0.0), 0.0
    kept = {m: 1.0 if kappa == math.inf else kappa * K * N / (w + kappa * K * N) for m, w in weights.items()}
    if lb == math.inf:
        missing = 1 / K
    else:
        stiffness = sum(problem.counts[m] * math.comb(K, m) / N * w * kept[m] for m, w in weights.items())
        missing = lb / (stiffness + lb * K)  # 1/K minus the bias
    return {m: missing * (1 - kept[m]) for m in weights}, 1 / K - missing


def _balance(norm: Callable[[float], float], *, target: float, limit: float) -> float:
    """The κ with `norm(κ) = target` for a `norm` that rises from 0 to `limit`; inf (a zero optimum) if none."""
    if limit <= target:
        return math.inf
    low = high = 1.0
    while norm(high) < target:
        if high > 1e100:  # the limit exceeds the target by rounding only
            return math.inf
        high *= 4
    while norm(low) > target:
        low /= 4
    return _root(lambda k: target - norm(k), low, high)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """The root of a falling function, to the last bits."""
    options: dict[str, Any] = {"xtol": 1e-300, "rtol": 4 * sys.float_info.epsilon, "maxiter": 500}
    return float(cast(float, brentq(function, low, high, **options)))


def _over(numerator: float, denominator: float) -> float:
    """The quotient, where 0/0 (a block that is switched off) is 0."""
    return numerator / denominator if denominator else 0.0
