"""The unconstrained-feature problem of a label histogram: its objective, and the bound that no point lies below."""

import math
from dataclasses import dataclass

import numpy as np

from nclib.theory.terms import Array, Term


@dataclass(frozen=True, eq=False)
class Histogram:
    """The terms of the label sets, how many samples each has (s), and the decays; λ_b = inf: no bias.

    Points are W (k d), V (d s), whose columns are `sqrt(n_S) h_S`, and b (k).
    """

    term: Term
    counts: Array
    weight_decay: float
    feature_decay: float
    bias_decay: float

    @property
    def num_samples(self) -> float:
        return self.counts.sum()

    @property
    def portions(self) -> Array:
        return self.counts / self.counts.sum()

    @property
    def roots(self) -> Array:
        return np.sqrt(self.counts)

    @property
    def of_bias(self) -> float:
        """The weight of |b|², which stays 0 where there is no bias."""
        return self.bias_decay if self.bias_decay < math.inf else 0.0

    def data(self, W: Array, V: Array, b: Array) -> tuple[float, Array, Array]:
        """The data term, its slopes per sample (k s), and its gradient G with respect to W V (k s)."""
        losses, slopes = self.term(W @ V / self.roots + b[:, None])
        return self.portions @ losses, slopes, slopes * (self.roots / self.num_samples)  # pyright: ignore[reportReturnType]

    def lower_bound(self, slopes: Array, *, head: Array | None = None, nonnegative: bool = False) -> float:
        """The dual value of slopes that are made feasible first, for a free classifier or the fixed one in `head`."""
        if self.bias_decay == 0:
            slopes = self.term.balanced(slopes, self.portions)
        if head is None:
            pull = slopes * (self.roots / self.num_samples)
            norm = math.sqrt(max(np.linalg.eigvalsh(pull @ pull.T)[-1], 0.0))
            threshold = 2 * math.sqrt(self.weight_decay * self.feature_decay)
            slopes = slopes * (threshold / norm if norm > threshold else 1.0)
            of_features = 0.0
        else:
            pushed = head.T @ slopes
            squares = np.square(np.minimum(pushed, 0) if nonnegative else pushed).sum(0)
            of_features = self.portions @ squares / (4 * self.feature_decay * self.num_samples)
        mean = slopes @ self.portions
        of_bias = mean @ mean / (4 * self.of_bias) if self.of_bias else 0.0
        return float(-(self.portions @ self.term.conjugate(self.term.shares(slopes))) - of_features - of_bias)
