"""The global minimum for any label sets and counts, with a lower bound that proves it.

Without balance no formula is known, but the problem is convex in the logits (docs/theory.md): a descent finds its
minimum, and the dual of any point bounds it from below. Nothing has to be believed of the solver.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Integer, Shaped, UInt8
from torch import Tensor

from nclib.metrics.tag_wise import angles_degrees
from nclib.theory.factored import Factored
from nclib.theory.fixed import minimize_features
from nclib.theory.histogram import Array, BinaryCrossEntropy, CrossEntropy, Histogram, SquaredError
from nclib.theory.problem import check_decays

LOSSES = ("cross_entropy", "mse", "binary_cross_entropy")
ABSENT = 1e-9  # singular values and vectors below this share of the largest are rounding
TIE = 1e-9  # logits that differ by less are equal


@dataclass(frozen=True, kw_only=True, eq=False)
class CertifiedMinimum:
    """A minimum of the unconstrained-feature problem of a label histogram, float64.

    Every minimizer has these logits, angles and norms; features and classifier are unique up to a common rotation.

    Args:
        label_sets: the label sets, multi-hot, as given.
        counts: samples of each.
        weight: the classifier W, with as few columns as the minimum needs.
        features: the feature of all samples of each label set.
        bias: b, of the optimal ones the smallest.
        value: the objective, penalties included.
        lower_bound: no point of the problem lies below it, to float64's rounding.
        data_loss: the data term alone (what a training log calls the loss).
    """

    label_sets: UInt8[Tensor, "s k"]
    counts: Integer[Tensor, " s"]
    weight: Float64[Tensor, "k d"]
    features: Float64[Tensor, "s d"]
    bias: Float64[Tensor, " k"]
    value: float
    lower_bound: float
    data_loss: float

    @property
    def gap(self) -> float:
        """`(value - lower_bound) / |value|`: how far the value can be from the minimum; 0, to rounding, at it."""
        return (self.value - self.lower_bound) / abs(self.value)

    @property
    def logits(self) -> Float64[Tensor, "s k"]:
        """The logits of each label set, bias included."""
        return self.features @ self.weight.T + self.bias

    @property
    def singular_values(self) -> Float64[Tensor, " r"]:
        """Those of `W Hᵀ` over all samples, descending; those beyond the columns of W are 0."""
        return torch.linalg.svdvals(self.weight @ self.features.T * self.counts.double().sqrt())[: self.weight.shape[1]]

    @property
    def is_zero(self) -> bool:
        """Whether the decays are so large that no feature carries a label."""
        return not self.features.any()

    @property
    def class_means(self) -> Float64[Tensor, "k d"]:
        """Means of the features with one label; NaN for a class without any."""
        shares = self.label_sets.T * ((self.label_sets.sum(1) == 1) * self.counts.double())
        return (shares / shares.sum(1, keepdim=True)) @ self.features

    def angles_of_means(self) -> Float64[Tensor, "k k"]:
        """Angles between the class means minus their mean, in degrees: `arccos(-1/(K-1))` for an ETF.

        Vectors that are 0 are 0 degrees apart; their angles to others mean nothing.
        """
        return _angles(self.class_means)

    def angles_of_classifier(self) -> Float64[Tensor, "k k"]:
        """Angles between the rows of the classifier minus their mean, in degrees."""
        return _angles(self.weight)

    def distance_of_classifier(self, weight: Float[Tensor, "k d"]) -> Float64[Tensor, ""]:
        """`|G/|G|_F - G*/|G*|_F|_F` of a Gram matrix to that here, rows centered: `nc2_w_centered` to this geometry."""
        return _gram_distance(weight, self.weight)

    def distance_of_means(self, class_means: Float[Tensor, "k d"]) -> Float64[Tensor, ""]:
        """That distance of class means from those here."""
        return _gram_distance(class_means, self.class_means)

    def tag_wise(self) -> tuple[Float64[Tensor, " s"], Float64[Tensor, " s"]]:
        """`C_S` and relative residual of `h_S ~ C_S Σ_{k in S} mu_k` for each set; NaN where a class has no mean."""
        sums = self._tag_sums()
        scales = (self.features * sums).sum(1) / sums.square().sum(1)
        residuals = (self.features - scales[:, None] * sums).norm(dim=1) / self.features.norm(dim=1)
        return scales, residuals

    @property
    def scales(self) -> dict[int, float]:
        """m -> `C_m`, the least-squares scale over all sets of m labels, each once (`nclib.metrics.tag_wise_scale`)."""
        sums, sizes, found = self._tag_sums(), self.label_sets.sum(1), {}
        for m in sizes[sizes > 0].unique().tolist():
            rows = (sizes == m) & sums.isfinite().all(1)
            if (squares := sums[rows].square().sum().item()) > 0:
                found[m] = (self.features[rows] * sums[rows]).sum().item() / squares
        return found

    @property
    def soft_iou(self) -> float:
        """The mean over samples of the softmax's share on their labels (what a training log calls IoU)."""
        return self._mean((self.logits.softmax(1) * self.label_sets).sum(1))

    @property
    def set_accuracy(self) -> float:
        """The share of samples whose m labels have the m largest logits; equal logits count as wrong."""
        on = self.logits.where(self.label_sets == 1, math.inf).amin(1)
        off = self.logits.where(self.label_sets == 0, -math.inf).amax(1)
        return self._mean((on > off + TIE).double())

    def _tag_sums(self) -> Float64[Tensor, "s d"]:
        means, sets = self.class_means, self.label_sets.double()
        unknown = (sets @ means.isnan().any(1).double()) > 0
        return (sets @ means.nan_to_num()).where(~unknown[:, None], math.nan)

    def _mean(self, values: Float64[Tensor, " s"]) -> float:
        """Over the samples that have labels."""
        weights = self.counts * (self.label_sets.sum(1) > 0)
        return ((values * weights).sum() / weights.sum()).item()


def certified_minimum(
    label_sets: Shaped[Tensor, "s k"],
    counts: Shaped[Tensor, " n"],
    *,
    weight_decay: float,
    feature_decay: float,
    bias_decay: float = 0.0,
    loss: str = "cross_entropy",
    label_mean: bool = False,
    tolerance: float = 1e-10,
) -> CertifiedMinimum:
    """The global minimum over classifier, bias and one feature for each label set, for any counts.

    `(1/N) Σ_S n_S L(W h_S + b, S) + λ_W |W|² + λ_H Σ_S n_S |h_S|² + λ_b |b|²`, in any feature dimension that has
    room for it (`weight.shape[1]`, at most K and the number of sets). Samples of one set have equal features at the
    minimum; with balanced counts it is `global_minimum`.

    Source: docs/theory.md derives problem, dual and bound; nuclear norms for deep features, Zhu et al. 2021.

    Args:
        label_sets: multi-hot, each set once (or several times, which changes nothing).
        counts: samples of each set, at least 1.
        weight_decay, feature_decay: λ_W > 0, λ_H > 0; nothing is halved, |H|² is a sum over the samples.
        bias_decay: λ_b >= 0; `math.inf` means a classifier without bias.
        loss: pick-all-label "cross_entropy" or "mse" (as in `Problem`), or "binary_cross_entropy", the mean over the K
            classes of `softplus(z_j) - y_j z_j`.
        label_mean: mean over a sample's labels instead of the sum; means nothing to the last loss.
        tolerance: the relative gap to reach; the one reached is `.gap`.

    Raises:
        ValueError: for labels, counts or decays out of range, or a bias that would run off to infinity.

    >>> sets = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0]])
    >>> counts = torch.tensor([90, 30, 2, 2, 5])
    >>> minimum = certified_minimum(sets, counts, weight_decay=5e-3, feature_decay=1e-2)
    >>> print(f"{minimum.value:.8f} >= minimum >= {minimum.lower_bound:.8f}")
    0.49373301 >= minimum >= 0.49373301
    >>> print(f"the rare classes are {minimum.angles_of_classifier()[2, 3]:.3f} degrees apart")
    the rare classes are 0.000 degrees apart
    """
    decays = {"weight_decay": weight_decay, "feature_decay": feature_decay, "bias_decay": bias_decay}
    histogram = _histogram(label_sets, counts, **decays, loss=loss, label_mean=label_mean)
    W, V, b = Factored(histogram).minimize(tolerance=tolerance)
    # the singular directions: as few columns as the minimum needs, and both penalties equal
    left, values, right = np.linalg.svd(W @ V, full_matrices=False)
    values = values * (values > ABSENT * max(values[0], math.sqrt(histogram.num_samples)))
    kept = max(1, np.count_nonzero(values))
    balance = (feature_decay / weight_decay) ** 0.25
    W = left[:, :kept] * (np.sqrt(values[:kept]) * balance)
    V = right[:kept] * (np.sqrt(values[:kept]) / balance)[:, None]
    return _result(histogram, label_sets, W, V, b, penalty=weight_decay * np.vdot(W, W))


def certified_fixed_head(
    weight: Float[Tensor, "c d"],
    label_sets: Shaped[Tensor, "s k"],
    counts: Shaped[Tensor, " n"],
    *,
    nonnegative: bool = False,
    tolerance: float = 1e-10,
    **settings: Any,
) -> CertifiedMinimum:
    """The global minimum over bias and features for a fixed classifier, for any counts; its penalty is not counted.

    Args:
        weight: the classifier: a simplex ETF, or any other.
        nonnegative: allow only features >= 0, as they leave a ReLU.
        label_sets, counts, tolerance: as for `certified_minimum`.
        settings: `feature_decay` and the others of `certified_minimum` but `weight_decay`.

    Raises:
        ValueError: as `certified_minimum`, and for a weight of other classes or without finite entries.
    """
    if weight.shape[0] != label_sets.shape[1] or not weight.isfinite().all():
        raise ValueError(
            f"Expected a finite weight with {label_sets.shape[1]} rows, as many as classes, "
            f"but got shape {tuple(weight.shape)}."
        )
    histogram = _histogram(label_sets, counts, weight_decay=1.0, **settings)  # which is not used
    W = weight.double().numpy()
    features, b, slopes = minimize_features(histogram, W, nonnegative=nonnegative, tolerance=tolerance)
    bound = histogram.lower_bound(slopes, head=W, nonnegative=nonnegative)
    return _result(histogram, label_sets, W, features * histogram.roots, b, lower_bound=bound)


def _histogram(
    label_sets: Tensor,
    counts: Tensor,
    *,
    weight_decay: float,
    feature_decay: float,
    bias_decay: float = 0.0,
    loss: str = "cross_entropy",
    label_mean: bool = False,
) -> Histogram:
    """The checked problem."""
    if loss not in LOSSES:
        raise ValueError(f"Expected loss to be one of {', '.join(LOSSES)}, but got {loss!r}.")
    check_decays(weight_decay, feature_decay, bias_decay)
    if label_sets.ndim != 2 or label_sets.shape[1] < 2 or counts.shape != label_sets.shape[:1] or not len(counts):
        raise ValueError(
            "Expected label_sets (s, k) with k >= 2 and counts (s,), s >= 1, "
            f"but got {tuple(label_sets.shape)} and {tuple(counts.shape)}."
        )
    if not ((label_sets == 0) | (label_sets == 1)).all():
        raise ValueError("Expected multi-hot label_sets of zeros and ones.")
    if not (counts >= 1).all():
        raise ValueError(f"Expected counts of at least 1, but got {counts.min().item()}.")
    labels, sizes = label_sets.T.double().numpy(), label_sets.sum(1).double().numpy()
    if loss != "binary_cross_entropy" and not sizes.all():
        raise ValueError(
            f"Expected every label set to have a label for loss {loss!r}, but set {sizes.argmin()} has none."
        )
    never = np.flatnonzero(~labels.any(1) | (labels.all(1) & (loss == "binary_cross_entropy")))
    if bias_decay == 0 and loss != "mse" and len(never):
        raise ValueError(
            f"Expected bias_decay > 0, or every class in some of the label sets, but not in all: the bias of class "
            f"{never[0]} has no minimum."
        )
    weights = np.ones_like(sizes) if label_mean else sizes
    if loss == "cross_entropy":
        term = CrossEntropy(labels / sizes, weights)
    elif loss == "mse":
        term = SquaredError(labels / sizes, 2 * weights / len(labels))
    else:
        term = BinaryCrossEntropy(labels, np.full_like(sizes, 1 / len(labels)))
    return Histogram(term, counts.double().numpy(), weight_decay, feature_decay, bias_decay)


def _result(
    histogram: Histogram,
    label_sets: Tensor,
    W: Array,
    V: Array,
    b: Array,
    *,
    penalty: float = 0.0,
    lower_bound: float | None = None,
) -> CertifiedMinimum:
    data, slopes, _ = histogram.data(W, V, b)
    penalty += histogram.feature_decay * np.vdot(V, V) + histogram.of_bias * (b @ b)  # pyright: ignore[reportAssignmentType]
    return CertifiedMinimum(
        label_sets=label_sets.to(torch.uint8),
        counts=torch.from_numpy(histogram.counts).long(),
        weight=torch.from_numpy(np.ascontiguousarray(W)),
        features=torch.from_numpy(np.ascontiguousarray((V / histogram.roots).T)),
        bias=torch.from_numpy(b),
        value=float(data + penalty),
        lower_bound=histogram.lower_bound(slopes) if lower_bound is None else lower_bound,
        data_loss=float(data),
    )


def _angles(rows: Float64[Tensor, "k d"]) -> Float64[Tensor, "k k"]:
    rows = rows - rows.nanmean(0)
    norms = rows.norm(dim=1)
    zero = norms < ABSENT * norms.nan_to_num().max()
    angles = angles_degrees(rows[:, None].expand(-1, len(rows), -1), rows[None].expand(len(rows), -1, -1))
    return angles.where(~(zero[:, None] & zero), 0.0)


def _gram_distance(a: Float[Tensor, "k d"], b: Float[Tensor, "k c"]) -> Float64[Tensor, ""]:
    centered = [rows.double() - rows.double().mean(0) for rows in (a, b)]
    first, second = (rows @ rows.T for rows in centered)
    return (first / first.norm() - second / second.norm()).norm()
