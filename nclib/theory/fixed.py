"""Minimizing over features and bias for a fixed classifier: one small convex problem for each label set.

At the minimum `h = -Wᵀ U / (2 λ_H N)`, cut off at 0 where features must not be negative, with U the slopes at the
logits `W h + b`. Newton's method on that equation ascends the dual, set by set; another one finds the bias.
"""

import math
from dataclasses import dataclass

import numpy as np

from nclib.theory.histogram import Array, Histogram, Term

BLOCK = 2**18  # numbers in the matrices of the sets that are solved at once: they stay in the cache
NEWTON_STEPS = 100
HALVINGS = 30


@dataclass(frozen=True)
class Sets:
    """Some label sets of the problem: `term` their losses, `portions` their shares of the N samples.

    `decay` is λ_H N, the weight of |h|² beside a sample's loss.
    """

    term: Term
    portions: Array
    W: Array
    decay: float
    nonnegative: bool

    def at(self, logits: Array, b: Array) -> tuple[Array, Array, Array]:
        """Slopes, the features that they imply, and minus the dual value of each set."""
        slopes = self.term(logits)[1]
        features = self.W.T @ slopes / (-2 * self.decay)
        if self.nonnegative:
            features = np.maximum(features, 0)
        conjugate = self.term.conjugate(self.term.shares(slopes))
        return slopes, features, conjugate + self.decay * np.square(features).sum(0) - b @ slopes

    def solve(self, logits: Array, b: Array, *, tolerance: float) -> tuple[Array, float, Array, Array]:
        """Logits, and the value of the sets with its slope (k) and Hessian (k k) in the bias."""
        slopes, features, dual = self.at(logits, b)
        for _ in range(NEWTON_STEPS):
            missing = self.W @ features + b[:, None] - logits
            values = self.term(logits + missing)[0] + self.decay * np.square(features).sum(0)
            done = values + dual <= tolerance * values.mean()
            matrices = self._matrices(slopes, features)
            step = np.linalg.solve(matrices, missing.T[..., None])[..., 0].T
            if done.all():  # one last step: slopes are only as good as the root of the gap
                logits = logits + step
                break
            gain = (missing * self.term.curved(self.term.shares(slopes), step)).sum(0)
            lengths = np.where(done, 0.0, 1.0)
            for _ in range(HALVINGS):
                slopes, features, lower = self.at(logits + lengths * step, b)
                fails = lower > dual - 1e-4 * lengths * gain + 1e-15 * (1 + np.abs(dual))
                if not fails.any():
                    break
                lengths = np.where(fails, lengths / 2, lengths)
            logits, dual = logits + lengths * step, lower  # pyright: ignore[reportPossiblyUnboundVariable]
        bends = self.term.curved(self.term.shares(slopes), np.linalg.inv(matrices).transpose(2, 1, 0))  # pyright: ignore[reportPossiblyUnboundVariable]
        return logits, self.portions @ values, self.term(logits)[1] @ self.portions, bends @ self.portions  # pyright: ignore[reportPossiblyUnboundVariable, reportReturnType]

    def _matrices(self, slopes: Array, features: Array) -> Array:
        """`I + W_F W_Fᵀ A / (2 λ_H N)` for each set: A its curvature, F the features that are not cut off; (s k k)."""
        K, d = self.W.shape
        if self.nonnegative:
            rows = ((self.W[:, None] * self.W).reshape(K * K, d) @ (features > 0).astype(float)).reshape(K, K, -1)
        else:
            rows = (self.W @ self.W.T)[..., None]
        rows = self.term.curved(self.term.shares(slopes), rows / (2 * self.decay))
        return np.eye(K) + rows.transpose(2, 0, 1)


def minimize_features(
    histogram: Histogram, W: Array, *, nonnegative: bool, tolerance: float
) -> tuple[Array, Array, Array]:
    """Features (d s), bias (k) and dual slopes (k s) of the minimum over features and bias, for the classifier W."""
    K, term, portions, lb = len(W), histogram.term, histogram.portions, histogram.of_bias
    decay, size = histogram.feature_decay * histogram.num_samples, max(1, BLOCK // K**2)
    parts = [slice(begin, begin + size) for begin in range(0, len(portions), size)]
    blocks = [Sets(term.of(part), portions[part], W, decay, nonnegative) for part in parts]

    def solve(b: Array, logits: list[Array]) -> tuple[float, Array, Array, list[Array]]:
        found = [block.solve(start, b, tolerance=1e-2 * tolerance) for block, start in zip(blocks, logits, strict=True)]
        logits, values, slopes, bends = zip(*found, strict=True)  # pyright: ignore[reportAssignmentType]
        return sum(values) + lb * b @ b, sum(slopes) + 2 * lb * b, sum(bends) + 2 * lb * np.eye(K), list(logits)  # pyright: ignore[reportReturnType]

    b = np.zeros(K)
    value, slope, bend, logits = solve(b, [np.zeros((K, len(block.portions))) for block in blocks])
    for _ in range(NEWTON_STEPS if histogram.bias_decay < math.inf else 0):
        step = -np.linalg.lstsq(bend, slope, rcond=1e-13)[0]
        gain = -slope @ step
        for _ in range(HALVINGS):
            there = solve(b + step, [start + step[:, None] for start in logits])
            if there[0] <= value - 1e-4 * gain + 1e-15 * (1 + abs(value)):
                break
            step, gain = step / 2, gain / 2
        b, (value, slope, bend, logits) = b + step, there  # pyright: ignore[reportPossiblyUnboundVariable]
        if gain < 1e-15 * abs(value):  # the last step made the slope as small as rounding allows
            break
    slopes, features, _ = zip(*(block.at(start, b) for block, start in zip(blocks, logits, strict=True)), strict=True)
    return np.hstack(features), b, np.hstack(slopes)
