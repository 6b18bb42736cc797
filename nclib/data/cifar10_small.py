"""A tenth of CIFAR-10 as a folder of images, for the studies of minutes.

    python -m nclib cifar10-small cifar-10-python.tar.gz data/cifar10_small

It holds the first thousand images of each official file, 5,000 for training and 1,000 for the test:
`train/bird/200548.png` is image 548 of `data_batch_2`, and the test images come from file 0.
"""

import argparse
import shutil
import tempfile
from itertools import product
from pathlib import Path

from PIL import Image

from nclib.data.sources import cifar10
from nclib.data.sources.download import unpack
from nclib.study.files import StageError, temporary_beside

PER_FILE = 1000  # images kept of each official file


def main(arguments: list[str]) -> int:
    """`python -m nclib cifar10-small ARCHIVE FOLDER`; the exit status is 0."""
    parser = argparse.ArgumentParser(prog="python -m nclib cifar10-small", description=__doc__.split("\n")[0])
    parser.add_argument("archive", type=Path, help="cifar-10-python.tar.gz or cifar-10-binary.tar.gz")
    parser.add_argument("folder", type=Path, help="a new folder, such as data/cifar10_small")
    asked = parser.parse_args(arguments)
    write(asked.archive, asked.folder)
    print(f"The images are in {asked.folder}.")
    return 0


def write(archive: Path, folder: Path) -> None:
    """Write `FOLDER/{train,test}/CLASS/NNNNNN.png`, without loss, from CIFAR-10's archive; whole or not at all.

    Raises:
        StageError: the archive cannot be read, or the folder is there already.
    """
    if folder.exists():
        raise StageError(f"{folder} is there already: name a new folder, or delete it.")
    with tempfile.TemporaryDirectory() as scratch:
        layout = cifar10.BINARY_FOLDER if "binary" in archive.name else cifar10.PYTHON_FOLDER
        unpack(archive, Path(scratch) / layout)
        splits = {name: cifar10.load(root=Path(scratch), train=name == "train") for name in ("train", "test")}
    made = temporary_beside(folder, "making")
    try:
        for name, split in splits.items():
            files = range(1, 6) if name == "train" else [0]
            per_file = len(split) // len(files)
            for file, place in product(files, range(min(PER_FILE, per_file))):
                row = (file - files[0]) * per_file + place
                path = made / name / split.class_names[split.labels[row]] / f"{file}{place:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(split.images[row].permute(1, 2, 0).numpy()).save(path)
        made.replace(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
