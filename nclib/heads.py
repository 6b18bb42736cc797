"""Classifier heads: the simplex equiangular tight frame (ETF), as a matrix and as a fixed linear layer."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def simplex_etf(
    num_classes: int,
    feature_dim: int,
    *,
    rotation: Float[Tensor, "d d"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "k d"]:
    """Vertices of a regular simplex: K unit rows whose pairwise cosines are all `-1/(K-1)` and whose sum is 0.

    `sqrt(K/(K-1)) (I - 11ᵀ/K) Qᵀ` with orthonormal columns `Q` (d x K) for d >= K; for d = K - 1 the same
    rows in the coordinates of their own span. Without `rotation` and `generator` the matrix is a fixed one: at d = K
    it is `sqrt(K/(K-1)) (I - 11ᵀ/K)`, followed by columns of zeros for a larger d.

    Source: paper 1, definition of the simplex ETF; at d = K the matrix of its released code scaled to unit rows.

    Args:
        num_classes: K, at least 2.
        feature_dim: d, at least K - 1.
        rotation: Orthogonal matrix (d, d) that is applied to the rows.
        generator: Draws a random rotation (uniform over the orthogonal group); not together with `rotation`.

    Returns:
        The frame (k, d), in the dtype of `rotation` or else torch's default dtype.

    >>> etf = simplex_etf(3, 2)
    >>> (etf @ etf.T + 0).round(decimals=4)
    tensor([[ 1.0000, -0.5000, -0.5000],
            [-0.5000,  1.0000, -0.5000],
            [-0.5000, -0.5000,  1.0000]])
    """
    if num_classes < 2:
        raise ValueError(f"Expected num_classes >= 2, but got {num_classes}.")
    if feature_dim < num_classes - 1:
        raise ValueError(f"Expected feature_dim >= num_classes - 1 = {num_classes - 1}, but got {feature_dim}.")
    if rotation is not None and generator is not None:
        raise ValueError("Expected either rotation or generator, but got both.")
    if rotation is not None and rotation.shape != (feature_dim, feature_dim):
        raise ValueError(f"Expected a rotation of shape {(feature_dim, feature_dim)}, but got {tuple(rotation.shape)}.")
    # computed in float64 and rounded once, so that float32 rows have unit norm to the last digit
    if feature_dim == num_classes - 1:
        frame = _simplex_in_its_span(num_classes)
    else:
        frame = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
        frame = F.pad(frame, (0, feature_dim - num_classes))
    frame = frame * math.sqrt(num_classes / (num_classes - 1))
    dtype = torch.get_default_dtype() if rotation is None else rotation.dtype
    if generator is not None:  # of a square normal matrix: uniform over the orthogonal group
        empty = torch.empty(feature_dim, feature_dim, dtype=torch.float64, device=generator.device)
        rotation = nn.init.orthogonal_(empty, generator=generator)
    if rotation is not None:
        frame = frame.to(rotation.device) @ rotation.double().T
    return frame.to(dtype)


class ETFHead(nn.Module):
    """Linear layer whose weight is a fixed simplex ETF: `z = h Wᵀ + b` with unit rows in `W`.

    Like `torch.nn.Linear` it has `weight` and `bias`; the weight is a buffer, which optimizers and weight decay do not
    see and the state dict holds, the bias trains.

    Source: both papers' experiments with a fixed last layer.

    Args:
        feature_dim: d, at least `num_classes - 1`.
        num_classes: K, at least 2.
        bias: Train a bias (K), which starts at 0.
        generator: Draws a random rotation of the frame; without it the frame is the fixed one of `simplex_etf`.

    >>> head = ETFHead(8, 4)
    >>> [name for name, _ in head.named_parameters()], sorted(head.state_dict())
    (['bias'], ['bias', 'weight'])
    """

    weight: Tensor

    def __init__(
        self,
        feature_dim: int,
        num_classes: int,
        *,
        bias: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.num_classes = num_classes
        self.register_buffer("weight", simplex_etf(num_classes, feature_dim, generator=generator))
        self.bias = nn.Parameter(torch.zeros(num_classes)) if bias else None

    def forward(self, features: Float[Tensor, "*n d"]) -> Float[Tensor, "*n k"]:
        return F.linear(features, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.feature_dim}, {self.num_classes}, bias={self.bias is not None}"


def _simplex_in_its_span(num_classes: int) -> Float[Tensor, "k k-1"]:
    """Rows of `I - 11ᵀ/K` in an orthonormal basis of the K - 1 dimensions orthogonal to `1` (Helmert's)."""
    steps = torch.arange(1, num_classes, dtype=torch.float64)
    basis = torch.ones(num_classes, num_classes - 1, dtype=torch.float64).triu()
    basis[1:].diagonal().copy_(-steps)
    return basis / (steps * (steps + 1)).sqrt()
