"""Label sets: which samples carry the same labels."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor


@dataclass(frozen=True)
class LabelSets:
    """The distinct label sets of some samples, sorted by size and then by their class ids.

    `slots` has the class ids of each set in ascending order, -1 behind them where other sets are larger; `of_sample` is
    the row of each sample's label set, -1 for a sample without labels. Where absent classes were left out, `kept` has
    the ids of the others.
    """

    of_sample: Int64[Tensor, " n"]
    slots: Int64[Tensor, "s m"]
    counts: Int64[Tensor, " s"]
    num_classes: int
    kept: Int64[Tensor, " k"] | None = None

    @cached_property
    def multiplicity(self) -> Int64[Tensor, " s"]:
        """Number of labels in each set."""
        return (self.slots >= 0).sum(dim=1)

    @property
    def classes(self) -> Int64[Tensor, " e"]:
        """The class ids of the sets, one set behind the other."""
        return self.slots[self.slots >= 0]

    @cached_property
    def members(self) -> Bool[Tensor, "s k"]:
        """The sets, multi-hot."""
        members = self.slots.new_zeros(len(self.counts), self.num_classes + 1, dtype=torch.bool)
        return members.scatter_(1, self.slots.where(self.slots >= 0, self.num_classes), True)[:, :-1]

    @cached_property
    def is_single(self) -> Bool[Tensor, " n"]:
        """Which samples have exactly one label."""
        return (self.of_sample >= 0) & (self.multiplicity == 1)[self.of_sample.clamp(min=0)]

    def present(self) -> "LabelSets":
        """Without the classes that no set has."""
        kept = self.classes.unique()
        if len(kept) < 2:
            raise ValueError(f"Expected at least 2 classes with samples, but got {len(kept)}.")
        slots = torch.searchsorted(kept, self.slots).where(self.slots >= 0, -1)
        return replace(self, slots=slots, num_classes=len(kept), kept=kept)

    def rows_of_kept(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        """The rows of a weight, a bias or so of the classes that were not left out."""
        return arrays if self.kept is None or len(self.kept) == len(arrays[0]) else tuple(a[self.kept] for a in arrays)

    def with_multiplicity(self, multiplicity: int) -> Int64[Tensor, " s"]:
        """Rows of the sets with this many labels, at least one."""
        rows = (self.multiplicity == multiplicity).nonzero().flatten()
        if len(rows) == 0:
            seen = self.multiplicity.unique().tolist()
            raise ValueError(f"Expected a multiplicity among those of the labels, {seen}, but got {multiplicity}.")
        return rows


def check_tensors(**values: object) -> None:
    """Raises a TypeError for what is no tensor, such as a NumPy array."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            found = f"{type(value).__module__}.{type(value).__qualname__}"
            raise TypeError(f"Expected {name} to be a torch.Tensor, but got {found}: torch.as_tensor makes one of it.")


def label_sets(labels: Shaped[Tensor, "n *k"], *, num_classes: int | None = None) -> LabelSets:
    """Groups samples by their label set.

    Exact for any number of classes and labels: only the positions of the labels are sorted, never whole rows.

    Args:
        labels: Multi-hot (n, k) of zeros and ones in any dtype, or class ids (n,).
        num_classes: Number of classes; without it the number of columns, or the largest class id plus one.

    Raises:
        ValueError: If there are fewer than two classes, no labels, or labels out of range.

    >>> sets = label_sets(torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]]))
    >>> sets.of_sample.tolist(), sets.slots.tolist(), sets.counts.tolist()
    ([1, 0, 1], [[1, -1], [0, 2]], [1, 2])
    """
    check_tensors(labels=labels)
    if labels.numel() == 0 or labels.ndim not in (1, 2):
        raise ValueError(
            f"Expected labels that are multi-hot (n, k) or class ids (n,), n >= 1, but got {tuple(labels.shape)}."
        )
    if labels.ndim == 2 and num_classes not in (None, labels.shape[1]):
        raise ValueError(f"Expected multi-hot labels of {num_classes} columns, but got {labels.shape[1]}.")
    if num_classes is None:
        num_classes = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    if num_classes < 2:
        raise ValueError(f"Expected at least 2 classes, but got {num_classes}.")
    if labels.ndim == 1:
        _check_ids(labels, num_classes=num_classes)
        return _single_label_sets(labels.long(), num_classes=num_classes)
    samples, classes = labels.nonzero(as_tuple=True)
    values = labels[samples, classes]
    if not bool((values == 1).all()):
        wrong = values[values != 1][0].item()
        raise ValueError(f"Expected multi-hot labels of zeros and ones, but got {wrong}.")
    return group_labels(torch.bincount(samples, minlength=len(labels)), classes, num_classes=num_classes)


def _check_ids(labels: Shaped[Tensor, " n"], *, num_classes: int) -> None:
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"Expected class ids (n,) of an integer dtype, but got {labels.dtype}.")
    low, high = (int(value) for value in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise ValueError(f"Expected class ids in 0..{num_classes - 1}, but got {low}..{high}.")


def _single_label_sets(classes: Int64[Tensor, " n"], *, num_classes: int) -> LabelSets:
    counts = torch.bincount(classes, minlength=num_classes)
    seen = counts > 0
    return LabelSets((seen.cumsum(0) - 1)[classes], seen.nonzero(), counts[seen], num_classes)


def group_labels(sizes: Int64[Tensor, " n"], classes: Int64[Tensor, " e"], *, num_classes: int) -> LabelSets:
    """Label sets from the number of labels of each sample, and from their class ids, ascending, sample by sample."""
    if bool((sizes == 1).all()):
        return _single_label_sets(classes, num_classes=num_classes)
    if len(classes) == 0:
        raise ValueError("Expected at least one sample with a label, but got none.")
    starts = sizes.cumsum(0) - sizes
    of_sample = torch.full_like(sizes, -1)
    slots, counts = [], []
    num_sets, most = 0, int(sizes.max())
    for size in sizes[sizes > 0].unique().tolist():
        rows = (sizes == size).nonzero().flatten()
        ids = classes[starts[rows].unsqueeze(1) + torch.arange(size, device=rows.device)]
        code = torch.zeros_like(rows)
        for slot in ids.unbind(dim=1):
            # folding one label at a time keeps the code below n k, which base-k digits of a large set would overflow
            code = torch.unique(code * num_classes + slot, return_inverse=True)[1]
        set_counts = torch.bincount(code)
        of_sample[rows] = code + num_sets
        slots.append(ids.new_full((len(set_counts), most), -1))
        slots[-1][code, :size] = ids
        counts.append(set_counts)
        num_sets += len(set_counts)
    return LabelSets(of_sample, torch.cat(slots), torch.cat(counts), num_classes)
