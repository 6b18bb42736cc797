"""Any folder of class folders (mini-ImageNet, a user's own images)."""

from pathlib import Path

import torch
from PIL import Image

from nclib.data.sources.base import SourceError, SourceImages, split_by_class, stream
from nclib.data.sources.decoding import cache_key, cached, decode_all


def load(*, root: Path, train: bool, image_size: int | None, test_fraction: float, seed: int) -> SourceImages:
    """Read `ROOT/CLASS/*.jpg` and the like, as RGB; classes in alphabetical order, as torchvision's `ImageFolder`.

    If `root` holds nothing but the folders `train` and `test`, these are the splits, each a folder of class folders.
    Otherwise each class is split at random by `seed`.

    Args:
        root: the folder of class folders.
        train: the training split, or the test split.
        image_size: side the images are resized to (bilinear, anti-aliased) [pixels]; None: all must have one size.
        test_fraction: share of each class that goes to the test split, where there are no folders `train` and `test`.
        seed: of the split.

    Returns:
        3 x h x w images; `index` counts the files in alphabetical order.

    Raises:
        SourceError: the folder is missing or has no classes, a class folder holds folders, or an image is damaged or
            too large.
    """
    if not root.is_dir():
        raise SourceError(f"{root} is no folder: put one folder of images per class there, or set dataset.root.")
    folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    if folders == ["test", "train"]:
        return _read(root / ("train" if train else "test"), image_size)
    everything = _read(root, image_size)
    try:
        rows = split_by_class(
            everything.labels, test_fraction=test_fraction, train=train, generator=stream(seed, "split")
        )
    except ValueError as error:
        raise SourceError(f"{root} cannot be split: {error}") from error
    return everything.select(rows)


def _read(folder: Path, image_size: int | None) -> SourceImages:
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if len(names) < 2:
        raise SourceError(f"{folder} has {len(names)} class folders, but expected 2 or more.")
    inner = next(folder.glob("*/*/"), None)  # as of train/CLASS beside val/CLASS: those are no two classes
    if inner is not None:
        raise SourceError(
            f"{inner} is a folder, but images must lie directly in the folder of their class: move the class folders "
            "up, or set dataset.root to the folder that holds them."
        )
    try:
        samples = make_dataset(str(folder), {name: label for label, name in enumerate(names)}, IMG_EXTENSIONS)
    except FileNotFoundError as error:
        raise SourceError(f"{folder}: {error}") from error
    paths = [Path(path) for path, _ in samples]

    def resize(image: Image.Image, _: int) -> Image.Image:
        if image_size is None:
            return image
        return image.resize((image_size, image_size), Image.Resampling.BILINEAR)

    def make() -> SourceImages:
        images = decode_all(paths, resize, what=f"Reading {folder.name}")
        return SourceImages(images, torch.tensor([label for _, label in samples]), tuple(names))

    return cached(f"{folder.name}-{image_size}", cache_key(paths, image_size=image_size), make)
