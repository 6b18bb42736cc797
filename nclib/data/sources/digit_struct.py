"""Reading `digitStruct.mat`, SVHN's annotations: a MATLAB 7.3 (HDF5) file of references to small arrays.

`/digitStruct/name` refers to arrays of UTF-16 codes, `/digitStruct/bbox` to groups with `height`, `left`, `top`,
`width` and `label`, each a (1, 1) number or, where an image has n > 1 digits, an (n, 1) array of references to (1, 1)
numbers.
"""

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5g, h5r, h5s, h5t

from nclib.data.sources.base import SourceError
from nclib.study.progress import bar

BOX = (b"left", b"top", b"width", b"height")
MAX_IMAGES = 1_000_000
MAX_LENGTH = 64  # of a name, and digits of an image; the real most is 6
MAX_PIXEL = 100_000  # of a box's place and size


@dataclass(frozen=True)
class Annotation:
    """The digits of one image."""

    name: str  # of the file
    digits: tuple[int, ...]  # 0..9
    boxes: tuple[tuple[float, ...], ...]  # left, top, width, height of each digit [pixels]; may reach over the edge


class DigitStruct:
    """The annotations of one split. A split has half a million small arrays: what is not asked for is not read.

    A file that is missing or damaged, or holds names, digits or boxes that cannot be, is a `SourceError`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def digits(self) -> list[tuple[int, ...]]:
        """The digits of every image, 0..9, in the order of the annotations."""
        found = []
        with self._references() as (file, names, boxes):
            for name, box in zip(names, bar(boxes, desc=f"Labels in {self.path.name}", unit=" images"), strict=True):
                with _at_image(file, name):
                    found.append(_digits(file, box))
        return found

    def annotations(self, rows: Iterable[int]) -> list[Annotation]:
        """Names, digits and boxes of the images at `rows`."""
        found = []
        with self._references() as (file, names, boxes):
            for row in bar(list(rows), desc=f"Boxes in {self.path.name}", unit=" images"):
                with _at_image(file, names[row]):
                    name = _name(file, names[row])
                    found.append(Annotation(name, self.digits[row], _boxes(file, boxes[row], len(self.digits[row]))))
        return found

    @contextmanager
    def _references(self) -> Iterator[tuple[h5py.File, np.ndarray, np.ndarray]]:
        """The open file, and the references to all names and boxes."""
        try:
            with h5py.File(self.path, "r") as file:
                names, boxes = (_references(file, f"digitStruct/{field}") for field in ("name", "bbox"))
                if len(names) != len(boxes):
                    raise ValueError(f"it has {len(names)} names, but {len(boxes)} boxes")
                yield file, names, boxes
        except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
            raise SourceError(
                f"{self.path} cannot be read ({error}): delete its folder and run the same command again."
            ) from error


def _references(file: h5py.File, name: str) -> np.ndarray:
    """A 1-d array of the references of a dataset."""
    found = file[name]
    if not isinstance(found, h5py.Dataset) or h5py.check_ref_dtype(found.dtype) is not h5py.Reference:
        raise ValueError(f"/{name} holds no references")
    if not 1 <= found.size <= MAX_IMAGES:
        raise ValueError(f"/{name} has {found.size} entries, but expected 1 to {MAX_IMAGES}")
    return found[()].reshape(-1)


# From here on h5py's low-level calls, which take a tenth of the time. A memory space says how many values are read:
# HDF5 refuses a dataset of another size, and one of other things than numbers.

SPACES = [h5s.create_simple((size,)) for size in range(MAX_LENGTH + 1)]


@contextmanager
def _at_image(file: h5py.File, name: h5py.Reference) -> Iterator[None]:
    """Names the image in the error."""
    try:
        yield
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"at image {_name(file, name)}: {error}") from error


def _name(file: h5py.File, name: h5py.Reference) -> str:
    found = _target(file, name, h5d.DatasetID)
    codes = np.empty(_size(found, MAX_LENGTH))
    found.read(SPACES[len(codes)], h5s.ALL, codes, h5t.NATIVE_DOUBLE)
    text = "".join(chr(int(code)) for code in codes if 0 < code < 128)
    if len(text) < len(codes) or not re.fullmatch(r"[0-9A-Za-z_-]+\.png", text, re.ASCII):
        raise ValueError(f"{text!r} is no name of an image")
    return text


def _digits(file: h5py.File, box: h5py.Reference) -> tuple[int, ...]:
    field = h5d.open(_target(file, box, h5g.GroupID), b"label")
    labels = _numbers(file, field, _size(field, MAX_LENGTH))
    if any(label not in range(1, 11) for label in labels):
        raise ValueError("a label is not in 1..10")
    return tuple(int(label) % 10 for label in labels)  # label 10 stands for digit 0


def _boxes(file: h5py.File, box: h5py.Reference, number: int) -> tuple[tuple[float, ...], ...]:
    group = _target(file, box, h5g.GroupID)
    left, top, width, height = (_numbers(file, h5d.open(group, field), number) for field in BOX)
    if min(width) <= 0 or min(height) <= 0:
        raise ValueError("a box is empty")
    return tuple(zip(left, top, width, height, strict=True))


def _numbers(file: h5py.File, field: h5d.DatasetID, number: int) -> list[float]:
    """A field of an image's boxes, one number per digit."""
    cells = [field]
    if number > 1:
        references = np.empty(number, h5py.ref_dtype)
        field.read(SPACES[number], h5s.ALL, references)
        cells = [_target(file, reference, h5d.DatasetID) for reference in references]
    value, values = np.empty(1), []
    for cell in cells:
        cell.read(SPACES[1], h5s.ALL, value, h5t.NATIVE_DOUBLE)
        values.append(float(value[0]))
    if not all(abs(value) <= MAX_PIXEL for value in values):
        raise ValueError(f"{values} cannot be places or sizes in pixels")
    return values


def _target(file: h5py.File, reference: h5py.Reference, kind: type) -> Any:
    if not isinstance(reference, h5py.Reference) or not reference:
        raise ValueError("a reference is empty")
    found = h5r.dereference(reference, file.id)
    if not isinstance(found, kind):
        raise ValueError(f"a reference leads to a {type(found).__name__}, but expected a {kind.__name__}")
    return found


def _size(found: h5d.DatasetID, most: int) -> int:
    size = math.prod(found.shape)
    if not 1 <= size <= most:
        raise ValueError(f"an array has {size} entries, but expected 1 to {most}")
    return size
