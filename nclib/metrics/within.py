"""Second pass over the features: deviations from the mean of the own label set, block by block.

The means are rounded to the features' dtype before they are subtracted. What that adds to a mean of squares is the
square of the rounding (`mean_rounding`), known exactly, and is taken off again: about a large common offset it is not
small.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from nclib.metrics.projection import project
from nclib.metrics.statistics import CollapseStatistics, block_buffer, row_blocks, working_dtype


def deviation_blocks(
    features: Float[Tensor, "n d"], statistics: CollapseStatistics, *, columns: int = 0
) -> Iterator[tuple[slice, Int64[Tensor, " b"], Float[Tensor, "b d"]]]:
    """`h - mu_S` for blocks of samples, S the own label set: small numbers near collapse, free of common offsets.

    Args:
        features: Last-layer features (n, d).
        statistics: Their `collapse_statistics`.
        columns: Numbers that the caller computes for each row, where they may be more than d.

    Yields:
        The rows of the block, the label set of each row (0 where it has none), and the deviations, which the next block
        overwrites.
    """
    features = features.detach()
    means = statistics.set_means.to(working_dtype(features))
    blocks = row_blocks(features, columns=columns)
    buffer = block_buffer(features, blocks)
    for rows in blocks:
        ids = statistics.sets.of_sample[rows].clamp(min=0)
        deviations = torch.index_select(means, 0, ids, out=buffer[: len(ids)])
        yield rows, ids, torch.sub(features[rows], deviations, out=deviations)


def mean_rounding(features: Float[Tensor, "n d"], statistics: CollapseStatistics) -> Float64[Tensor, "k d"]:
    """What the class means lose in `deviation_blocks`: the mean deviation of each class, which should be 0."""
    means = statistics.class_means
    return means - means.to(working_dtype(features)).double()


def trace_of_rounding(
    rounding: Float64[Tensor, "k d"], statistics: CollapseStatistics, directions: Float64[Tensor, "r d"]
) -> Float64[Tensor, ""]:
    """What `mean_rounding` adds to the mean of `|A (h - mu_k)|²`."""
    counts = statistics.class_counts.double()
    return counts @ (rounding @ directions.T).square().sum(dim=1) / counts.sum()


def within_trace(
    features: Float[Tensor, "n d"], statistics: CollapseStatistics, directions: Float64[Tensor, "r d"]
) -> Float64[Tensor, ""]:
    """Mean of `|A (h - mu_k)|²` over the samples with one label, A the directions: `tr(A Sigma_W Aᵀ)`."""
    rounded = directions.to(working_dtype(features))
    num_classes = statistics.sets.num_classes
    total = torch.zeros((), dtype=torch.float64, device=features.device)
    for rows, ids, deviations in deviation_blocks(features, statistics, columns=len(rounded)):
        single = (ids < num_classes) & (statistics.sets.of_sample[rows] >= 0)
        squares = project(deviations, rounded).square_().sum(dim=1)
        total += (squares * single).sum(dtype=torch.float64)
    added = trace_of_rounding(mean_rounding(features, statistics), statistics, directions)
    return (total / statistics.class_counts.sum() - added).clamp(min=0)


def class_variances(features: Float[Tensor, "n d"], statistics: CollapseStatistics) -> Float64[Tensor, " k"]:
    """`var_k`: mean squared distance of the features of a class (one-label samples) to their mean."""
    sums = torch.zeros(len(statistics.sets.counts), dtype=torch.float64, device=features.device)
    for rows, ids, deviations in deviation_blocks(features, statistics):
        labeled = statistics.sets.of_sample[rows] >= 0
        squares = torch.linalg.vector_norm(deviations, dim=1).double().square()
        sums += torch.bincount(ids, weights=squares * labeled, minlength=len(sums))
    variances = (sums / statistics.sets.counts)[: statistics.sets.num_classes]
    return (variances - mean_rounding(features, statistics).square().sum(dim=1)).clamp(min=0)
