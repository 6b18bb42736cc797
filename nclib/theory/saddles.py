"""Critical points that are not minima, and the directions of negative curvature by which a descent leaves them.

Both theorems say that every critical point is a global minimum or a strict saddle: its Hessian has a
negative eigenvalue. Here that eigenvalue is computed from Hessian-vector products, and held against the one
that the proof constructs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from nclib.theory.minimum import bias_at_zero
from nclib.theory.problem import Point, Problem, data_loss, objective
from nclib.theory.unconstrained import descend, random_point


@dataclass(frozen=True)
class Curvature:
    """The most negative curvature at a point: eigenvalue of the Hessian, and unit eigenvector as a direction."""

    eigenvalue: float
    direction: Point


def trivial_point(problem: Problem, *, feature_dim: int) -> Point:
    """The critical point `W = 0, H = 0`, with the bias that is best there."""
    K, N = problem.num_classes, problem.num_samples
    return Point(
        torch.zeros(K, feature_dim, dtype=torch.float64),
        torch.zeros(N, feature_dim, dtype=torch.float64),
        torch.full((K,), bias_at_zero(problem), dtype=torch.float64),
    )


def rank_deficient_point(
    problem: Problem, *, feature_dim: int, rank: int, generator: torch.Generator | None = None
) -> Point:
    """A critical point that uses only `rank` feature dimensions: fewer than the K - 1 that the ETF needs.

    The problem is minimized with `feature_dim = rank` and the missing dimensions are filled with zeros. The
    gradient with respect to a column of zeros is 0 when both its classifier and its feature entries are, so
    the point stays critical.

    `rank` is in 1 .. K - 2, where K - 2 removes one direction, and `feature_dim` above it. The gradient is 0 to about
    1e-8.
    """
    if not 1 <= rank <= problem.num_classes - 2:
        raise ValueError(f"Expected rank in 1..{problem.num_classes - 2} = K - 2, but got {rank}.")
    if feature_dim <= rank:
        raise ValueError(f"Expected feature_dim > rank = {rank}, but got {feature_dim}.")
    point = descend(problem, random_point(problem, feature_dim=rank, generator=generator)).point
    W, H = (torch.nn.functional.pad(x, (0, feature_dim - rank)) for x in (point.W, point.H))
    return Point(W, H, point.b)


def gradient_norm(problem: Problem, point: Point) -> float:
    """The Euclidean norm of the gradient; 0 at a critical point."""
    gradients = torch.func.grad(objective(problem), argnums=(0, 1, 2))(*point.tensors)
    return torch.cat([g.flatten() for g in gradients]).norm().item()


def most_negative_curvature(problem: Problem, point: Point, *, generator: torch.Generator | None = None) -> Curvature:
    """The smallest eigenvalue of the Hessian and its eigenvector: below 0 at a strict saddle, 0 at a minimum.

    Hessian-vector products by differentiating the gradient once more (`torch.func`), and Lanczos
    (`scipy.sparse.linalg.eigsh`). No Hessian is formed.

    Source: the definition of a strict saddle in arXiv 2203.01238 and 2310.15903.
    """
    # The Hessian is symmetric, so a vector times it (one backward pass through a stored gradient) is the product.
    pull_back = torch.func.vjp(torch.func.grad(objective(problem), argnums=(0, 1, 2)), *point.tensors)[1]

    def product(vector):
        moved = pull_back(_unflatten(torch.from_numpy(vector).flatten(), point))
        return torch.cat([x.flatten() for x in moved]).numpy()

    size = sum(x.numel() for x in point.tensors)
    start = torch.randn(size, dtype=torch.float64, generator=generator).numpy()
    hessian = LinearOperator((size, size), matvec=product, dtype=start.dtype)  # pyright: ignore[reportCallIssue]
    options: dict[str, Any] = {"k": 1, "v0": start, "ncv": min(size, 40), "tol": 1e-2}
    # ARPACK's tolerance is relative to the eigenvalue, which is 0 at a minimum: shift the spectrum below 0.
    shift = float(eigsh(hessian, which="LA", return_eigenvectors=False, **options)[0])
    of_shifted = {"matvec": lambda v: product(v) - shift * v.ravel(), "dtype": start.dtype}
    shifted = LinearOperator((size, size), **of_shifted)  # pyright: ignore[reportCallIssue]
    options["tol"] = 1e-7
    values, vectors = eigsh(shifted, which="SA", **options)
    return Curvature(float(values[0]) + shift, Point(*_unflatten(torch.from_numpy(vectors[:, 0]), point)))


def predicted_curvature(problem: Problem, point: Point) -> float:
    """The curvature that the proof constructs, at a critical point with an unused feature dimension.

    `λ_W + λ_H - sqrt((λ_W - λ_H)² + σ²)`, with σ the largest singular value of the gradient of the data
    term with respect to the logits (N x K). Below 0 exactly if `σ² > 4 λ_W λ_H`, which holds at every
    critical point that is not a global minimum.

    Source: the proofs of the strict-saddle property in Zhu et al. 2021 and arXiv 2203.01238; worked out in
    docs/theory.md.
    """
    gradient = torch.func.grad(data_loss(problem))(problem.logits(*point.tensors))
    sigma = torch.linalg.matrix_norm(gradient, ord=2).item()
    lw, lh = problem.weight_decay, problem.feature_decay
    return lw + lh - ((lw - lh) ** 2 + sigma**2) ** 0.5


def values_along(problem: Problem, point: Point, direction: Point, *, distances: Sequence[float]) -> list[float]:
    """The objective at `point + distance · direction` for each distance."""
    f = objective(problem)
    return [f(*point.moved(direction, distance=t).tensors).item() for t in distances]


def _unflatten(vector: Tensor, like: Point) -> tuple[Tensor, ...]:
    parts = vector.split([x.numel() for x in like.tensors])
    return tuple(part.view_as(x) for part, x in zip(parts, like.tensors, strict=True))
