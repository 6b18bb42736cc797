"""Street View House Numbers, format 1 (full images with a box around each digit), as multi-label images."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from nclib.data.sources.base import SourceError, SourceImages
from nclib.data.sources.decoding import cached, decode_all
from nclib.data.sources.digit_struct import DigitStruct
from nclib.data.sources.download import fetch, unpack
from nclib.study.files import sha256
from nclib.study.registry import SOURCES

URL = SOURCES["svhn"].url
SHA256 = {
    "train": "4b17bb33b6cd8f963493168f80143da956f28ec406cc12f8e5745a9f91a51898",
    "test": "57ac9ceb530e4aa85b55d991be8fc49c695b3d71c6f6a88afea86549efde7fb5",
}
CLASS_NAMES = tuple("123456789")
SINGLE_CAP = 543  # one-digit images kept of each class: as many as the rarest class has in the training split
MAX_LABELS = 3


def load(*, root: Path, train: bool, image_size: int, sample_size: int | None = None) -> SourceImages:
    """Read `ROOT/svhn/train` or `.../test` (`digitStruct.mat` and the PNGs); fetch and unpack the archive if missing.

    The smallest square around all digits is cut out and resized; `select` chooses the images.

    Args:
        root: folder of the data.
        train: the training split (404 MB to fetch), or the test split (277 MB).
        image_size: side of the images [pixels]; 32 in the paper.
        sample_size: most images of a label set, the first ones; the others are not decoded. None: all.

    Returns:
        Images with multi-hot labels of the digits 1..9; `index` counts the annotations.
    """
    split = "train" if train else "test"
    folder = root / "svhn" / split
    if not folder.is_dir():
        archive = root / "svhn" / f"{split}.tar.gz"
        advice = f"Put {archive.name} (format 1, from {URL}) into {archive.parent}, or unpack it there."
        unpack(fetch([URL + archive.name], archive, digest=SHA256[split], advice=advice, or_own=True), folder)
    annotated = folder / "digitStruct.mat"
    if not annotated.is_file():
        raise SourceError(f"{annotated} is missing: delete {folder} and run the same command again.")
    images, settings = sorted(folder.glob("*.png")), {"image_size": image_size, "sample_size": sample_size}
    settings |= {"annotations": sha256(annotated)}
    return cached(f"svhn-{split}-{image_size}", images, lambda: _crops(annotated, image_size, sample_size), **settings)


def _crops(annotated: Path, image_size: int, sample_size: int | None) -> SourceImages:
    """The selected images of one unpacked split."""
    digit_struct = DigitStruct(annotated)
    rows, labels = select(digit_struct.digits)
    if len(rows) == 0:
        raise SourceError(f"{annotated} has no image that the selection keeps (digits 1..9, at most three).")
    if sample_size is not None:
        chosen = first_of_each_set(labels, sample_size)
        rows, labels = rows[chosen], labels[chosen]
    kept = digit_struct.annotations(rows.tolist())

    def crop(image: Image.Image, number: int) -> Image.Image:
        window = crop_window(kept[number].boxes, image.width, image.height)
        return image.crop(window).resize((image_size, image_size), Image.Resampling.LANCZOS)

    paths = [annotated.with_name(annotation.name) for annotation in kept]
    images = decode_all(paths, crop, what=f"Cropping svhn/{annotated.parent.name}")
    return SourceImages(images, labels, CLASS_NAMES, rows)


def select(digits: Sequence[Sequence[int]]) -> tuple[Int64[Tensor, " n"], UInt8[Tensor, "n 9"]]:
    """The images of SVHN that the pick-all-label paper keeps, and their label sets.

    The label set of an image is the set of its distinct digits. Dropped are images with a 0, with more than
    `MAX_LABELS` distinct digits, and all but the first `SINGLE_CAP` of each class with one distinct digit; the same
    rule holds for both splits.

    Source: Li, Wang, Li and Qu 2024 (arXiv 2310.15903), as released; on the real annotations it keeps 26,085 training
    and 11,273 test images.

    Args:
        digits: one or more digits 0..9 of each image, in any order, repeated or not.

    Returns:
        Ascending rows of the images kept, and their multi-hot labels (column k: digit k + 1).

    >>> rows, labels = select([[1, 1], [2, 0], [3, 5, 3]])
    >>> rows.tolist(), labels.nonzero().tolist()
    ([0, 2], [[0, 0], [1, 2], [1, 4]])
    """
    kept: list[tuple[int, list[int]]] = []
    singles = [0] * 10
    for row, numbers in enumerate(digits):
        distinct = sorted(set(numbers))
        if 0 in distinct or len(distinct) > MAX_LABELS:
            continue
        if len(distinct) == 1:
            singles[distinct[0]] += 1
            if singles[distinct[0]] > SINGLE_CAP:
                continue
        kept.append((row, distinct))
    labels = torch.zeros(len(kept), 9, dtype=torch.uint8)
    for place, (_, distinct) in enumerate(kept):
        labels[place, torch.tensor(distinct) - 1] = 1
    return torch.tensor([row for row, _ in kept], dtype=torch.int64), labels


def first_of_each_set(labels: UInt8[Tensor, "n k"], size: int) -> Int64[Tensor, " m"]:
    """Ascending rows of the first `size` images of each label set; all of a set that has fewer.

    >>> first_of_each_set(torch.tensor([[1, 0], [1, 1], [1, 0], [1, 0]], dtype=torch.uint8), 2).tolist()
    [0, 1, 2]
    """
    sets, number = labels.unique(dim=0, return_inverse=True)
    kept = [(number == each).nonzero().squeeze(1)[:size] for each in range(len(sets))]
    return torch.cat(kept).sort().values


def crop_window(boxes: Sequence[Sequence[float | int]], width: int, height: int) -> tuple[int, int, int, int]:
    """The smallest square around all boxes, centered on them, inside an image of `width` x `height` pixels.

    Where the square reaches over the left or top edge it is moved inside, as released; what then reaches over the
    right or bottom edge is cut off, so that the window is no square there.

    Args:
        boxes: left, top, width, height of each digit [pixels].

    Returns:
        Left, top, right, bottom of the window [whole pixels].

    Raises:
        ValueError: all boxes are outside the image.

    >>> crop_window([(10, 5, 8, 20), (18, 5, 8, 20)], 100, 40)
    (8, 5, 28, 25)
    """
    lefts, tops, widths, heights = zip(*boxes, strict=True)
    spans = []
    for starts, sizes, limit in ((lefts, widths, width), (tops, heights, height)):
        spans.append((min(starts), max(start + size for start, size in zip(starts, sizes, strict=True)), limit))
    side = max(end - start for start, end, _ in spans)
    window = []
    for start, end, limit in spans:
        first = max((start + end - side) / 2, 0)
        last = min(first + side, limit)
        if last <= first or end <= 0:
            raise ValueError(f"the digits' boxes lie outside its {width} x {height} pixels")
        first = min(round(first), limit - 1)
        window.append((first, max(round(last), first + 1)))
    (left, right), (top, bottom) = window
    return left, top, right, bottom
