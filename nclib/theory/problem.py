"""The unconstrained-feature problem: a linear classifier and one free feature vector per sample.

`f(W, H, b) = (1/N) Σ_i L(W h_i + b, S_i) + λ_W |W|_F² + λ_H |H|_F² + λ_b |b|²`, where L is the
pick-all-label loss: the sum (or, with `label_mean`, the mean) over the labels k of sample i of a
single-label loss. Every label set of multiplicity m occurs equally often, which is the symmetry that the
theorems need.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nclib.losses import cross_entropy, mse, pick_all_label

Loss = Literal["cross_entropy", "mse"]
CLASS_LOSSES = {"cross_entropy": cross_entropy, "mse": mse}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The settings of one unconstrained-feature problem.

    Nothing is halved: the penalties are λ|·|_F², not (λ/2)|·|_F², and |H|_F² is a sum over all N samples
    while the data term is a mean. `settings_of_training` translates a training run's settings.

    Source: the unconstrained-feature problems of arXiv 2310.15903 (PAL cross-entropy) and arXiv 2203.01238 (MSE; there
    with `1/(2N)` and halved penalties, see docs/theory.md).

    Args:
        num_classes: K.
        counts: multiplicity m (1 <= m < K) -> number of samples of **each** of the C(K, m) label sets of
            that size.
        weight_decay: λ_W > 0.
        feature_decay: λ_H > 0.
        bias_decay: λ_b >= 0; `math.inf` means a classifier without bias.
        label_mean: mean over a sample's labels instead of the sum.
        loss: the single-label loss: cross-entropy, or the mean over the K classes of `(z_j - [j = k])²`.

    Raises:
        ValueError: for a K, multiplicity, count or decay out of range.
    """

    num_classes: int
    counts: Mapping[int, int]
    weight_decay: float
    feature_decay: float
    bias_decay: float = 0.0
    label_mean: bool = False
    loss: Loss = "cross_entropy"

    def __post_init__(self):
        K = self.num_classes
        if K < 2:
            raise ValueError(f"Expected num_classes >= 2, but got {K}.")
        if not self.counts:
            raise ValueError("Expected counts to hold at least one multiplicity, for example {1: 10}, but got {}.")
        for m, n in self.counts.items():
            if not 1 <= m < K:
                raise ValueError(f"Expected every multiplicity in counts to be in 1..{K - 1} (K = {K}), but got {m}.")
            if n < 1:
                raise ValueError(f"Expected counts[{m}] >= 1 samples per label set, but got {n}.")
        check_decays(self.weight_decay, self.feature_decay, self.bias_decay)
        if self.loss not in CLASS_LOSSES:
            raise ValueError(f"Expected loss 'cross_entropy' or 'mse', but got {self.loss!r}.")

    @property
    def multiplicities(self) -> list[int]:
        """The multiplicities that occur, in rising order."""
        return sorted(self.counts)

    @property
    def num_samples(self) -> int:
        """N, over all label sets."""
        return sum(n * math.comb(self.num_classes, m) for m, n in self.counts.items())

    def label_weight(self, multiplicity: int) -> float:
        """Weight of a sample's label-averaged loss: m when its labels' losses are added up, else 1."""
        return 1.0 if self.label_mean else float(multiplicity)

    def labels(self) -> UInt8[Tensor, "n k"]:
        """All label sets as multi-hot rows, by rising multiplicity, each repeated `counts[m]` times in a row."""
        rows = []
        for m in self.multiplicities:
            ids = torch.tensor(list(combinations(range(self.num_classes), m)))
            sets = torch.zeros(len(ids), self.num_classes, dtype=torch.uint8).scatter_(1, ids, 1)
            rows.append(sets.repeat_interleave(self.counts[m], dim=0))
        return torch.cat(rows)

    def logits(self, W: Float[Tensor, "k d"], H: Float[Tensor, "n d"], b: Float[Tensor, " k"]) -> Float[Tensor, "n k"]:
        """`z = H Wᵀ + b`; without bias (`bias_decay = inf`) `b` is ignored."""
        return H @ W.T + b if self.bias_decay < math.inf else H @ W.T


def check_decays(weight_decay: float, feature_decay: float, bias_decay: float) -> None:
    """Refuse decays for which no minimum is attained."""
    for name, decay in {"weight_decay": weight_decay, "feature_decay": feature_decay}.items():
        if not 0 < decay < math.inf:
            raise ValueError(f"Expected {name} > 0 and finite, but got {decay}: without decay no minimum is attained.")
    if not bias_decay >= 0:
        raise ValueError(f"Expected bias_decay >= 0 (math.inf for no bias), but got {bias_decay}.")


@dataclass(frozen=True)
class Point:
    """A point of the problem's parameter space (float64): classifier `W`, features `H` and bias `b`."""

    W: Float[Tensor, "k d"]
    H: Float[Tensor, "n d"]
    b: Float[Tensor, " k"]

    def moved(self, direction: "Point", *, distance: float) -> "Point":
        """The point at `distance` along `direction`."""
        return Point(*(x + distance * v for x, v in zip(self.tensors, direction.tensors, strict=True)))

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """(W, H, b)."""
        return self.W, self.H, self.b


def data_loss(problem: Problem) -> Callable[[Tensor], Tensor]:
    """The pick-all-label loss of a problem's labels, as a function of the logits (n k) alone."""
    labels = problem.labels()
    loss = pick_all_label(CLASS_LOSSES[problem.loss], label_mean=problem.label_mean)
    return lambda logits: loss(logits, labels)


def objective(problem: Problem) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The function `f(W, H, b)` of a problem, on float64 tensors `W` (k d), `H` (n d), `b` (k).

    The problem's `labels()` fix the order of the rows of `H`. Autograd and `torch.func` can differentiate it.
    """
    loss = data_loss(problem)
    lw, lh, lb = problem.weight_decay, problem.feature_decay, problem.bias_decay

    def f(W: Tensor, H: Tensor, b: Tensor) -> Tensor:
        value = loss(problem.logits(W, H, b)) + lw * W.square().sum() + lh * H.square().sum()
        return value if lb == math.inf else value + lb * b.square().sum()

    return f
