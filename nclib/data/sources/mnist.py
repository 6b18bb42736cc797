"""MNIST: 60,000 and 10,000 handwritten digits of 28 x 28, in their own IDX files."""

from pathlib import Path

from torch import Tensor

from nclib.data.sources.base import SourceError, SourceImages
from nclib.data.sources.download import fetch, gunzip

CLASS_NAMES = tuple("0123456789")


def load(*, root: Path, train: bool) -> SourceImages:
    """Read MNIST from `ROOT/MNIST/raw`, after fetching it into that folder if it is not there.

    Args:
        root: folder of the data; may be read-only if the files are there.
        train: the 60,000 training images, or the 10,000 test images.

    Returns:
        1 x 28 x 28 images of the ten digits.

    Raises:
        SourceError: a file cannot be fetched or is damaged.
    """
    from torchvision.datasets.mnist import read_image_file, read_label_file

    part = "train" if train else "t10k"
    images_file, labels_file = (_file(root, f"{part}-{kind}") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    num_images = _check(images_file, magic=2051, item=(28, 28))
    if _check(labels_file, magic=2049, item=()) != num_images:
        raise SourceError(f"{labels_file} and {images_file} hold different numbers of images: replace both.")
    images: Tensor = read_image_file(str(images_file))
    labels: Tensor = read_label_file(str(labels_file))
    if labels.max() > 9:
        raise SourceError(f"{labels_file} has a label above 9: replace it.")
    return SourceImages(images.unsqueeze(1), labels.long(), CLASS_NAMES)


def _file(root: Path, name: str) -> Path:
    from torchvision.datasets import MNIST

    path = root / "MNIST" / "raw" / name
    if not path.is_file():
        archive = path.with_name(name + ".gz")
        md5 = dict(MNIST.resources)[archive.name]
        advice = f"Put {name} or {archive.name} into {path.parent}, or set NCLIB_DATA_ROOT to a folder with MNIST/raw/."
        gunzip(fetch([mirror + archive.name for mirror in MNIST.mirrors], archive, digest=md5, advice=advice), path)
    return path


def _check(path: Path, *, magic: int, item: tuple[int, ...]) -> int:
    """The number of items of an IDX file whose header and size are right."""
    fields = 2 + len(item)
    with path.open("rb") as file:
        header = file.read(4 * fields)
    numbers = [int.from_bytes(header[at : at + 4], "big") for at in range(0, len(header), 4)]
    if len(header) < 4 * fields or numbers[0] != magic or tuple(numbers[2:]) != item:
        raise SourceError(f"{path} is no IDX file of MNIST (its header is {header.hex(' ', 4)}): replace it.")
    expected = len(header) + numbers[1] * (item[0] * item[1] if item else 1)
    if path.stat().st_size != expected or numbers[1] == 0:
        raise SourceError(f"{path} has {path.stat().st_size} bytes, but its header says {expected}: replace it.")
    return numbers[1]
