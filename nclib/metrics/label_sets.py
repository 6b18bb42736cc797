"""Label sets: which samples carry the same labels."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor


@dataclass(frozen=True)
class LabelSets:
    """The distinct label sets of some samples, sorted by size and then by their class ids, multi-hot in `members`.

    `of_sample` is the row of each sample's label set, -1 for a sample without labels.
    """

    of_sample: Int64[Tensor, " n"]
    members: Bool[Tensor, "s k"]
    counts: Int64[Tensor, " s"]

    @property
    def num_classes(self) -> int:
        return self.members.shape[1]

    @cached_property
    def multiplicity(self) -> Int64[Tensor, " s"]:
        """Number of labels in each set."""
        return self.members.sum(dim=1)

    @cached_property
    def is_single(self) -> Bool[Tensor, " n"]:
        """Which samples have exactly one label."""
        return (self.of_sample >= 0) & (self.multiplicity == 1)[self.of_sample.clamp(min=0)]

    @cached_property
    def slots(self) -> Int64[Tensor, "s m"]:
        """The class ids of each set in ascending order, -1 behind them where other sets are larger."""
        size = int(self.multiplicity.max())
        ids = torch.arange(self.num_classes, device=self.members.device)
        ordered = torch.where(self.members, ids, self.num_classes).sort(dim=1).values[:, :size]
        return torch.where(ordered == self.num_classes, -1, ordered)

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
    if len(samples) == len(labels) and bool((samples.diff() == 1).all()):
        return _single_label_sets(classes, num_classes=num_classes)
    return _multi_label_sets(samples, classes, num_samples=len(labels), num_classes=num_classes)


def _check_ids(labels: Shaped[Tensor, " n"], *, num_classes: int) -> None:
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"Expected class ids (n,) of an integer dtype, but got {labels.dtype}.")
    low, high = (int(value) for value in labels.aminmax())
    if low < 0 or high >= num_classes:
        raise ValueError(f"Expected class ids in 0..{num_classes - 1}, but got {low}..{high}.")


def _single_label_sets(classes: Int64[Tensor, " n"], *, num_classes: int) -> LabelSets:
    counts = torch.bincount(classes, minlength=num_classes)
    seen = counts > 0
    members = torch.eye(num_classes, dtype=torch.bool, device=classes.device)[seen]
    return LabelSets((seen.cumsum(0) - 1)[classes], members, counts[seen])


def _multi_label_sets(
    samples: Int64[Tensor, " e"], classes: Int64[Tensor, " e"], *, num_samples: int, num_classes: int
) -> LabelSets:
    """Label sets from the (sample, class) pairs in row order, one multiplicity after the other."""
    if len(samples) == 0:
        raise ValueError("Expected at least one sample with a label, but got none.")
    sizes = torch.bincount(samples, minlength=num_samples)
    starts = sizes.cumsum(0) - sizes
    of_sample = torch.full_like(sizes, -1)
    members, counts = [], []
    num_sets = 0
    for size in sizes[sizes > 0].unique().tolist():
        rows = (sizes == size).nonzero().flatten()
        ids = classes[starts[rows].unsqueeze(1) + torch.arange(size, device=rows.device)]
        code = torch.zeros_like(rows)
        for slot in ids.unbind(dim=1):
            # folding one label at a time keeps the code below n k, which base-k digits of a large set would overflow
            code = torch.unique(code * num_classes + slot, return_inverse=True)[1]
        set_counts = torch.bincount(code)
        of_sample[rows] = code + num_sets
        block = torch.zeros(len(set_counts), num_classes, dtype=torch.bool, device=rows.device)
        block[code.unsqueeze(1).expand_as(ids), ids] = True
        members.append(block)
        counts.append(set_counts)
        num_sets += len(set_counts)
    return LabelSets(of_sample, torch.cat(members), torch.cat(counts))
