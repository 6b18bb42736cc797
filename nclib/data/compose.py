"""Multi-label images from single-label ones, by the recipes of the pick-all-label paper, vectorized.

A composed image has twice the side of its sources. Three layouts, where s is the side of a source and q = s // 4 - 1
the largest shift (6 pixels for MNIST's 28, 7 for CIFAR's 32, 1 for the 8 of the small digits):

- `mnist`: a source lies in the bottom-right or the top-left quadrant, then is rolled cyclically down and right by 0..q
  pixels each, independently. A one-label image is at the bottom right; the sources of a pair take one quadrant each,
  which one is random.
- `cifar`: a source lies p pixels in both directions from the top-left or the bottom-right corner, p in 0..q, the
  corner at random; the sources of a pair take one corner each.
- `grid`: up to four labels, one cell of 2 x 2 each, which one is random; no shift.

In a triple of `mnist` and `cifar` the third source shares the second's corner. Sources join by pixelwise maximum.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Int64, Shaped, UInt8
from torch import Tensor

from nclib.data.sources.base import SourceImages
from nclib.study.registry import LAYOUTS, SMALLEST_SIDE, check_multiplicities, check_pair_groups

LabelSet = tuple[int, ...]
Counts = Mapping[int, int | Mapping[LabelSet, int]]


@dataclass(frozen=True)
class MultiLabelData:
    """Images (0..255) with label sets (multi-hot).

    `source_index` is the place of each source image in its source as published, in the order of the image's labels; -1
    pads.
    """

    images: UInt8[Tensor, "n c h w"]
    labels: UInt8[Tensor, "n k"]
    source_index: Int64[Tensor, "n m"]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def multiplicity(self) -> Int64[Tensor, " n"]:
        """Number of labels of each image."""
        return self.labels.sum(1, dtype=torch.int64)

    def label_set_counts(self) -> dict[LabelSet, int]:
        """Number of images of each label set that occurs, by multiplicity, then in lexicographic order."""
        sets, counts = self.labels.unique(dim=0, return_counts=True)
        found = [tuple(row.nonzero().flatten().tolist()) for row in sets]
        return dict(sorted(zip(found, counts.tolist(), strict=True), key=lambda item: (len(item[0]), item[0])))


def pair_group_counts(num_classes: int, groups: Sequence[int]) -> dict[LabelSet, int]:
    """Counts of an imbalanced data set: all pairs of classes in equal consecutive groups, each with its own count.

    There are K(K-1)/2 pairs, in lexicographic order. The counts of `groups`, e.g. `[500, 50, 5]`, are at least 1, and
    different, since results name the groups by them.

    Raises:
        ValueError: a number is below 1 or given twice, or the pairs cannot be cut into that many equal groups.

    >>> pair_group_counts(3, [7, 4, 2])
    {(0, 1): 7, (0, 2): 4, (1, 2): 2}
    """
    check_pair_groups(groups, num_classes)
    pairs = list(combinations(range(num_classes), 2))
    size = len(pairs) // len(groups)
    return {pair: groups[place // size] for place, pair in enumerate(pairs)}


def compose(source: SourceImages, *, counts: Counts, layout: str, generator: torch.Generator) -> MultiLabelData:
    """Compose images of every label set of the given multiplicities.

    Within each class the source images are dealt like a shuffled deck, lowest multiplicity first: none is used a
    second time before all of its class were used once. So the 40,000 images of MLab-MNIST and MLab-CIFAR10 (4,900
    sources per class) use no source twice.

    Source: Li, Wang, Li and Qu 2024 (arXiv 2310.15903), data sets MLab-MNIST and MLab-CIFAR10, as released.

    Args:
        source: single-label square images.
        counts: for each multiplicity the images of each label set: one number, or a mapping from label sets
            (ascending class ids) to numbers.
        layout: `mnist`, `cifar` or `grid`; see the module's head.
        generator: of all draws; the same state gives the same images.

    Returns:
        Images by ascending multiplicity, then label set in lexicographic order.

    Raises:
        ValueError: an argument is out of range; the message says which.

    >>> from nclib.data import sources
    >>> digits = sources.load("digits", train=True)
    >>> data = compose(digits, counts={1: 3, 2: 1}, layout="mnist", generator=torch.Generator().manual_seed(0))
    >>> tuple(data.images.shape), data.multiplicity.bincount().tolist()
    ((75, 1, 16, 16), [0, 30, 45])
    """
    side = _check(source, counts, layout)
    label_sets = [_label_sets(source.num_classes, counts[m], m) for m in sorted(counts)]
    decks = _Decks(source, generator)
    total = sum(len(sets) for sets in label_sets)
    if total == 0:
        raise ValueError(f"Expected counts to give one image or more, but got {dict(counts)}.")
    width = max(sets.shape[1] for sets in label_sets)
    canvas = torch.zeros(total, source.images.shape[1], 2 * side, 2 * side, dtype=torch.uint8)
    labels = torch.zeros(total, source.num_classes, dtype=torch.uint8)
    source_index = torch.full((total, width), -1)
    start = 0
    for sets in label_sets:
        rows = slice(start, start + len(sets))
        picked = decks.deal(sets)
        places = _PLACES[layout](len(sets), sets.shape[1], side, generator)
        for position in range(sets.shape[1]):
            _paste(canvas[rows], source.images, picked[:, position], places[:, position])
        labels[rows] = labels[rows].scatter(1, sets, 1)
        source_index[rows, : sets.shape[1]] = source.places()[picked]
        start = rows.stop
    return MultiLabelData(canvas, labels, source_index, source.class_names)


def _check(source: SourceImages, counts: Counts, layout: str) -> int:
    if layout not in LAYOUTS:
        raise ValueError(f"Expected layout to be one of {', '.join(LAYOUTS)}, but got {layout!r}.")
    if source.is_multi_label:
        raise ValueError("Expected single-label source images to compose, but this source has multi-hot labels.")
    height, width = source.images.shape[-2:]
    if height != width or height < SMALLEST_SIDE:
        raise ValueError(
            f"Expected square source images of {SMALLEST_SIDE} pixels or more per side, but got {height} x {width}."
        )
    check_multiplicities(counts, layout, source.num_classes)
    return height


def _label_sets(num_classes: int, counts: int | Mapping[LabelSet, int], multiplicity: int) -> Int64[Tensor, "n m"]:
    """One row per image to be made: its ascending class ids."""
    every = list(combinations(range(num_classes), multiplicity))
    if isinstance(counts, Mapping):
        unknown = sorted(set(counts) - set(every))
        if unknown:
            raise ValueError(
                f"Expected label sets of {multiplicity} ascending class ids below {num_classes}, but got {unknown[0]}."
            )
        numbers = [counts.get(label_set, 0) for label_set in every]
    else:
        numbers = [counts] * len(every)
    if min(numbers) < 0:
        raise ValueError(f"Expected counts of images to be 0 or more, but got {min(numbers)}.")
    return torch.tensor(every).repeat_interleave(torch.tensor(numbers), dim=0)


class _Decks:
    """The source images of each class as an endless row of shuffled decks."""

    def __init__(self, source: SourceImages, generator: torch.Generator) -> None:
        self.rows = [(source.labels == label).nonzero().squeeze(1) for label in range(source.num_classes)]
        self.names = source.class_names
        self.left = [rows[:0] for rows in self.rows]
        self.generator = generator

    def deal(self, sets: Int64[Tensor, "n m"]) -> Int64[Tensor, "n m"]:
        """A source row for each entry of `sets`, which holds class ids."""
        picked = torch.empty_like(sets)
        for label in sets.unique().tolist():
            places = sets == label
            picked[places] = self._take(label, int(places.sum()))
        return picked

    def _take(self, label: int, number: int) -> Int64[Tensor, " number"]:
        rows, left = self.rows[label], self.left[label]
        if len(rows) == 0:
            raise ValueError(f"Expected images of every class, but class {self.names[label]!r} has none.")
        decks = math.ceil(max(number - len(left), 0) / len(rows))
        left = torch.cat([left, *(rows[torch.randperm(len(rows), generator=self.generator)] for _ in range(decks))])
        self.left[label] = left[number:]
        return left[:number]


# Each layout gives the (top, left) pixel of every source on the canvas of side 2s; a source wraps round the edges.


def _corners(num: int, multiplicity: int, generator: torch.Generator) -> Int64[Tensor, "n m"]:
    """1 = bottom right, 0 = top left: the first source's at random, all others opposite."""
    first = torch.randint(2, (num, 1), generator=generator)
    return torch.cat([first, (1 - first).expand(num, multiplicity - 1)], 1)


def _mnist_places(num: int, multiplicity: int, side: int, generator: torch.Generator) -> Int64[Tensor, "n m 2"]:
    rolls = torch.randint(side // 4, (num, multiplicity, 2), generator=generator)
    corners = _corners(num, multiplicity, generator) if multiplicity > 1 else torch.ones(num, 1, dtype=torch.int64)
    return corners.unsqueeze(2) * side + rolls


def _cifar_places(num: int, multiplicity: int, side: int, generator: torch.Generator) -> Int64[Tensor, "n m 2"]:
    padding = torch.randint(side // 4, (num, multiplicity), generator=generator)
    corners = _corners(num, multiplicity, generator)
    place = torch.where(corners == 1, side - padding, padding)
    return torch.stack([place, place], 2)


def _grid_places(num: int, multiplicity: int, side: int, generator: torch.Generator) -> Int64[Tensor, "n m 2"]:
    cells = torch.rand(num, 4, generator=generator).argsort(1)[:, :multiplicity]
    return torch.stack([cells // 2, cells % 2], 2) * side


_PLACES = {"mnist": _mnist_places, "cifar": _cifar_places, "grid": _grid_places}


def _paste(
    canvas: UInt8[Tensor, "n c h w"],
    images: UInt8[Tensor, "p c s s"],
    picked: Int64[Tensor, " n"],
    places: Int64[Tensor, "n 2"],
) -> None:
    """Lay `images[picked]` on `canvas` in place by pixelwise maximum, wrapping round the edges.

    Only few places differ (49 per quadrant for MNIST), so images of one place are laid at once; by NumPy, which does
    not slow down when other programs use the cores.
    """
    size, side = canvas.shape[-1], images.shape[-1]
    target, sources = canvas.numpy(), images.numpy()
    codes = (places[:, 0] * size + places[:, 1]).numpy()
    for code in np.unique(codes).tolist():
        rows = np.flatnonzero(codes == code)
        piece = np.zeros((len(rows), *target.shape[1:]), np.uint8)
        piece[:, :, :side, :side] = sources[picked.numpy()[rows]]
        target[rows] = np.maximum(target[rows], np.roll(piece, divmod(code, size), (2, 3)))


def uncomposed(source: SourceImages) -> MultiLabelData:
    """The source's own images as they are; class ids become one-hot rows."""
    labels: Shaped[Tensor, "n k"] = source.labels
    if not source.is_multi_label:
        labels = torch.nn.functional.one_hot(source.labels, source.num_classes)
    return MultiLabelData(source.images, labels.to(torch.uint8), source.places().unsqueeze(1), source.class_names)
