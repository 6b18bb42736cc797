"""Tag-wise average: the mean of a multi-label set against the sum of its classes' means (paper 1).

Every function takes the multiplicity m, the number of labels of the sets that it looks at. `mu_S` are means of all
features with label set S, `mu_k` those of the features with the one label k; none is centered, as released.
"""

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import chain, combinations, islice

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from nclib.metrics.label_sets import LabelSets
from nclib.metrics.rows import MAX_TABLE
from nclib.metrics.simplex import unit_rows
from nclib.metrics.statistics import CollapseStatistics, collapse_statistics, working_dtype

MAX_PAIRS = 10**9
"""Pairs of label sets up to which the mean angle over all pairs is computed."""
PAIR_BLOCK = 1 << 19


def tag_wise_angles(
    features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n k"], multiplicity: int
) -> Float[Tensor, " s"]:
    """Angle between `mu_S` and `sum_{k in S} mu_k` for each observed set S of m labels, in degrees; 0 at collapse.

    Source: paper 1, the definition of NC_m.

    Args:
        features: Last-layer features (n, d).
        labels: Multi-hot (n, k).
        multiplicity: Number m of labels.

    Returns:
        Angles in [0, 180], in the order of `label_set_means`, in the dtype of the features but at least float32.

    Raises:
        ValueError: As `collapse_statistics` does, or if no sample has m labels.

    >>> h = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    >>> tag_wise_angles(h, torch.tensor([[1, 0], [0, 1], [1, 1]]), 2).round(decimals=3)
    tensor([45.])
    """
    return _tag_wise_angles(collapse_statistics(features, labels), multiplicity).to(working_dtype(features))


def _tag_wise_angles(statistics: CollapseStatistics, multiplicity: int) -> Float64[Tensor, " s"]:
    """`tag_wise_angles` from the statistics."""
    rows = statistics.sets.with_multiplicity(multiplicity)
    return angles_degrees(statistics.set_means[rows], tag_sums(statistics, multiplicity))


def tag_wise_ratio(
    features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n k"], multiplicity: int
) -> Float[Tensor, ""]:
    """Mean of `tag_wise_angles` over the mean angle of **all** pairs (S', S), the matching ones included.

    S' is any m-subset of the classes, S any observed set of m labels. In [0, inf), about 1 without structure, 0 at
    collapse.

    Source: paper 1, NC_m, as released. Args, Returns, Raises: as `tag_wise_angles`, one value of at most `MAX_PAIRS`
    pairs.

    >>> h = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [1.0, 0.0]])
    >>> y = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    >>> tag_wise_ratio(h, y, 2)  # 45 degrees from its own sum, 90 and 180 from the other two
    tensor(0.4286)
    """
    statistics = collapse_statistics(features, labels)
    ratio = _tag_wise_angles(statistics, multiplicity).mean() / mean_angle_of_all_pairs(statistics, multiplicity)
    return ratio.to(working_dtype(features))


def tag_wise_scale(
    features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n k"], multiplicity: int
) -> Float[Tensor, ""]:
    """Least-squares `C_m` in `mu_S ~ C_m sum_{k in S} mu_k` over the observed sets of m labels, each set once.

    Source: paper 1, its theorem. Args, Returns, Raises: as `tag_wise_angles`, one value.

    >>> h, y = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.5, 1.5]]), torch.tensor([[1, 0], [0, 1], [1, 1]])
    >>> tag_wise_scale(h, y, 2)
    tensor(0.7500)
    """
    scale, _ = _tag_wise_fit(collapse_statistics(features, labels), multiplicity)
    return scale.to(working_dtype(features))


def tag_wise_residual(
    features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n k"], multiplicity: int
) -> Float[Tensor, ""]:
    """Relative residual of that fit: root of `sum_S |mu_S - C_m sum mu_k|² / sum_S |mu_S|²`; in [0, 1], 0 at collapse.

    Source: paper 1, its theorem. Args, Returns, Raises: as `tag_wise_angles`, one value.

    >>> h, y = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.5, 1.5]]), torch.tensor([[1, 0], [0, 1], [1, 1]])
    >>> tag_wise_residual(h, y, 2)
    tensor(0.)
    """
    _, residual = _tag_wise_fit(collapse_statistics(features, labels), multiplicity)
    return residual.to(working_dtype(features))


def _tag_wise_fit(statistics: CollapseStatistics, multiplicity: int) -> tuple[Float64[Tensor, ""], Float64[Tensor, ""]]:
    """`tag_wise_scale` and `tag_wise_residual` from the statistics."""
    rows = statistics.sets.with_multiplicity(multiplicity)
    means, sums = statistics.set_means[rows], tag_sums(statistics, multiplicity)
    scale = (means * sums).sum() / sums.square().sum()
    return scale, torch.linalg.matrix_norm(means - scale * sums) / torch.linalg.matrix_norm(means)


def tag_wise_rows(statistics: CollapseStatistics) -> list[tuple[str, int, Float64[Tensor, ""]]]:
    """All of these as (name, multiplicity, value) for each multiplicity from 2; no ratio of more than `MAX_PAIRS`."""
    rows = []
    for m in statistics.sets.multiplicity[statistics.sets.multiplicity > 1].unique().tolist():
        angles = _tag_wise_angles(statistics, m)
        scale, residual = _tag_wise_fit(statistics, m)
        rows += [("tag_wise_angle_mean", m, angles.mean()), ("tag_wise_angle_max", m, angles.max())]
        if _num_pairs(statistics.sets, m) <= MAX_PAIRS:
            rows.append(("tag_wise_ratio", m, angles.mean() / mean_angle_of_all_pairs(statistics, m)))
        rows += [("tag_wise_scale", m, scale), ("tag_wise_residual", m, residual)]
    return rows


def imbalance_ratio(
    features: Float[Tensor, "n d"],
    labels: Shaped[Tensor, "n k"],
    *,
    counts: Sequence[int] | None = None,
) -> dict[int, Float[Tensor, ""]]:
    """`tag_wise_ratio` of pairs of labels, the numerator only over the pairs with exactly so many samples.

    The denominator stays over all. Shows whether rare pairs collapse less.

    Source: paper 1, its imbalanced experiments. Args, Raises: as `tag_wise_ratio`.

    Args:
        counts: Sample counts of interest; without them every count that occurs among the pairs.

    Returns:
        Sample count to ratio, in the order of `counts`, or descending.

    >>> h = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [1.0, 0.0]])
    >>> imbalance_ratio(h, torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]))
    {1: tensor(0.4286)}
    """
    ratios = _imbalance_ratio(collapse_statistics(features, labels), counts=counts)
    return {count: ratio.to(working_dtype(features)) for count, ratio in ratios.items()}


def _imbalance_ratio(
    statistics: CollapseStatistics, *, counts: Sequence[int] | None = None
) -> dict[int, Float64[Tensor, ""]]:
    """`imbalance_ratio` from the statistics."""
    angles = _tag_wise_angles(statistics, 2)
    samples = statistics.sets.counts[statistics.sets.with_multiplicity(2)]
    seen = samples.unique().flip(0).tolist()
    counts = seen if counts is None else counts
    missing = [count for count in counts if count not in seen]
    if missing:
        raise ValueError(f"Expected sample counts among those of the pairs, {seen}, but got {missing}.")
    denominator = mean_angle_of_all_pairs(statistics, 2)
    return {count: angles[samples == count].mean() / denominator for count in counts}


def angles_degrees(a: Float[Tensor, "*s d"], b: Float[Tensor, "*s d"]) -> Float[Tensor, "*s"]:
    """Angle between vectors, row by row, in degrees: `2 atan2(|u - v|, |u + v|)` of the unit vectors.

    In [0, 180], exact to rounding at both ends, where the arc cosine loses half of the digits.

    >>> angles_degrees(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0]))
    tensor(90.)
    """
    u, v = unit_rows(a), unit_rows(b)
    half = torch.atan2(torch.linalg.vector_norm(u - v, dim=-1), torch.linalg.vector_norm(u + v, dim=-1))
    return torch.rad2deg(2 * half)


def tag_sums(statistics: CollapseStatistics, multiplicity: int) -> Float64[Tensor, "s d"]:
    """`sum_{k in S} mu_k` of the observed label sets of m labels."""
    slots = statistics.sets.slots[statistics.sets.with_multiplicity(multiplicity), :multiplicity]
    return reduce(torch.add, (statistics.class_means[column] for column in slots.unbind(dim=1)))


def mean_angle_of_all_pairs(statistics: CollapseStatistics, multiplicity: int) -> Float64[Tensor, ""]:
    """Mean angle between the means of the observed m-label sets and the tag sums of all m-subsets, in degrees.

    From inner products of class means, so it costs K + m numbers a pair, not d, while the K x K of them are few. Angles
    below 1e-6 degrees are lost in rounding, which a mean over all pairs does not feel.
    """
    num_pairs = _num_pairs(statistics.sets, multiplicity)
    if num_pairs > MAX_PAIRS:
        raise ValueError(
            f"Expected at most {MAX_PAIRS:.0e} pairs of label sets, "
            f"but multiplicity {multiplicity} has {num_pairs:.1e}."
        )
    directions = unit_rows(statistics.set_means[statistics.sets.with_multiplicity(multiplicity)])
    means = statistics.class_means
    (k, d), device = means.shape, means.device
    gram = means @ means.T if k * k <= MAX_TABLE else None
    total = torch.zeros((), dtype=torch.float64, device=device)
    for part in directions.split(max(1, MAX_TABLE // k)):
        products = part @ means.T
        block = max(1, PAIR_BLOCK // max(len(part) * multiplicity, d if gram is None else 1))
        for subsets in _subsets(k, multiplicity, block=block, device=device):
            if gram is None:
                norms = torch.linalg.vector_norm(sum(means[column] for column in subsets.unbind(dim=1)), dim=1)
            else:
                norms = gram[subsets.unsqueeze(2), subsets.unsqueeze(1)].sum(dim=(1, 2)).clamp(min=0).sqrt()
            cosines = (products[:, subsets].sum(dim=2) / norms).clamp(-1, 1)
            total += torch.atan2((1 - cosines).sqrt(), (1 + cosines).sqrt()).sum()
    return torch.rad2deg(2 * total) / num_pairs


def _num_pairs(sets: LabelSets, multiplicity: int) -> int:
    return math.comb(sets.num_classes, multiplicity) * len(sets.with_multiplicity(multiplicity))


def _subsets(num_classes: int, size: int, *, block: int, device: torch.device) -> Iterator[Int64[Tensor, "b m"]]:
    """All subsets of so many classes, in blocks."""
    ids = chain.from_iterable(combinations(range(num_classes), size))
    while (part := np.fromiter(islice(ids, block * size), np.int64)).size:
        yield torch.from_numpy(part).view(-1, size).to(device)
