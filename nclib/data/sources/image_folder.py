"""Any folder of class folders (mini-ImageNet, a user's own images)."""

import logging
import os
from pathlib import Path

import torch
from PIL import Image

from nclib.data.sources.base import SourceError, SourceImages, split_by_class, stream
from nclib.data.sources.decoding import cached, decode_all
from nclib.study.registry import IMAGE_ENDINGS, TEST_FRACTION

TRAINING_FOLDERS = ("train", "training")  # in any case, as are all of these
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")


def load(
    *,
    root: Path,
    train: bool,
    image_size: int | None,
    test_fraction: float = TEST_FRACTION,
    split: str = "random",
    seed: int = 0,
    test_folder: str | None = None,
) -> SourceImages:
    """Read `ROOT/CLASS/*.jpg` and the like, as RGB; classes in alphabetical order, as torchvision's `ImageFolder`.

    Where `root` holds a folder for training and one for the test (`train` and `val`, say), each a folder of class
    folders, these are the splits. Otherwise each class is split, at random by `seed` or in the order of its file names.
    Hidden entries are skipped.

    Args:
        root: the folder of class folders.
        train: the training split, or the test split.
        image_size: side the images are resized to (bilinear, anti-aliased) [pixels]; None: all must have one size.
        test_fraction: share of each class that goes to the test split, where there are no folders of splits.
        split: "random", or "last" for the last images of each class as test images.
        seed: of the random split.
        test_folder: the folder in `root` that is the test split, where there are several, such as `val` and `test`.

    Returns:
        The images; `index` counts the files in alphabetical order.
    """
    if not root.is_dir():
        raise SourceError(f"{root} is no folder: put one folder of images per class there, or set dataset.root.")
    folders = _split_folders(root, test_folder)
    folder = root if folders is None else folders[0 if train else 1]
    if folders and not train and test_folder is None and folder.name.lower() != "test":
        logging.getLogger(__name__).warning("%s is the test split.", folder)
    names, files, labels = _images(folder)
    rows = torch.arange(len(files))
    if folders is None:
        try:
            generator = stream(seed, "split") if split == "random" else None
            rows = split_by_class(labels, test_fraction=test_fraction, train=train, generator=generator)
        except ValueError as error:
            raise SourceError(f"{root} cannot be split: {error}") from error
    kept = [files[row] for row in rows.tolist()]

    def resize(image: Image.Image, _: int) -> Image.Image:
        if image_size is None:
            return image
        return image.resize((image_size, image_size), Image.Resampling.BILINEAR)

    def make() -> SourceImages:
        images = decode_all(kept, resize, what=f"Reading {folder.name}")
        return SourceImages(images, labels[rows], names, rows)

    return cached(f"{folder.name}-{image_size}", kept, make, image_size=image_size, classes=names)


def _split_folders(root: Path, test_folder: str | None) -> tuple[Path, Path] | None:
    """The folders of both splits; None if `root` itself holds the class folders."""
    folders = [folder for folder in _visible(root) if folder.is_dir() and any(map(Path.is_dir, _visible(folder)))]
    training = [folder for folder in folders if folder.name.lower() in TRAINING_FOLDERS]
    tests = [folder for folder in folders if folder.name.lower() in TEST_FOLDERS]
    if test_folder is not None:
        tests = [folder for folder in folders if folder.name == test_folder]
        if len(training) != 1 or not tests:
            raise SourceError(
                f"{root} has no folder 'train' beside {test_folder!r} with class folders in both: change "
                "dataset.test_folder or leave it out."
            )
    if len(training) == 1 and len(tests) > 1:
        names = " and ".join(repr(folder.name) for folder in tests)
        raise SourceError(f"{root} has {names}: set dataset.test_folder to the one that is the test split.")
    return (training[0], tests[0]) if len(training) == 1 and tests else None


def _images(folder: Path) -> tuple[tuple[str, ...], list[Path], torch.Tensor]:
    """Names of the classes, the image files in alphabetical order, and their class ids."""
    classes = [entry for entry in _visible(folder) if entry.is_dir()]
    if len(classes) < 2:
        raise SourceError(f"{folder} has {len(classes)} class folders, but expected 2 or more.")
    files, labels, skipped = [], [], []
    for label, each in enumerate(classes):
        entries = _visible(each)
        inner = next((entry for entry in entries if entry.is_dir()), None)
        if inner is not None:
            raise SourceError(
                f"{inner} is a folder, but images must lie directly in the folder of their class: move the class "
                "folders up, or set dataset.root to the folder that holds them."
            )
        images = [entry for entry in entries if entry.suffix.lower() in IMAGE_ENDINGS]
        skipped += [f"{each.name}/{entry.name}" for entry in entries if entry.suffix.lower() not in IMAGE_ENDINGS]
        if not images:
            raise SourceError(f"{each} has no image ({', '.join(IMAGE_ENDINGS)}): fill or remove it.")
        files += images
        labels += [label] * len(images)
    if skipped:
        logging.getLogger(__name__).warning(
            "Skipped %d files in %s, since only %s are read: %s ...",
            len(skipped),
            folder,
            ", ".join(IMAGE_ENDINGS),
            ", ".join(skipped[:5]),
        )
    return tuple(each.name for each in classes), files, torch.tensor(labels)


def _visible(folder: Path) -> list[Path]:
    """What is in a folder, in alphabetical order, but for hidden entries (`.git`, `._0.png`, `__MACOSX`)."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "__")))
    for entry in entries:
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            name = os.fsencode(entry.name).decode(errors="backslashreplace")
            raise SourceError(f"{folder} has an entry whose name is not UTF-8: rename {name}.") from None
        if not entry.exists():
            raise SourceError(f"{entry} is a link to nothing: replace or remove it.")
    return entries
