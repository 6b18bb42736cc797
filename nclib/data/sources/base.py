"""What every source returns, where data lie, and the split of sources that come without one."""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Int64, Integer, UInt8
from torch import Tensor

from nclib.study.files import StageError
from nclib.study.folders import data_root, project_root


class SourceError(StageError):
    """Source images are missing or damaged; the message names the file and says what to put where."""


@dataclass(frozen=True)
class SourceImages:
    """Images (0..255) of one split of a source; labels are class ids, or multi-hot where images have several (SVHN).

    `index` is the place of each image in the source as published (its own split file, or the order of the file names);
    None means 0, 1, 2, ...
    """

    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"] | UInt8[Tensor, "n k"]
    class_names: tuple[str, ...]
    index: Int64[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def is_multi_label(self) -> bool:
        return self.labels.ndim == 2

    def places(self) -> Int64[Tensor, " n"]:
        """Place of each image in the source as published."""
        return torch.arange(len(self)) if self.index is None else self.index

    def select(self, rows: Int64[Tensor, " m"]) -> "SourceImages":
        """The images at `rows`, in that order."""
        return SourceImages(self.images[rows], self.labels[rows], self.class_names, self.places()[rows])


def cache_root() -> Path:
    """The folder of decoded images: `$NCLIB_CACHE_ROOT`, else `cache` in the data root."""
    given = os.environ.get("NCLIB_CACHE_ROOT")
    return project_root() / Path(given).expanduser() if given else data_root() / "cache"


def stream(seed: int, purpose: str) -> torch.Generator:
    """A generator for one purpose of a data set, such as `"compose train"`; other draws do not change it."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


def split_by_class(
    labels: Integer[Tensor, " n"], *, test_fraction: float, train: bool, generator: torch.Generator | None
) -> Int64[Tensor, " m"]:
    """Rows of one split, drawn at random within each class; the two splits of one generator state share no row.

    Each class of n images gives `round(n * test_fraction)` of them to the test split, but at least 1, and keeps at
    least 1; without a generator these are its last. A class of fewer than 2 images is a `ValueError`.
    """
    kept = []
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().squeeze(1)
        if len(rows) < 2:
            raise ValueError(
                f"Expected every class to have 2 images or more to split, but class {label} has {len(rows)}."
            )
        rows = rows.flip(0) if generator is None else rows[torch.randperm(len(rows), generator=generator)]
        num_test = min(max(round(len(rows) * test_fraction), 1), len(rows) - 1)
        kept.append(rows[num_test:] if train else rows[:num_test])
    return torch.cat(kept).sort().values


def resized(source: SourceImages, image_size: int | None) -> SourceImages:
    """The images at `image_size` x `image_size` pixels, bilinear with anti-aliasing.

    None, or the size they have, returns `source` itself.
    """
    if image_size is None or source.images.shape[-2:] == (image_size, image_size):
        return source
    from torchvision.transforms.v2.functional import resize

    return replace(source, images=resize(source.images, [image_size, image_size], antialias=True))
