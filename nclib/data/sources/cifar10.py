"""CIFAR-10: 50,000 and 10,000 color images of 32 x 32 in ten classes."""

import warnings
from pathlib import Path

import numpy as np
import pooch
import torch

from nclib.data.sources.base import SourceError, SourceImages
from nclib.data.sources.download import fetch, unpack

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BINARY_FOLDER = "cifar-10-batches-bin"
PYTHON_FOLDER = "cifar-10-batches-py"
RECORD = 1 + 3 * 32 * 32  # bytes of an image in the binary version: its label, then red, green and blue


def load(*, root: Path, train: bool) -> SourceImages:
    """Read `ROOT/cifar-10-batches-bin` or `ROOT/cifar-10-batches-py`; fetch the latter if neither is there.

    torchvision reads the latter, after checking the MD5 of every file (they are pickles).
    """
    binary = root / BINARY_FOLDER
    images, labels = _read_binary(binary, train) if binary.is_dir() else _read_python(root, train)
    return SourceImages(images, labels, CLASS_NAMES)


def _read_python(root: Path, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
    from torchvision.datasets import CIFAR10

    folder = root / PYTHON_FOLDER
    if not folder.is_dir():
        archive = root / CIFAR10.filename
        advice = f"Put {archive.name} (from {CIFAR10.url}) into {root}, or set NCLIB_DATA_ROOT to a folder that has it."
        unpack(fetch([CIFAR10.url], archive, digest=CIFAR10.tgz_md5, advice=advice), folder)
    try:
        with warnings.catch_warnings():  # NumPy's about how these old pickles spell a dtype
            warnings.simplefilter("ignore")
            published = CIFAR10(root, train=train, download=False)
    except RuntimeError as error:
        raise SourceError(
            f"{folder} is not the published one: {_not_published(folder)}. Its files are pickles, which could run "
            "code, so that none is opened. Delete it to have it downloaded; data of your own are taken without a "
            f"checksum in the binary layout, as {root / BINARY_FOLDER}."
        ) from error
    return torch.from_numpy(published.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(published.targets)


def _not_published(folder: Path) -> str:
    from torchvision.datasets import CIFAR10

    for name, md5 in (*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])):
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (found := pooch.file_hash(folder / name, "md5")) != md5:
            return f"expected {name} to have md5 {md5}, but got {found}"
    return "it changed while it was read"


def _read_binary(folder: Path, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] if train else ["test_batch.bin"]
    batches = []
    for name in names:
        try:
            batch = np.fromfile(folder / name, np.uint8).reshape(-1, RECORD)
        except (OSError, ValueError) as error:
            raise SourceError(f"{folder / name}: {error}. Unpack cifar-10-binary.tar.gz again.") from error
        if len(batch) == 0 or batch[:, 0].max() > 9 or (batches and len(batch) != len(batches[0])):
            raise SourceError(
                f"{folder / name} has {len(batch)} images, or a label above 9, but expected the number of images of "
                "the other batches. Unpack cifar-10-binary.tar.gz again."
            )
        batches.append(batch)
    records = torch.from_numpy(np.concatenate(batches))
    return records[:, 1:].reshape(-1, 3, 32, 32).contiguous(), records[:, 0].long()
