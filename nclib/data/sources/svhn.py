"""Street View House Numbers, format 1 (full images with a box around each digit), as multi-label images of 32 x
32."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from nclib.data.sources.base import SourceError, SourceImages
from nclib.data.sources.decoding import cache_key, cached, decode_all
from nclib.data.sources.digit_struct import read_digit_struct
from nclib.data.sources.download import fetch, unpack
from nclib.data.sources.svhn_labels import first_of_each_set, select_svhn
from nclib.study.files import sha256

URL = "http://ufldl.stanford.edu/housenumbers/"
SHA256 = {
    "train": "4b17bb33b6cd8f963493168f80143da956f28ec406cc12f8e5745a9f91a51898",
    "test": "57ac9ceb530e4aa85b55d991be8fc49c695b3d71c6f6a88afea86549efde7fb5",
}
CLASS_NAMES = tuple("123456789")


def load(*, root: Path, train: bool, image_size: int | None = None, sample_size: int | None = None) -> SourceImages:
    """Read `ROOT/svhn/train` or `.../test` (`digitStruct.mat` and the PNGs); fetch and unpack the archive if missing.

    The smallest square around all digits is cut out and resized; `select_svhn` chooses the images.

    Args:
        root: folder of the data; may be read-only if the files are there.
        train: the training split, or the test split.
        image_size: side of the images [pixels]; None: 32, as in the paper.
        sample_size: most images of a label set, the first ones; the others are not decoded. None: all.

    Returns:
        3 x 32 x 32 images with multi-hot labels of the digits 1..9; `index` counts the annotations from 0.

    Raises:
        SourceError: files cannot be fetched, are missing or damaged; the message names them.
    """
    split = "train" if train else "test"
    folder = root / "svhn" / split
    if not folder.is_dir():
        fetch_split(root, split)
    return read_split(folder, image_size=image_size or 32, sample_size=sample_size)


def fetch_split(root: Path, split: str, *, url: str | None = None, digest: str | None = None) -> Path:
    """Fetch `SPLIT.tar.gz` into `ROOT/svhn` and unpack it there.

    Args:
        root: folder of the data.
        split: `train` (404 MB) or `test` (277 MB).
        url: where the archives are; None: `URL`.
        digest: the archive's SHA-256; None: the published archive's.
    """
    archive = root / "svhn" / f"{split}.tar.gz"
    advice = f"Put {archive.name} (format 1, from {URL}) into {archive.parent}, or unpack it there."
    fetch([(url or URL) + archive.name], archive, digest=digest or SHA256[split], advice=advice)
    return unpack(archive, archive.with_name(split))


def read_split(folder: Path, *, image_size: int, sample_size: int | None = None) -> SourceImages:
    """Read the selected images of one unpacked split; see `load`."""
    annotated = folder / "digitStruct.mat"
    if not annotated.is_file():
        raise SourceError(f"{annotated} is missing: delete {folder} and run the same command again.")
    images = sorted(folder.glob("*.png"))
    key = cache_key(images, annotations=sha256(annotated), image_size=image_size, sample_size=sample_size)

    def make() -> SourceImages:
        annotations = read_digit_struct(annotated)
        rows, labels = select_svhn([annotation.digits for annotation in annotations])
        if len(rows) == 0:
            raise SourceError(f"{annotated} has no image that the selection keeps (digits 1..9, at most three).")
        if sample_size is not None:
            chosen = first_of_each_set(labels, sample_size)
            rows, labels = rows[chosen], labels[chosen]
        kept = [annotations[row] for row in rows.tolist()]

        def crop(image: Image.Image, number: int) -> Image.Image:
            window = crop_window(kept[number].boxes, image.width, image.height)
            return image.crop(window).resize((image_size, image_size), Image.Resampling.LANCZOS)

        paths = [folder / annotation.name for annotation in kept]
        images = decode_all(paths, crop, what=f"Cropping {folder.parent.name}/{folder.name}")
        return SourceImages(images, labels, CLASS_NAMES, rows)

    return cached(f"svhn-{folder.name}-{image_size}", key, make)


def crop_window(boxes: Sequence[Sequence[float | int]], width: int, height: int) -> tuple[int, int, int, int]:
    """The smallest square around all boxes, centered on them, inside the image.

    Where the square reaches over the left or top edge it is moved inside, as released; what then reaches over the
    right or bottom edge is cut off, so that the window is no square there.

    Args:
        boxes: left, top, width, height of each digit [pixels].
        width: of the image [pixels].
        height: of the image [pixels].

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
