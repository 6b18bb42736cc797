"""The data terms of a label histogram, as convex functions of the logits with their conjugates.

Arrays are NumPy's, float64, with one **column** for each label set. A term has the losses `L` of the sets, their slopes
`U` (gradients with respect to the logits), the curvature there, and the convex conjugate `L*(U) = sup_z <U, z> - L(z)`.
docs/theory.md writes them out.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import expit, xlogy

Array = np.ndarray


class CrossEntropy:
    """`w (log Σ_j exp z_j - <t, z>)`: w the weight of a set, t the uniform distribution on its labels.

    Its slopes are `w (P - t)` with P the softmax.
    """

    def __init__(self, targets: Array, weights: Array):
        self.targets, self.weights = targets, weights

    def of(self, sets: slice) -> "CrossEntropy":
        """The term of some of the sets."""
        return type(self)(self.targets[:, sets], self.weights[sets])

    def __call__(self, logits: Array) -> tuple[Array, Array]:
        """Losses (s) and slopes (k s)."""
        top = logits.max(0)
        powers = np.exp(logits - top)
        sums = powers.sum(0)
        losses = np.log(sums) + (self.targets * (top - logits)).sum(0)
        return self.weights * losses, self.weights * (powers / sums - self.targets)

    def curvature(self, slopes: Array) -> Callable[[Array], Array]:
        """The product of the Hessians at these slopes with one or more moves of the logits (... k s)."""
        shares = self._shares(slopes)

        def product(moves: Array) -> Array:
            moved = shares * moves
            return self.weights * (moved - shares * moved.sum(-2, keepdims=True))

        return product

    def diagonal(self, slopes: Array) -> Array:
        """The diagonals of the Hessians (k s)."""
        shares = self._shares(slopes)
        return self.weights * shares * (1 - shares)

    def conjugate(self, slopes: Array) -> Array:
        """`w Σ_j P_j log P_j`, finite where P = U/w + t is a distribution."""
        shares = self._shares(slopes)
        return self.weights * xlogy(shares, shares).sum(0)

    def balanced(self, slopes: Array, portions: Array) -> Array:
        """Slopes nearby whose mean over the samples is 0: every P is mixed with what makes up for it."""
        mass = self.weights * portions
        excess, total = slopes @ portions, self._shares(slopes) @ mass
        part = min(1.0, (excess / total).max())
        if part <= 0:
            return slopes
        other = (total - excess / part) / mass.sum()
        return slopes + part * (self.weights * (other[:, None] - self.targets) - slopes)

    def _shares(self, slopes: Array) -> Array:
        return np.maximum(slopes / self.weights + self.targets, 0)


class SquaredError(CrossEntropy):
    """`(w/K) (|z|² - 2 <t, z> + 1)`; the slopes are `(2w/K) (z - t)`."""

    def __call__(self, logits: Array) -> tuple[Array, Array]:
        """Losses (s) and slopes (k s)."""
        losses = (logits * (logits - 2 * self.targets)).sum(0) + 1
        w = self.weights / len(logits)
        return w * losses, 2 * w * (logits - self.targets)

    def curvature(self, slopes: Array) -> Callable[[Array], Array]:
        """As `CrossEntropy.curvature`."""
        return lambda moves: 2 * self.weights / len(slopes) * moves

    def diagonal(self, slopes: Array) -> Array:
        """As `CrossEntropy.diagonal`."""
        return np.broadcast_to(2 * self.weights / len(slopes), slopes.shape)

    def conjugate(self, slopes: Array) -> Array:
        """`<U, t> + K |U|²/(4w) - (w/K) (1 - |t|²)`, finite everywhere."""
        w = self.weights / len(slopes)
        least = w * (1 - np.square(self.targets).sum(0))
        return (slopes * self.targets).sum(0) + np.square(slopes).sum(0) / (4 * w) - least

    def balanced(self, slopes: Array, portions: Array) -> Array:
        """Slopes nearby whose mean over the samples is 0."""
        return slopes - (slopes @ portions)[:, None]


class BinaryCrossEntropy(CrossEntropy):
    """`(1/K) Σ_j softplus(z_j) - y_j z_j` with targets y of 0 and 1; the slopes are `(P - y)/K`, P the sigmoid."""

    def __call__(self, logits: Array) -> tuple[Array, Array]:
        """Losses (s) and slopes (k s)."""
        losses = np.logaddexp(0, (1 - 2 * self.targets) * logits)
        return losses.mean(0), (expit(logits) - self.targets) / len(logits)

    def curvature(self, slopes: Array) -> Callable[[Array], Array]:
        """As `CrossEntropy.curvature`."""
        diagonal = self.diagonal(slopes)
        return lambda moves: diagonal * moves

    def diagonal(self, slopes: Array) -> Array:
        """As `CrossEntropy.diagonal`."""
        shares = self._shares(slopes)
        return shares * (1 - shares) / len(slopes)

    def conjugate(self, slopes: Array) -> Array:
        """`(1/K) Σ_j P_j log P_j + (1 - P_j) log(1 - P_j)`, finite where P = K U + y lies in [0, 1]."""
        shares = self._shares(slopes)
        return (xlogy(shares, shares) + xlogy(1 - shares, 1 - shares)).mean(0)

    def balanced(self, slopes: Array, portions: Array) -> Array:
        """Slopes nearby whose mean over the samples is 0: mixed class by class."""
        excess, total = len(slopes) * (slopes @ portions), self._shares(slopes) @ portions
        part = np.minimum(1, np.maximum(excess / total, -excess / (1 - total)))
        other = total - np.divide(excess, part, out=np.zeros_like(part), where=part > 0)
        return slopes + part[:, None] * ((other[:, None] - self.targets) / len(slopes) - slopes)

    def _shares(self, slopes: Array) -> Array:
        return np.clip(len(slopes) * slopes + self.targets, 0, 1)


Term = CrossEntropy  # or one of its kind
