"""Geometry of K vectors: distance to the simplex ETF, equal norms, equal angles, accurate angles between vectors."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def simplex_gram(num_classes: int, *, like: Tensor) -> Float[Tensor, "k k"]:
    """`T = (I - 11ᵀ/K) / sqrt(K-1)`, the Gram matrix of the simplex ETF at unit Frobenius norm.

    Args:
        num_classes: K, at least 2.
        like: Tensor whose dtype and device the result takes.

    Returns:
        The matrix (k, k).
    """
    eye = torch.eye(num_classes, dtype=like.dtype, device=like.device)
    return (eye - 1 / num_classes) / math.sqrt(num_classes - 1)


def simplex_distance(gram: Float[Tensor, "k k"]) -> Float[Tensor, ""]:
    """`| G/|G|_F - T |_F`: distance of a K x K matrix to that of the simplex ETF, scale removed; in [0, 2]."""
    scaled = gram / torch.linalg.matrix_norm(gram)
    return torch.linalg.matrix_norm(scaled - simplex_gram(len(gram), like=gram))


def centered(rows: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    """The rows minus their mean."""
    return rows - rows.mean(dim=0)


def unit_rows(rows: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    """The rows at unit length; rows of zeros become NaN, since they have no direction."""
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)


def cosine_gram(rows: Float[Tensor, "k d"]) -> Float[Tensor, "k k"]:
    """Cosines between all pairs of rows, as given (not centered); off the diagonal `-1/(K-1)` for a simplex ETF.

    Args:
        rows: Class means, or a classifier's weight (k, d).

    Returns:
        Cosines (k, k).

    >>> cosine_gram(torch.tensor([[2.0, 0.0], [-1.0, 0.0]]))
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    unit = unit_rows(rows.double())  # whose product autocast leaves alone, too
    return (unit @ unit.T).to(rows.dtype)


def norm_variation(rows: Float[Tensor, "k d"]) -> Float[Tensor, ""]:
    """Standard deviation (over K, not K - 1) of the row norms over their mean; 0 for equal norms."""
    norms = torch.linalg.vector_norm(rows, dim=1)
    return norms.std(correction=0) / norms.mean()


def angle_deviation(rows: Float[Tensor, "k d"]) -> Float[Tensor, ""]:
    """Mean over pairs of rows of `|cos + 1/(K-1)|`; 0 where all angles are those of the simplex ETF."""
    k = len(rows)
    cosines = cosine_gram(rows)
    deviations = (cosines + 1 / (k - 1)).abs()
    return (deviations.sum() - deviations.diagonal().sum()) / (k * (k - 1))


def angles_degrees(a: Float[Tensor, "*s d"], b: Float[Tensor, "*s d"]) -> Float[Tensor, "*s"]:
    """Angle between vectors, row by row, in degrees: `2 atan2(|u - v|, |u + v|)` of the unit vectors.

    Exact to rounding at 0 and 180 degrees, where the arc cosine loses half of the digits.

    Args:
        a: Vectors (..., d).
        b: Vectors (..., d).

    Returns:
        Angles (...,) in [0, 180].

    >>> angles_degrees(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0]))
    tensor(90.)
    """
    u = a / torch.linalg.vector_norm(a, dim=-1, keepdim=True)
    v = b / torch.linalg.vector_norm(b, dim=-1, keepdim=True)
    half = torch.atan2(torch.linalg.vector_norm(u - v, dim=-1), torch.linalg.vector_norm(u + v, dim=-1))
    return torch.rad2deg(2 * half)
