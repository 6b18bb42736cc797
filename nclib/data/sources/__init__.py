"""Where images come from: one `load` for every source, each in a module of its own.

`digits` needs no download; `mnist`, `cifar10` and `svhn` are looked for in the data root (`$NCLIB_DATA_ROOT`, else
`data/`) and fetched into it if missing; `image_folder` is any folder of class folders. docs/data.md says what lies
where.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from nclib.data.sources.base import SourceError, SourceImages, resized
from nclib.study.folders import data_root
from nclib.study.registry import SOURCES

__all__ = ["SourceError", "SourceImages", "load"]


def load(
    source: str, *, root: str | Path | None = None, train: bool, image_size: int | None = None, **options: Any
) -> SourceImages:
    """Read one split of a source.

    Args:
        source: one of `nclib.study.registry.SOURCES`.
        root: the folder of the source's files; relative to the data root, which is the default.
        train: the training split, or the test split.
        image_size: side the images are resized to [pixels]; None keeps their size (svhn: 32).
        options: those of the source's own `load`, such as `test_fraction` and `seed` of one without a test split.

    Raises:
        ValueError: no such source.
        SourceError: the files are missing or damaged; the message says what to put where.
    """
    if source not in SOURCES:
        raise ValueError(f"Expected source to be one of {', '.join(SOURCES)}, but got {source!r}.")
    known = SOURCES[source]
    if "image_size" in known.options:
        options["image_size"] = image_size or known.side
    module = import_module(f"{__name__}.{source}")
    return resized(module.load(root=data_root(root), train=train, **options), image_size)
