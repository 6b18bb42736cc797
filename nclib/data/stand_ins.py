"""Small made-up files in the true formats of MNIST, CIFAR-10, SVHN and mini-ImageNet: studies run without a download.

    python -m nclib stand-ins svhn /tmp/stand-ins
    NCLIB_DATA_ROOT=/tmp/stand-ins make reproduce STUDY=params/mlab_svhn.yaml ...

The images are scikit-learn's small digits, enlarged and colored; what is learned from them says nothing about the
real sets.
"""

import argparse
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from nclib.data import sources
from nclib.data.sources import cifar10
from nclib.data.sources.base import SourceImages


def _digit_images(train: bool) -> SourceImages:
    return sources.load("digits", train=train, test_fraction=0.5)


def _glyph(rng: np.random.Generator, source: SourceImages, digit: int, size: tuple[int, int]) -> Image.Image:
    """One image of `digit`, enlarged to `size` (width, height)."""
    rows = np.flatnonzero(source.labels.numpy() == digit)
    pixels = source.images[int(rng.choice(rows)), 0].numpy()
    return Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)


def _colored(rng: np.random.Generator, glyph: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """The glyph in one random color over another."""
    low, high = np.sort(rng.integers(0, 256, (2, 3)), axis=0)
    share = np.asarray(glyph, np.float64)[..., None] / 255
    return (low + share * (high - low)).astype(np.uint8)


def write_mnist(root: Path, *, per_class: int = 60, seed: int = 0) -> None:
    """Write `ROOT/MNIST/raw`, `per_class` images of each digit in either split."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for part, train in (("train", True), ("t10k", False)):
        source = _digit_images(train)
        labels = np.repeat(np.arange(10, dtype=np.uint8), per_class)
        images = np.zeros((len(labels), 28, 28), np.uint8)
        for place, label in enumerate(labels):
            images[place, 4:24, 4:24] = np.asarray(_glyph(rng, source, int(label), (20, 20)))
        header = np.array([2051, len(labels), 28, 28], ">i4").tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header[:3] + b"\x01" + header[4:8] + labels.tobytes())


def write_cifar10(root: Path, *, per_class: int = 60, seed: int = 0) -> None:
    """Write `ROOT/cifar-10-batches-bin` (the binary version), `per_class` images of each class in either split."""
    folder = root / cifar10.BINARY_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for names, train in (([f"data_batch_{n}.bin" for n in range(1, 6)], True), (["test_batch.bin"], False)):
        source = _digit_images(train)
        labels = np.tile(np.arange(10, dtype=np.uint8), -(-per_class // len(names)) * len(names))
        for name, part in zip(names, np.split(labels, len(names)), strict=True):
            records = np.empty((len(part), cifar10.RECORD), np.uint8)
            for record, label in zip(records, part, strict=True):
                pixels = _colored(rng, _glyph(rng, source, int(label), (32, 32)))
                record[0], record[1:] = label, pixels.transpose(2, 0, 1).reshape(-1)
            (folder / name).write_bytes(records.tobytes())


def write_image_folder(root: Path, *, classes: int = 4, per_class: int = 12, side: int = 84, seed: int = 0) -> None:
    """Write `ROOT/CLASS/*.png`, `classes` folders of `per_class` color images."""
    rng = np.random.default_rng(seed)
    source = _digit_images(True)
    for label in range(classes):
        folder = root / f"class{label:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            pixels = _colored(rng, _glyph(rng, source, label % 10, (side, side)))
            Image.fromarray(pixels).save(folder / f"{number:04d}.png")


def write_svhn(root: Path, *, per_set: int = 12, seed: int = 0) -> None:
    """Write `ROOT/svhn/{train,test}`: `per_set` images for each digit and each pair, some triples, a few with a 0."""
    rng = np.random.default_rng(seed)
    for split, train in (("train", True), ("test", False)):
        source = _digit_images(train)
        sets = [[a] if a == b else [a, b] for a in range(1, 10) for b in range(a, 10)] * per_set
        sets += [rng.choice(range(1, 10), 3, replace=False).tolist() for _ in range(9 * per_set)]
        sets += [[2, 0], [7, 7], [1, 2, 3, 4]]
        write_svhn_split(
            root / "svhn" / split, [rng.permutation(digits_).tolist() for digits_ in sets], rng=rng, source=source
        )


def write_svhn_split(
    folder: Path, numbers: Sequence[Sequence[int]], *, rng: np.random.Generator, source: SourceImages | None = None
) -> None:
    """Write one split: a PNG for each number (its digits 0..9 side by side) and `digitStruct.mat`."""
    folder.mkdir(parents=True, exist_ok=True)
    source = source or _digit_images(True)
    annotations = []
    for place, number in enumerate(numbers, 1):
        width, height = (int(side) for side in rng.integers(12, 20, 2))
        top, left = (int(edge) for edge in rng.integers(2, 12, 2))
        strip = np.zeros((height + 2 * top, width * len(number) + 2 * left), np.uint8)
        boxes = []
        for position, digit in enumerate(number):
            start = left + position * width
            strip[top : top + height, start : start + width] = _glyph(rng, source, digit, (width, height))
            boxes.append((start, top, width, height))
        Image.fromarray(_colored(rng, Image.fromarray(strip))).save(folder / f"{place}.png")
        annotations.append((f"{place}.png", list(number), boxes))
    write_digit_struct(folder / "digitStruct.mat", annotations)


def write_digit_struct(path: Path, annotations: Sequence[tuple[str, list, list[tuple]]]) -> None:
    """Write SVHN's annotation file: name, digits and boxes (left, top, width, height) of each image."""
    with h5py.File(path, "w", userblock_size=512) as file:  # MATLAB keeps a text header in those 512 bytes
        store, number = file.create_group("#refs#"), count()  # HDF5 counts a group's entries one by one

        def refer(value: np.ndarray) -> h5py.Reference:
            return store.create_dataset(f"v{next(number)}", data=value).ref

        names, boxes = [], []
        for name, numbers, places in annotations:
            names.append(refer(np.array([[ord(letter)] for letter in name], np.uint16)))
            group = store.create_group(f"g{next(number)}")
            columns = zip(*places, strict=True)
            fields = dict(zip(("left", "top", "width", "height"), columns, strict=True))
            fields["label"] = tuple(10 if digit == 0 else digit for digit in numbers)
            for field, values in fields.items():
                cells = [np.array([[value]], np.float64) for value in values]
                if len(cells) == 1:
                    group.create_dataset(field, data=cells[0])
                else:
                    group.create_dataset(
                        field, data=np.array([[refer(cell)] for cell in cells], h5py.ref_dtype), dtype=h5py.ref_dtype
                    )
            boxes.append(group.ref)
        for field, references in (("name", names), ("bbox", boxes)):
            data = np.array([[reference] for reference in references], h5py.ref_dtype)
            file.create_dataset(f"digitStruct/{field}", data=data, dtype=h5py.ref_dtype)


WRITERS: dict[str, Callable[[Path], None]] = {
    "mnist": write_mnist,
    "cifar10": write_cifar10,
    "svhn": write_svhn,
    "mini_imagenet": lambda root: write_image_folder(root / "mini_imagenet"),
}


def main(argv: list[str] | None = None) -> int:
    """The command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m nclib stand-ins", description=__doc__.split("\n")[0])
    parser.add_argument("source", choices=WRITERS)
    parser.add_argument("folder", type=Path, help="a new folder, for NCLIB_DATA_ROOT")
    given = parser.parse_args(argv)
    if given.folder.exists() and any(given.folder.iterdir()):
        parser.error(f"{given.folder} is not empty: real data could be overwritten; name a new folder")
    WRITERS[given.source](given.folder)
    print(f"Stand-ins for {given.source} are in {given.folder}.")
    return 0
