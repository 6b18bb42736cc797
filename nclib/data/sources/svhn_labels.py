"""Rules that choose images by their labels alone."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

SVHN_SINGLE_CAP = 543  # one-digit images kept of each class: as many as the rarest class has in the training split
SVHN_MAX_LABELS = 3


def select_svhn(
    digits: Sequence[Sequence[int]], *, single_cap: int = SVHN_SINGLE_CAP, max_labels: int = SVHN_MAX_LABELS
) -> tuple[Int64[Tensor, " n"], UInt8[Tensor, "n 9"]]:
    """The images of SVHN that the pick-all-label paper keeps, and their label sets.

    The label set of a image is the set of its distinct digits. Dropped are images with a 0, with more than
    `max_labels` distinct digits, and all but the first `single_cap` of each class with one distinct digit; the same
    rule holds for both splits.

    Source: Li, Wang, Li and Qu 2024 (arXiv 2310.15903), as released; on the real annotations it keeps 26,085 training
    and 11,273 test images.

    Args:
        digits: the digits 0..9 of each image, in any order, repeated or not.
        single_cap: one-digit images kept of each class.
        max_labels: most distinct digits of a image.

    Returns:
        Ascending rows of the images kept, and their multi-hot labels (column k: digit k + 1).

    Raises:
        ValueError: a image has no digit, or one outside 0..9.

    >>> rows, labels = select_svhn([[1, 1], [2, 0], [3, 5, 3]])
    >>> rows.tolist(), labels.nonzero().tolist()
    ([0, 2], [[0, 0], [1, 2], [1, 4]])
    """
    kept: list[tuple[int, list[int]]] = []
    singles = [0] * 10
    for row, numbers in enumerate(digits):
        distinct = sorted(set(numbers))
        if not distinct or distinct[0] < 0 or distinct[-1] > 9:
            raise ValueError(f"Expected one or more digits 0..9 in image {row}, but got {list(numbers)}.")
        if 0 in distinct or len(distinct) > max_labels:
            continue
        if len(distinct) == 1:
            singles[distinct[0]] += 1
            if singles[distinct[0]] > single_cap:
                continue
        kept.append((row, distinct))
    labels = torch.zeros(len(kept), 9, dtype=torch.uint8)
    for place, (_, distinct) in enumerate(kept):
        labels[place, torch.tensor(distinct) - 1] = 1
    return torch.tensor([row for row, _ in kept], dtype=torch.int64), labels


def first_of_each_set(labels: UInt8[Tensor, "n k"], size: int) -> Int64[Tensor, " m"]:
    """The first `size` images of each label set; all of a set that has fewer.

    Args:
        labels: multi-hot.
        size: most images of a label set.

    Returns:
        Ascending rows.

    >>> first_of_each_set(torch.tensor([[1, 0], [1, 1], [1, 0], [1, 0]], dtype=torch.uint8), 2).tolist()
    [0, 1, 2]
    """
    sets, number = labels.unique(dim=0, return_inverse=True)
    kept = [(number == each).nonzero().squeeze(1)[:size] for each in range(len(sets))]
    return torch.cat(kept).sort().values
