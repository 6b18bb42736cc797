"""MNIST: 60,000 and 10,000 handwritten digits of 28 x 28, in their own IDX files."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from nclib.data.sources.base import SourceError, SourceImages
from nclib.data.sources.download import fetch, gunzip

CLASS_NAMES = tuple("0123456789")


def load(*, root: Path, train: bool) -> SourceImages:
    """Read `ROOT/MNIST/raw`, after fetching it into that folder if it is not there."""
    from torchvision.datasets.mnist import read_image_file, read_label_file

    part = "train" if train else "t10k"
    images_file, labels_file = (_file(root, f"{part}-{kind}") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    images, labels = _read(images_file, read_image_file), _read(labels_file, read_label_file)
    if images.shape[1:] != (28, 28) or not 0 < len(labels) == len(images) or labels.max() > 9:
        raise SourceError(
            f"{images_file} and {labels_file} hold images {tuple(images.shape)} and labels {tuple(labels.shape)}, "
            "but expected as many images of 28 x 28 as labels 0..9: replace both."
        )
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


def _read(path: Path, reader: Callable[[str], Tensor]) -> Tensor:
    try:
        return reader(str(path))
    except Exception as error:  # torchvision's reader raises errors of many kinds on damaged files
        raise SourceError(f"{path} is no IDX file of MNIST, or it is damaged ({error}): replace it.") from error
