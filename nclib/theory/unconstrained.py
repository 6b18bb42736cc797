"""The full unconstrained-feature problem, minimized from a random start and held against the prediction."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nclib.metrics import measure
from nclib.theory.minimum import GlobalMinimum, solve
from nclib.theory.problem import Point, Problem, objective

_ZERO_LOGIT = 1e-6  # where the optimum is 0, L-BFGS leaves logits of about 1e-9


@dataclass(frozen=True, kw_only=True)
class Minimization:
    """Where a minimization ended, and how far that is from the theorem.

    Args:
        problem: the settings.
        point: the final classifier, features and bias.
        labels: multi-hot label set of each row of the features.
        minimum: the predicted global minimum.
        value: the objective at `point`.
        gap: `(value - minimum.value) / |minimum.value|`; 0 at the global minimum, and never below it by
            more than rounding.
        losses: the objective after each round of iterations, the start first.
        iterations: the iteration numbers that `losses` and `path` belong to.
        path: the points on the way; only with `record_path`.
    """

    problem: Problem
    point: Point
    labels: UInt8[Tensor, "n k"]
    minimum: GlobalMinimum
    value: float
    gap: float
    losses: list[float]
    iterations: list[int]
    path: list[Point] = field(default_factory=list)

    def collapse(self) -> dict[str, float]:
        """Every metric of `nclib.metrics.measure` at the final point, in float64.

        Beside them `tag_wise_cosine_residual_m`: the largest `1 - cos(mu_S, Σ_{k in S} mu_k)` over the label sets of
        m labels. Empty without samples with one label, or at a zero optimum: there are no class means to compare then.
        """
        if 1 not in self.problem.counts or self.is_zero:
            return {}
        values = measure(self.point.H, self.labels, self.point.W, self.point.b, logits=self.logits)
        for m in self.problem.multiplicities:
            if m > 1:
                angle = math.radians(values[f"tag_wise_angle_max_{m}"])
                values[f"tag_wise_cosine_residual_{m}"] = 2 * math.sin(angle / 2) ** 2
        return values

    @property
    def scales(self) -> dict[int, float]:
        """The measured `C_m` for each multiplicity above 1, to be held against `minimum.scales`."""
        values = self.collapse()
        return {m: values[f"tag_wise_scale_{m}"] for m in self.problem.multiplicities if m > 1 and values}

    @property
    def logits(self) -> Float[Tensor, "n k"]:
        """The logits at the final point."""
        return self.problem.logits(*self.point.tensors)

    @property
    def is_zero(self) -> bool:
        """Whether no feature carries a label: the centered logits are all (numerically) 0."""
        logits = self.point.H @ self.point.W.T
        return bool((logits - logits.mean(1, keepdim=True)).abs().max() < _ZERO_LOGIT)


def minimize(
    num_classes: int,
    counts: Mapping[int, int],
    *,
    feature_dim: int | None = None,
    start: Point | None = None,
    generator: torch.Generator | None = None,
    max_iterations: int = 5000,
    record_every: int = 50,
    record_path: bool = False,
    **settings: Any,
) -> Minimization:
    """Minimize over classifier, bias and one free feature vector per sample, by L-BFGS in float64.

    Source: the landscape theorems of arXiv 2310.15903 and 2203.01238: every other critical point is a
    strict saddle, so a descent from a random start ends at a global minimum.

    Args:
        num_classes, counts: as for `Problem`.
        feature_dim: d, at least K - 1 (default: K).
        start: where to start instead of a random point.
        generator: source of the random start.
        max_iterations: stop after so many L-BFGS iterations at the latest.
        record_every: iterations per round; one value (and point) is recorded per round.
        record_path: keep the points on the way.
        settings: `weight_decay`, `feature_decay` and the others of `Problem`.

    Raises:
        ValueError: see `Problem`; also for a feature dimension too small to attain the minimum.
    """
    problem = Problem(num_classes=num_classes, counts=counts, **settings)
    d = num_classes if feature_dim is None else feature_dim
    smallest = solve(problem).min_feature_dim
    if d < smallest:
        raise ValueError(
            f"Expected feature_dim >= {smallest} (the rank of the optimal logits at K = {num_classes}), but got {d}."
        )
    if start is None:
        start = random_point(problem, feature_dim=d, generator=generator)
    expected = ((num_classes, d), (problem.num_samples, d), (num_classes,))
    if (got := tuple(tuple(x.shape) for x in start.tensors)) != expected:
        raise ValueError(f"Expected a start with W, H, b of shapes {expected}, but got {got}.")
    return descend(problem, start, max_iterations=max_iterations, record_every=record_every, record_path=record_path)


def random_point(
    problem: Problem, *, feature_dim: int, scale: float = 0.3, generator: torch.Generator | None = None
) -> Point:
    """A point with normal entries of standard deviation `scale` (and no bias where the problem has none)."""
    K, N = problem.num_classes, problem.num_samples
    sizes = ((K, feature_dim), (N, feature_dim), (K,))
    W, H, b = (scale * torch.randn(*size, dtype=torch.float64, generator=generator) for size in sizes)
    return Point(W, H, b if problem.bias_decay < math.inf else torch.zeros_like(b))


def descend(
    problem: Problem, start: Point, *, max_iterations: int = 5000, record_every: int = 50, record_path: bool = False
) -> Minimization:
    """Run L-BFGS from `start` until the loss no longer changes, in any feature dimension (saddles need small ones)."""
    f = objective(problem)
    # With W scaled by α and H by 1/α both penalties have the one weight sqrt(λ_W λ_H).
    alpha = (problem.feature_decay / problem.weight_decay) ** 0.25
    W, H, b = (x.clone().requires_grad_() for x in (start.W / alpha, start.H * alpha, start.b))
    optimizer = torch.optim.LBFGS(
        [W, H, b],
        lr=1.0,
        max_iter=record_every,
        max_eval=4 * record_every,
        history_size=10,  # longer ones save a few iterations and cost more than they save
        tolerance_grad=1e-12,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = f(W * alpha, H / alpha, b)
        value.backward()
        return value

    def here() -> Point:
        return Point(W.detach() * alpha, H.detach() / alpha, b.detach().clone())

    with torch.no_grad():
        losses = [f(*start.tensors).item()]
    iterations, path = [0], [here()]
    while iterations[-1] < max_iterations:
        optimizer.step(closure)
        done = optimizer.state[W]["n_iter"]
        with torch.no_grad():
            losses.append(f(W * alpha, H / alpha, b).item())
        iterations.append(done)
        if record_path:
            path.append(here())
        # A round cut short, or without progress: the line search has met the rounding of the loss.
        if done - iterations[-2] < record_every or losses[-1] >= losses[-2]:
            break
    minimum = solve(problem)
    return Minimization(
        problem=problem,
        point=here(),
        labels=problem.labels(),
        minimum=minimum,
        value=losses[-1],
        gap=(losses[-1] - minimum.value) / abs(minimum.value),
        losses=losses,
        iterations=iterations,
        path=path if record_path else [],
    )
