"""How far K vectors are from a simplex ETF: its Gram matrix (nc2), equal norms, equal angles.

The vectors are the rows of the classifier (`..._w`) or the class means of the one-label samples (`..._h`).
"""

import math

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from nclib.metrics.rows import Rows, centered, pair_statistics, row_products
from nclib.metrics.statistics import collapse_statistics, working_dtype


def nc2_w(weight: Float[Tensor, "k d"]) -> Float[Tensor, ""]:
    """`| WWᵀ/|WWᵀ|_F - T |_F`, W **not** centered, as released with paper 1; in [0, 2], 0 for a simplex ETF.

    Source: paper 1.

    Args:
        weight: Classifier (k, d), k >= 2.

    Returns:
        The metric, in the dtype of `weight` but at least float32.

    Raises:
        ValueError: If `weight` is not (k, d) with k >= 2.

    >>> nc2_w(torch.tensor([[1.0], [-1.0]]))
    tensor(0.)
    """
    return _nc2(Rows(check_rows(weight))).to(working_dtype(weight))


def nc2_w_centered(weight: Float[Tensor, "k d"]) -> Float[Tensor, ""]:
    """`nc2_w` of the weight minus its mean row; in [0, 2], 0 for a simplex ETF.

    Source: paper 2. Args, Returns, Raises: as `nc2_w`.

    >>> nc2_w_centered(torch.tensor([[3.0], [1.0]]))
    tensor(0.)
    """
    return _nc2(centered(check_rows(weight))).to(working_dtype(weight))


def _nc2(rows: Rows) -> Float64[Tensor, ""]:
    return simplex_distance(rows, rows)


def nc2_h(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """`nc2_w` of the stacked class means `mu_k`, **not** centered, as released with paper 1; in [0, 2], 0 at collapse.

    Source: paper 1. Args, Returns, Raises: as `nc1`.

    >>> nc2_h(torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]))
    tensor(0.)
    """
    return nc2_w(_means(features, labels)).to(working_dtype(features))


def nc2_h_centered(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """`nc2_w` of the class means minus `mu_G`; in [0, 2], 0 at collapse.

    Source: paper 2. Args, Returns, Raises: as `nc1`.

    >>> nc2_h_centered(torch.tensor([[3.0], [1.0]]), torch.tensor([0, 1]))
    tensor(0.)
    """
    return nc2_w_centered(_means(features, labels)).to(working_dtype(features))


def equinorm_w(weight: Float[Tensor, "k d"]) -> Float[Tensor, ""]:
    """Coefficient of variation (std over K / mean) of the row norms of the centered weight; in [0, inf), 0 at collapse.

    Source: Papyan et al. 2020. Args, Returns, Raises: as `nc2_w`.

    >>> equinorm_w(torch.eye(4))
    tensor(0.)
    """
    return _equinorm(centered(check_rows(weight))).to(working_dtype(weight))


def _equinorm(rows: Rows) -> Float64[Tensor, ""]:
    return rows.norms.std(correction=0) / rows.norms.mean()


def equinorm_h(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """`equinorm_w` of the centered class means. Args, Returns, Raises: as `nc1`.

    >>> equinorm_h(torch.eye(4), torch.arange(4))
    tensor(0.)
    """
    return equinorm_w(_means(features, labels)).to(working_dtype(features))


def equiangle_w(weight: Float[Tensor, "k d"]) -> Float[Tensor, ""]:
    """Mean over pairs of rows of the centered weight of `|cos + 1/(K-1)|`; in [0, 1 + 1/(K-1)], 0 at collapse.

    Source: Papyan et al. 2020. Args, Returns, Raises: as `nc2_w`.

    >>> equiangle_w(torch.eye(4)).round(decimals=5)
    tensor(0.)
    """
    return pair_statistics(centered(check_rows(weight))).equiangle.to(working_dtype(weight))


def equiangle_h(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """`equiangle_w` of the centered class means. Args, Returns, Raises: as `nc1`.

    >>> equiangle_h(torch.eye(4), torch.arange(4)).round(decimals=5)
    tensor(0.)
    """
    return equiangle_w(_means(features, labels)).to(working_dtype(features))


def simplex_gram(num_classes: int, *, like: Tensor) -> Float[Tensor, "k k"]:
    """`T = (I - 11ᵀ/K) / sqrt(K-1)`, the Gram matrix of the simplex ETF at unit Frobenius norm.

    K = `num_classes` is at least 2; dtype and device are those of `like`.
    """
    eye = torch.eye(num_classes, dtype=like.dtype, device=like.device)
    return (eye - 1 / num_classes) / math.sqrt(num_classes - 1)


def simplex_distance(a: Rows, b: Rows) -> Float64[Tensor, ""]:
    """`| ABᵀ/|ABᵀ|_F - T |_F`: distance to the Gram matrix of the simplex ETF, scale removed; in [0, 2]."""
    k, d = a.values.shape
    if k <= d + 1:
        gram = a.dense @ b.dense.T
        scaled = gram / torch.linalg.matrix_norm(gram)
        return torch.linalg.matrix_norm(scaled - simplex_gram(k, like=gram))
    # ABᵀ has rank d < K - 1, so the distance is far from 0, and this difference loses no digits
    norm = (a.moment * b.moment).sum().sqrt()
    product = (row_products(a, b).sum() - a.total @ b.total / k) / math.sqrt(k - 1)
    return (2 - 2 * product / norm).sqrt()


def cosine_gram(rows: Float[Tensor, "k d"]) -> Float[Tensor, "k k"]:
    """Cosines between all pairs of rows, as given (not centered); off the diagonal `-1/(K-1)` for a simplex ETF.

    The rows are class means, or a classifier's weight; NaN for a row of zeros, which has no direction.

    >>> cosine_gram(torch.tensor([[2.0, 0.0], [-1.0, 0.0]]))
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    unit = unit_rows(rows.double())  # whose product autocast leaves alone, too
    return (unit @ unit.T).to(rows.dtype)


def unit_rows(rows: Float[Tensor, "*s d"]) -> Float[Tensor, "*s d"]:
    """The rows at unit length; rows of zeros become NaN, since they have no direction."""
    return rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True)


def check_rows(weight: Float[Tensor, "k d"]) -> Float[Tensor, "k d"]:
    """Refuse what is no matrix of at least two rows."""
    if weight.ndim != 2 or len(weight) < 2:
        raise ValueError(f"Expected a matrix (k, d) with k >= 2, but got shape {tuple(weight.shape)}.")
    return weight


def _means(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float64[Tensor, "k d"]:
    return collapse_statistics(features, labels).class_means
