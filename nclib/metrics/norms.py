"""Lengths of the features and of the class means, and their angles to out-of-distribution data (nc5)."""

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from nclib.metrics.rows import Rows
from nclib.metrics.simplex import unit_rows
from nclib.metrics.statistics import CollapseStatistics, check_features, collapse_statistics, row_blocks, working_dtype


def feature_norm(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """Mean of `|h|` over the samples with one label; in [0, inf), free at collapse.

    Args, Returns, Raises: as `nc1`.

    >>> feature_norm(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.arange(2))
    tensor(3.)
    """
    statistics = collapse_statistics(features, labels)
    single = statistics.sets.is_single
    total = sum(feature_norms(features[rows])[single[rows]].sum(dtype=torch.float64) for rows in row_blocks(features))
    return (total / single.sum()).to(working_dtype(features))


def feature_norms(features: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """`|h|` of each row, at least in float32."""
    return torch.linalg.vector_norm(features.detach(), dim=1, dtype=working_dtype(features))


def mean_norm(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """Mean over classes of `|mu_k - mu_G|`; in [0, inf), free at collapse.

    Args, Returns, Raises: as `nc1`.

    >>> mean_norm(torch.tensor([[3.0], [1.0]]), torch.arange(2))
    tensor(1.)
    """
    return collapse_statistics(features, labels).deviations.norms.mean().to(working_dtype(features))


def nc5(
    features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"], ood_features: Float[Tensor, "q d"]
) -> Float[Tensor, ""]:
    """Mean over classes of `|cos(mu_k, mu_ood)|`, `mu_k` **not** centered; in [0, 1], 0 at collapse.

    `mu_ood` is the mean feature of out-of-distribution data, which NC5 finds orthogonal to the class means.

    Source: Ammar et al. 2024. Args, Returns, Raises: as `nc1`, and the features (q, d) of the other data.

    >>> nc5(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.arange(2), torch.tensor([[0.0, 2.0]]))
    tensor(0.)
    """
    check_features(features, labels)
    if ood_features.ndim != 2 or ood_features.shape[1] != features.shape[1] or len(ood_features) == 0:
        raise ValueError(f"Expected ood_features (q, {features.shape[1]}), but got {tuple(ood_features.shape)}.")
    sums = [ood_features[rows].detach().double().sum(dim=0) for rows in row_blocks(ood_features)]
    ood_mean = torch.stack(sums).sum(dim=0)
    return _nc5(collapse_statistics(features, labels), ood_mean / len(ood_features)).to(working_dtype(features))


def _nc5(statistics: CollapseStatistics, ood_mean: Float64[Tensor, " d"]) -> Float64[Tensor, ""]:
    """`nc5` from the statistics and the mean of the other data."""
    means, direction = Rows(statistics.class_means), unit_rows(ood_mean)
    return (means.map(lambda block: block @ direction) / means.norms).abs().mean()
