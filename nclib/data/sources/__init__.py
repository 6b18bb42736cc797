"""Where images come from: one `load` for every source, each in a module of its own.

`digits` needs no download; `mnist`, `cifar10` and `svhn` are looked for in the data root (`$NCLIB_DATA_ROOT`, else
`data/`) and fetched into it if missing; `image_folder` is any folder of class folders. docs/data.md says what lies
where.
"""

from collections.abc import Callable
from pathlib import Path

from nclib.data.sources import cifar10, digits, image_folder, mnist, svhn
from nclib.data.sources.base import SourceError, SourceImages, data_root, resized

__all__ = ["SOURCES", "SourceError", "SourceImages", "data_root", "load"]

SOURCES: dict[str, Callable[..., SourceImages]] = {
    "digits": digits.load,
    "mnist": mnist.load,
    "cifar10": cifar10.load,
    "svhn": svhn.load,
    "image_folder": image_folder.load,
}

WITHOUT_SPLIT = ("digits", "image_folder")
DECODED = ("svhn", "image_folder")  # resized while they are decoded
MULTI_LABEL = ("svhn",)  # sampled by label set before they are decoded


def load(
    source: str,
    *,
    root: str | Path | None = None,
    train: bool,
    image_size: int | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    sample_size: int | None = None,
) -> SourceImages:
    """Read one split of a source.

    Args:
        source: `digits`, `mnist`, `cifar10`, `svhn` or `image_folder`.
        root: the folder of the data; None means `$NCLIB_DATA_ROOT`, else `data/`.
        train: the training split, or the test split.
        image_size: side the images are resized to [pixels]; None keeps their size (svhn: 32).
        test_fraction: share of each class that goes to the test split, for sources without a split of their own
            (digits, image_folder).
        seed: of that split.
        sample_size: most images of a label set, the first ones, for multi-label sources (svhn); None keeps all.

    Returns:
        The images of that split, uint8, with labels and class names.

    Raises:
        ValueError: no such source.
        SourceError: the files are missing or damaged; the message says what to put where.
    """
    if source not in SOURCES:
        raise ValueError(f"Expected source to be one of {', '.join(SOURCES)}, but got {source!r}.")
    options = {"root": data_root(root), "train": train}
    if source in WITHOUT_SPLIT:
        options |= {"test_fraction": test_fraction, "seed": seed}
    if source in DECODED:
        options["image_size"] = image_size
    if source in MULTI_LABEL:
        options["sample_size"] = sample_size
    return resized(SOURCES[source](**options), image_size)
