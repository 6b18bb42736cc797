"""Minimizing over classifier, features and bias of a label histogram, until the dual bound proves the value.

The classifier W is kept symmetric (k k): every W Wᵀ has such a root, and rotations of the features, which change
nothing, are no directions then. W and V are scaled so that both penalties weigh sqrt(λ_W λ_H). L-BFGS comes near;
Newton steps, each solved by conjugate gradients, reach the rounding.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from nclib.theory.histogram import Array, Histogram

FIRST_ITERATIONS = 40  # of L-BFGS
NEWTON_STEPS = 200
CG_STEPS = 500  # of each Newton step
LOGIT_SCALES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # tried at the start
ROUNDING = 4e-16
STALLED = 6  # steps whose descent is lost in rounding, while the gap may still fall


@dataclass(frozen=True, eq=False)
class Point:
    """Variables in one vector, value and gradient there; slopes and gradient G of the data term (k s)."""

    x: Array
    value: float
    gradient: Array
    slopes: Array
    pull: Array


class Factored:
    """The problem as a function of one vector that holds W, V and b."""

    def __init__(self, histogram: Histogram):
        self.histogram = histogram
        self.decay = math.sqrt(histogram.weight_decay * histogram.feature_decay)
        self.num_classes, self.num_sets = histogram.term.targets.shape

    def split(self, x: Array) -> tuple[Array, Array, Array]:
        """W (k k), V (k s) and b (k)."""
        K = self.num_classes
        return x[: K * K].reshape(K, K), x[K * K : -K].reshape(K, -1), x[-K:]

    def join(self, W: Array, V: Array, b: Array) -> Array:
        """One vector: W made symmetric, b made 0 where there is no bias."""
        return np.concatenate([(W + W.T).ravel() / 2, V.ravel(), b * (self.histogram.bias_decay < math.inf)])

    def at(self, x: Array) -> Point:
        """The value at `x` and what a step from there needs."""
        W, V, b = self.split(x)
        data, slopes, pull = self.histogram.data(W, V, b)
        of_bias = self.histogram.of_bias
        value = data + self.decay * (np.vdot(W, W) + np.vdot(V, V)) + of_bias * (b @ b)
        twice, of_mean = 2 * self.decay, slopes @ self.histogram.portions
        gradient = self.join(pull @ V.T + twice * W, W.T @ pull + twice * V, of_mean + 2 * of_bias * b)
        return Point(x, value, gradient, slopes, pull)  # pyright: ignore[reportArgumentType]

    def start(self) -> Point:
        """A symmetric root of the gradient at 0, of full rank, scaled to the logits with the smallest value."""
        K = self.num_classes
        zero = self.at(np.zeros(K * K + K * self.num_sets + K))
        direction = -zero.pull * self.histogram.num_samples
        squares, vectors = np.linalg.eigh(direction @ direction.T)
        root = np.maximum(squares, 1e-8 * squares[-1] + 1e-300) ** 0.25
        W = (vectors * root) @ vectors.T
        V = (vectors / root) @ (vectors.T @ direction)
        starts = [self.at(self.join(math.sqrt(c) * W, math.sqrt(c) * V, np.zeros(K))) for c in LOGIT_SCALES]
        return min(starts, key=lambda point: point.value)

    def minimize(self, *, tolerance: float) -> tuple[Array, Array, Array]:
        """W, V and b with a relative gap of `tolerance`, or from where no step lowers the value any more."""

        def value_and_gradient(x: Array) -> tuple[float, Array]:
            point = self.at(x)
            return point.value, point.gradient

        options = {"maxiter": FIRST_ITERATIONS, "ftol": 0, "gtol": 0}
        near = optimize.minimize(value_and_gradient, self.start().x, jac=True, method="L-BFGS-B", options=options)
        here, stalled = self.at(near.x), 0
        for _ in range(NEWTON_STEPS):
            gap = (here.value - self.histogram.lower_bound(here.slopes)) / abs(here.value)
            if gap <= tolerance or stalled == STALLED:
                break
            accuracy = min(0.1, math.sqrt(gap))
            step = conjugate_gradients(self.hessian(here), self.preconditioner(here), here.gradient, accuracy=accuracy)
            there = self._along(here, step)
            stalled += there.value > here.value - ROUNDING * (1 + abs(here.value))
            here = there
        return self.split(here.x)

    def hessian(self, here: Point) -> Callable[[Array], Array]:
        """The product with the Hessian at a point."""
        histogram, (W, V, _) = self.histogram, self.split(here.x)
        shares, twice = histogram.term.shares(here.slopes), 2 * self.decay

        def product(x: Array) -> Array:
            dW, dV, db = self.split(x)
            bent = histogram.term.curved(shares, (W @ dV + dW @ V) / histogram.roots + db[:, None])
            pulled = bent * (histogram.roots / histogram.num_samples)
            of_W = pulled @ V.T + here.pull @ dV.T + twice * dW
            of_V = W.T @ pulled + dW.T @ here.pull + twice * dV
            return self.join(of_W, of_V, bent @ histogram.portions + 2 * histogram.of_bias * db)

        return product

    def preconditioner(self, here: Point) -> Callable[[Array], Array]:
        """The inverse of the Hessian's blocks, with one curvature for all logits in those of W and V."""
        histogram, (W, V, _) = self.histogram, self.split(here.x)
        diagonal = histogram.term.diagonal(histogram.term.shares(here.slopes))
        mean, penalty = diagonal.mean() / histogram.num_samples, 2 * self.decay * np.eye(self.num_classes)
        of_W, of_V = (np.linalg.inv(mean * gram + penalty) for gram in (V @ V.T, W.T @ W))
        of_b = 1 / (diagonal @ histogram.portions + 2 * histogram.of_bias + 1e-300)

        def product(x: Array) -> Array:
            dW, dV, db = self.split(x)
            return self.join(dW @ of_W, of_V @ dV, of_b * db)

        return product

    def _along(self, here: Point, step: Array) -> Point:
        """The point along a step with enough descent; the same point if rounding leaves none."""
        length, slope = 1.0, here.gradient @ step
        while length > 1e-10:
            there = self.at(here.x + length * step)
            excess = there.value - here.value - length * slope
            if there.value <= here.value + 1e-4 * length * slope + ROUNDING * (1 + abs(here.value)):
                return there
            length = min(max(-slope * length**2 / (2 * excess), 0.1 * length), 0.5 * length)  # the parabola's minimum
        return here


def conjugate_gradients(
    hessian: Callable[[Array], Array], preconditioner: Callable[[Array], Array], gradient: Array, *, accuracy: float
) -> Array:
    """An approximate Newton step; cut short at the first direction without positive curvature."""
    step, residual = np.zeros_like(gradient), -gradient
    direction = preconditioner(residual)
    square = residual @ direction
    enough = accuracy**2 * square
    for count in range(CG_STEPS):
        bent = hessian(direction)
        curvature = direction @ bent
        if curvature <= 0:
            return step if count else direction
        step += square / curvature * direction
        residual -= square / curvature * bent
        scaled = preconditioner(residual)
        before, square = square, residual @ scaled
        if square <= enough:
            break
        direction = scaled + square / before * direction
    return step
