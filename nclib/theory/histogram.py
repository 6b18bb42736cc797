"""The unconstrained-feature problem of a label histogram: its data terms, its objective, the bound below all points.

Arrays are float64, with one **column** for each label set. Every loss here is `L(z) = w (φ(z) - <t, z>)` with a
target t. Then its slopes are `U = w (P - t)` with `P = ∇φ(z)`, its Hessian is `w φ''(z)`, and its convex conjugate
`L*(U) = sup_z <U, z> - L(z)` is `w φ*(P)`. docs/theory.md writes them out.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, xlogy

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Term(ABC):
    """One loss on all label sets, with their targets t (k s) and weights w (s)."""

    targets: Array
    weights: Array
    lowest, highest = -np.inf, np.inf  # of the entries of P
    is_separable = True  # a sum over the classes

    def __call__(self, logits: Array) -> tuple[Array, Array]:
        """Losses (s) and slopes U (k s)."""
        losses, shares = self.values(logits)
        return self.weights * losses, self.weights * (shares - self.targets)

    @abstractmethod
    def values(self, logits: Array) -> tuple[Array, Array]:
        """`φ(z) - <t, z>` (s) and P (k s)."""

    @abstractmethod
    def conjugate(self, shares: Array) -> Array:
        """`w φ*(P)` (s)."""

    @abstractmethod
    def diagonal(self, shares: Array) -> Array:
        """The diagonals of the Hessians at P (k s)."""

    def curved(self, shares: Array, moves: Array) -> Array:
        """The products of the Hessians at P with one or more moves of the logits (... k s)."""
        return self.diagonal(shares) * moves

    def shares(self, slopes: Array) -> Array:
        """P, from U."""
        return np.clip(slopes / self.weights + self.targets, self.lowest, self.highest)

    def balanced(self, slopes: Array, portions: Array) -> Array:
        """Slopes nearby whose mean over the samples is 0: P moved by what is missing, and mixed with its mean."""
        shares, mass = self.shares(slopes), self.weights * portions / (self.weights @ portions)
        mean = shares @ mass
        excess = mean - self.targets @ mass
        part = np.clip(np.maximum(excess / (mean - self.lowest), excess / (mean - self.highest)), 0, 1)
        part = part[:, None] if self.is_separable else part.max()
        return self.weights * (shares + part * (mean[:, None] - shares) - excess[:, None] - self.targets)

    def of(self, sets: slice) -> "Term":
        """The term of some of the sets."""
        return type(self)(self.targets[:, sets], self.weights[sets])


class CrossEntropy(Term):
    """`φ = log Σ_j exp z_j`: P is the softmax, t the uniform distribution on the labels, w the weight of a sample."""

    lowest, is_separable = 0.0, False

    def values(self, logits: Array) -> tuple[Array, Array]:
        logits = logits - logits.max(0)
        powers = np.exp(logits)
        sums = powers.sum(0)
        return np.log(sums) - (self.targets * logits).sum(0), powers / sums

    def conjugate(self, shares: Array) -> Array:
        return self.weights * xlogy(shares, shares).sum(0)

    def diagonal(self, shares: Array) -> Array:
        return self.weights * shares * (1 - shares)

    def curved(self, shares: Array, moves: Array) -> Array:
        moved = shares * moves
        return self.weights * (moved - shares * moved.sum(-2, keepdims=True))


class SquaredError(Term):
    """`φ = (|z|² + 1)/2`: P is z, t the uniform distribution on the labels, w the weight of a sample times 2/K."""

    def values(self, logits: Array) -> tuple[Array, Array]:
        return (logits * (logits / 2 - self.targets)).sum(0) + 0.5, logits

    def conjugate(self, shares: Array) -> Array:
        return self.weights * (np.square(shares).sum(0) - 1) / 2

    def diagonal(self, shares: Array) -> Array:
        return np.broadcast_to(self.weights, shares.shape)


class BinaryCrossEntropy(Term):
    """`φ = Σ_j log(1 + exp z_j)`: P is the sigmoid, t the labels (0 or 1), w is 1/K."""

    lowest, highest = 0.0, 1.0

    def values(self, logits: Array) -> tuple[Array, Array]:
        return np.logaddexp(0, (1 - 2 * self.targets) * logits).sum(0), expit(logits)

    def conjugate(self, shares: Array) -> Array:
        return self.weights * (xlogy(shares, shares) + xlogy(1 - shares, 1 - shares)).sum(0)

    def diagonal(self, shares: Array) -> Array:
        return self.weights * shares * (1 - shares)


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
