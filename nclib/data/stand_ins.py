"""Small made-up files in the true formats of MNIST, CIFAR-10, SVHN and mini-ImageNet: studies run without a download.

    python -m nclib stand-ins svhn /tmp/stand-ins
    NCLIB_DATA_ROOT=/tmp/stand-ins make reproduce STUDY=params/mlab_svhn.yaml ...

The images are scikit-learn's small digits, enlarged and colored; what is learned from them says nothing about the
real sets.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import cache
from itertools import count
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from nclib.data import sources
from nclib.data.sources import cifar10
from nclib.data.sources.base import SourceImages


@cache
def _digits(train: bool) -> SourceImages:
    return sources.load("digits", train=train, test_fraction=0.5)


def _glyph(
    rng: np.random.Generator, digit: int | np.integer, size: tuple[int, int], train: bool
) -> UInt8[np.ndarray, "h w"]:
    """One image of `digit`, enlarged to `size` (width, height)."""
    source = _digits(train)
    rows = np.flatnonzero(source.labels.numpy() == digit)
    image = Image.fromarray(source.images[int(rng.choice(rows)), 0].numpy())
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def _colored(rng: np.random.Generator, gray: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The image in one random color over another."""
    low, high = np.sort(rng.integers(0, 256, (2, 3)), axis=0)
    return (low + gray[..., None] / 255 * (high - low)).astype(np.uint8)


def write_mnist(root: Path, *, per_class: int = 60) -> None:
    """Write `ROOT/MNIST/raw`, `per_class` images of each digit in either split."""
    folder, rng = root / "MNIST" / "raw", np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for part, train in (("train", True), ("t10k", False)):
        labels = np.repeat(np.arange(10, dtype=np.uint8), per_class)
        images = np.stack([np.pad(_glyph(rng, label, (20, 20), train), 4) for label in labels])
        header = np.array([2051, len(labels), 28, 28], ">i4").tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header[:3] + b"\x01" + header[4:8] + labels.tobytes())


def write_cifar10(root: Path, *, per_class: int = 60) -> None:
    """Write `ROOT/cifar-10-batches-bin` (the binary version), `per_class` images of each class in either split."""
    folder, rng = root / cifar10.BINARY_FOLDER, np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for names, train in (([f"data_batch_{n}.bin" for n in range(1, 6)], True), (["test_batch.bin"], False)):
        labels = np.tile(np.arange(10, dtype=np.uint8), -(-per_class // len(names)) * len(names))
        for name, part in zip(names, np.split(labels, len(names)), strict=True):
            images = [_colored(rng, _glyph(rng, label, (32, 32), train)) for label in part]
            pixels = np.stack(images).transpose(0, 3, 1, 2).reshape(len(part), -1)
            (folder / name).write_bytes(np.c_[part, pixels].tobytes())


def write_image_folder(root: Path, *, classes: int = 4, per_class: int = 12, side: int = 84, seed: int = 0) -> None:
    """Write `ROOT/CLASS/*.png`, `classes` folders of `per_class` color images."""
    rng = np.random.default_rng(seed)
    for label in range(classes):
        folder = root / f"class{label:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            image = _colored(rng, _glyph(rng, label % 10, (side, side), True))
            Image.fromarray(image).save(folder / f"{number:04d}.png")


def write_svhn(root: Path, *, per_set: int = 12) -> None:
    """Write `ROOT/svhn/{train,test}`: `per_set` images for each digit and each pair, some triples, a few with a 0."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        sets = [[a] if a == b else [a, b] for a in range(1, 10) for b in range(a, 10)] * per_set
        sets += [rng.choice(range(1, 10), 3, replace=False).tolist() for _ in range(9 * per_set)]
        sets += [[2, 0], [7, 7], [1, 2, 3, 4]]
        write_svhn_split(root / "svhn" / split, [rng.permutation(digits).tolist() for digits in sets], rng=rng)


def write_svhn_split(folder: Path, numbers: Sequence[Sequence[int]], *, rng: np.random.Generator) -> None:
    """Write one split: a PNG for each number (its digits 0..9 side by side) and `digitStruct.mat`."""
    folder.mkdir(parents=True, exist_ok=True)
    annotations = []
    for place, number in enumerate(numbers, 1):
        width, height = (int(side) for side in rng.integers(12, 20, 2))
        top, left = (int(edge) for edge in rng.integers(2, 12, 2))
        strip = np.zeros((height + 2 * top, width * len(number) + 2 * left), np.uint8)
        boxes = [(left + position * width, top, width, height) for position in range(len(number))]
        for digit, (start, *_) in zip(number, boxes, strict=True):
            strip[top : top + height, start : start + width] = _glyph(
                rng, digit, (width, height), folder.name != "test"
            )
        Image.fromarray(_colored(rng, strip)).save(folder / f"{place}.png")
        annotations.append((f"{place}.png", list(number), boxes))
    write_digit_struct(folder / "digitStruct.mat", annotations)


def write_digit_struct(path: Path, annotations: Sequence[tuple[str, list, list[tuple]]]) -> None:
    """Write SVHN's annotation file: name, digits and boxes (left, top, width, height) of each image."""
    with h5py.File(path, "w", userblock_size=512) as file:  # MATLAB keeps a text header in those 512 bytes
        store, number = file.create_group("#refs#"), count()  # HDF5 counts a group's entries one by one

        def refer(value: np.ndarray) -> h5py.Reference:
            return store.create_dataset(f"v{next(number)}", data=value).ref

        def refer_all(values: Sequence[np.ndarray]) -> np.ndarray:
            return np.array([[refer(value)] for value in values], h5py.ref_dtype)

        boxes = []
        for _, numbers, places in annotations:
            group = store.create_group(f"g{next(number)}")
            fields = dict(zip(("left", "top", "width", "height"), zip(*places, strict=True), strict=True))
            fields["label"] = tuple(10 if digit == 0 else digit for digit in numbers)
            for field, values in fields.items():
                cells = [np.array([[value]], np.float64) for value in values]
                group[field] = cells[0] if len(cells) == 1 else refer_all(cells)
            boxes.append([group.ref])
        names = [np.array([[ord(letter)] for letter in name], np.uint16) for name, *_ in annotations]
        file["digitStruct/name"] = refer_all(names)
        file["digitStruct/bbox"] = np.array(boxes, h5py.ref_dtype)


WRITERS: dict[str, Callable[[Path], None]] = {
    "mnist": write_mnist,
    "cifar10": write_cifar10,
    "svhn": write_svhn,
    "mini_imagenet": lambda root: write_image_folder(root / "mini_imagenet"),
}


def main(arguments: list[str]) -> int:
    """`python -m nclib stand-ins SOURCE FOLDER`; the exit status is 0."""
    parser = argparse.ArgumentParser(prog="python -m nclib stand-ins", description=__doc__.split("\n")[0])
    parser.add_argument("source", choices=WRITERS)
    parser.add_argument("folder", type=Path, help="a new folder, for NCLIB_DATA_ROOT")
    given = parser.parse_args(arguments)
    if given.folder.exists() and any(given.folder.iterdir()):
        parser.error(f"{given.folder} is not empty: real data could be overwritten; name a new folder")
    WRITERS[given.source](given.folder)
    print(f"Stand-ins for {given.source} are in {given.folder}.")
    return 0
