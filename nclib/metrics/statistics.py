"""First pass over the features: the mean of every label set, from which all class statistics follow."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor

from nclib.metrics.label_sets import LabelSets, check_tensors, label_sets
from nclib.metrics.rows import Rows

BLOCK_BYTES = {"cpu": 4 << 20}
"""Features handled at a time, in bytes: a block and its deviations stay in the last-level cache of a CPU."""
OTHER_BLOCK_BYTES = 256 << 20
MIN_ROWS = 256
BAG_ROWS = 64
"""Rows added up in the working precision before the sums go on in float64."""


class LabelSetMeans(NamedTuple):
    """The observed label sets, sorted by size and class ids, with their counts and mean features."""

    label_sets: Bool[Tensor, "s k"]
    counts: Int64[Tensor, " s"]
    means: Float[Tensor, "s d"]


@dataclass(frozen=True)
class CollapseStatistics:
    """Means of all label sets (float64): what the geometry of the collapse is computed from.

    Every class has at least one sample that carries it alone, so the first k sets are the single classes in order.
    """

    sets: LabelSets
    set_means: Float64[Tensor, "s d"]

    @property
    def class_means(self) -> Float64[Tensor, "k d"]:
        """`mu_k`, means of the features with one label."""
        return self.set_means[: self.sets.num_classes]

    @property
    def class_counts(self) -> Int64[Tensor, " k"]:
        """Number of samples that carry each class alone."""
        return self.sets.counts[: self.sets.num_classes]

    @cached_property
    def global_mean(self) -> Float64[Tensor, " d"]:
        """`mu_G`, the unweighted mean of the class means."""
        return self.class_means.mean(dim=0)

    @cached_property
    def deviations(self) -> Rows:
        """`mu_k - mu_G`."""
        return Rows(self.class_means, self.global_mean)

    @cached_property
    def released_deviations(self) -> Rows:
        """`mu_k - mu_G`, `mu_G` as in paper 1's code: one-label features summed, divided by **all** samples."""
        return Rows(self.class_means, (self.class_counts.double() @ self.class_means) / self.sets.counts.sum())

    @cached_property
    def weighted_deviations(self) -> Rows:
        """`sqrt(n_k / n) (mu_k - m)`, `m` the mean of all one-label samples."""
        shares = self.class_counts.double() / self.class_counts.sum()
        return Rows(self.class_means, shares @ self.class_means, shares.sqrt())


def collapse_statistics(
    features: Float[Tensor, "n d"],
    labels: Shaped[Tensor, "n *k"],
    *,
    num_classes: int | None = None,
    classes: str = "all",
) -> CollapseStatistics:
    """Means of every label set in one read of the features, accumulated in float64 about a row of the features.

    Args:
        features: Last-layer features (n, d), float16 to float64.
        labels: Multi-hot (n, k) or class ids (n,); samples without labels are left out.
        num_classes: Number of classes, where class ids do not show it.
        classes: "all", or "present" to leave out those without samples.

    Raises:
        ValueError: If shapes or labels are invalid, a class has no sample that carries it alone, or features are not
            finite.
    """
    check_features(features, labels)
    check_classes(classes)
    sets = label_sets(labels, num_classes=num_classes)
    sets = sets.present() if classes == "present" else sets
    check_single_labels(sets)
    means = set_means(features, sets)
    if not bool(means.sum().isfinite()):
        row = int((~features.isfinite().all(dim=1)).nonzero()[0])
        raise ValueError(f"Expected finite features, but got NaN or infinity, first in row {row}.")
    return CollapseStatistics(sets, means)


def statistics_and_last_layer(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None, *, classes: str = "all"
) -> tuple[CollapseStatistics, Float[Tensor, "k d"], Float64[Tensor, " k"]]:
    """`collapse_statistics`, and the weight and bias that fit them."""
    check_features(features, labels)
    weight, bias = check_last_layer(weight, bias, feature_dim=features.shape[1])
    statistics = collapse_statistics(features, labels, num_classes=len(weight), classes=classes)
    weight, bias = statistics.sets.rows_of_kept(weight, bias)
    return statistics, weight, bias


def check_last_layer(
    weight: Tensor, bias: Tensor | None = None, *, feature_dim: int, num_classes: int | None = None
) -> tuple[Float[Tensor, "k d"], Float64[Tensor, " k"]]:
    """The weight, and the bias in float64, zeros where there is none."""
    fits = weight.ndim == 2 and weight.shape[1] == feature_dim and num_classes in (None, len(weight))
    if not fits or (bias is not None and bias.shape != weight.shape[:1]):
        k = "k" if num_classes is None else num_classes
        shape = None if bias is None else tuple(bias.shape)
        raise ValueError(
            f"Expected weight ({k}, {feature_dim}) and bias ({k},), but got {tuple(weight.shape)} and {shape}."
        )
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    # sums, as isfinite would take memory for a copy
    if not bool(Rows(weight.detach()).total.isfinite().all() & bias.isfinite().all()):
        raise ValueError("Expected a finite weight and bias, but got NaN or infinity.")
    return weight.detach(), bias.detach().double()


def check_classes(classes: str) -> None:
    if classes not in ("all", "present"):
        raise ValueError(f"Expected classes 'all' or 'present', but got {classes!r}.")


def check_single_labels(sets: LabelSets) -> None:
    """Refuse classes that never occur alone: class means are taken over the samples with one label."""
    singles = sets.slots[sets.multiplicity == 1, 0]
    if len(singles) < sets.num_classes:
        missing = (torch.bincount(singles, minlength=sets.num_classes) == 0).nonzero().flatten()
        missing = (missing if sets.kept is None else sets.kept[missing]).tolist()
        raise ValueError(
            "Expected at least one sample with a single label for every class, "
            f"but classes {missing[:20]} of {sets.num_classes} have none."
        )


def class_means(
    features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"], *, num_classes: int | None = None
) -> Float[Tensor, "k d"]:
    """Mean feature `mu_k` of each class over the samples that carry it alone, at least float32.

    Args, Raises: as `collapse_statistics`.

    >>> class_means(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 0, 1]))
    tensor([[2., 0.],
            [0., 5.]])
    """
    statistics = collapse_statistics(features, labels, num_classes=num_classes)
    return statistics.class_means.to(working_dtype(features))


def label_set_means(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> LabelSetMeans:
    """Mean feature `mu_S` of each observed label set S, with the sets (multi-hot) and their sample counts.

    Args, Raises: as `collapse_statistics`.
    """
    statistics = collapse_statistics(features, labels)
    means = statistics.set_means.to(working_dtype(features))
    return LabelSetMeans(statistics.sets.members, statistics.sets.counts, means)


def working_dtype(features: Tensor) -> torch.dtype:
    """float64 for float64 features, float32 for narrower ones."""
    return torch.promote_types(features.dtype, torch.float32)


def row_blocks(features: Float[Tensor, "n d"], *, columns: int = 0) -> list[slice]:
    """Consecutive rows, as many as a block should hold, at most a quarter of all unless these are few.

    `columns` counts the numbers computed for each row, where they may be more than d.
    """
    row_bytes = max(features.shape[1], columns) * working_dtype(features).itemsize
    rows = BLOCK_BYTES.get(features.device.type, OTHER_BLOCK_BYTES) // row_bytes
    rows = max(1, min(rows, max(MIN_ROWS, len(features) // 4)))
    return [slice(start, min(start + rows, len(features))) for start in range(0, len(features), rows)]


def block_buffer(features: Float[Tensor, "n d"], blocks: list[slice]) -> Float[Tensor, "b d"]:
    """Memory for the largest block, to be reused: fresh pages for every block cost as much as its arithmetic."""
    return features.new_empty(blocks[0].stop, features.shape[1], dtype=working_dtype(features))


def check_features(features: Tensor, labels: Tensor) -> None:
    check_tensors(features=features, labels=labels)
    if features.ndim != 2 or features.shape[:1] != labels.shape[:1] or features.numel() == 0:
        raise ValueError(
            "Expected features (n, d) and labels of as many samples, n >= 1, "
            f"but got {tuple(features.shape)} and {tuple(labels.shape)}."
        )


def set_means(features: Float[Tensor, "n d"], sets: LabelSets) -> Float64[Tensor, "s d"]:
    """Mean of every label set, in float64."""
    features = features.detach()
    # sums about a row of the data: a large common offset would cost digits
    shift = features[0].to(working_dtype(features))
    sums = torch.zeros(len(sets.counts), features.shape[1], dtype=torch.float64, device=features.device)
    blocks = row_blocks(features)
    buffer = block_buffer(features, blocks)
    order, bags = _bags(sets, blocks)
    for rows, (starts, ids) in zip(blocks, bags, strict=True):
        shifted = torch.sub(features[rows], shift, out=buffer[: rows.stop - rows.start])
        bag_sums = F.embedding_bag(order[rows] - rows.start, shifted, starts - rows.start, mode="sum")
        labeled = ids >= 0
        sums.index_add_(0, ids[labeled], bag_sums[labeled].double())
    return sums.div_(sets.counts.unsqueeze(1)).add_(shift)


def _bags(
    sets: LabelSets, blocks: list[slice]
) -> tuple[Int64[Tensor, " n"], list[tuple[Int64[Tensor, " g"], Int64[Tensor, " g"]]]]:
    """Samples ordered by label set within each block, and for each block the runs of one set: starts and set ids.

    A run ends at every `BAG_ROWS` samples, too.
    """
    place = torch.arange(len(sets.of_sample), device=sets.of_sample.device)
    num_ids = len(sets.counts) + 1  # -1 for samples without labels
    keys, order = (place // blocks[0].stop * num_ids + sets.of_sample + 1).sort(stable=True)
    is_start = place % BAG_ROWS == 0
    is_start[1:] |= keys.diff() != 0
    starts = is_start.nonzero().flatten()
    ids = keys[starts] % num_ids - 1
    edges = torch.tensor([rows.start for rows in blocks[1:]], dtype=torch.int64, device=place.device)
    cuts = torch.searchsorted(starts, edges).cpu()
    return order, list(zip(starts.tensor_split(cuts), ids.tensor_split(cuts), strict=True))
