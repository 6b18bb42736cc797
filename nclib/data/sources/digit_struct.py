"""Reading `digitStruct.mat`, SVHN's annotations: a MATLAB 7.3 (HDF5) file of references to small arrays.

`/digitStruct/name` refers to arrays of UTF-16 codes, `/digitStruct/bbox` to groups with `height`, `left`, `top`,
`width` and `label`, each a (1, 1) number or, where an image has n > 1 digits, an (n, 1) array of references to (1, 1)
numbers.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5g, h5r, h5s, h5t

from nclib.data.sources.base import SourceError
from nclib.study.progress import bar

FIELDS = (b"left", b"top", b"width", b"height", b"label")
MAX_IMAGES = 1_000_000
MAX_DIGITS = 64  # of an image; the real most is 6
MAX_NAME = 64
MAX_PIXEL = 100_000  # of a box's place and size


@dataclass(frozen=True)
class Annotation:
    """The digits of one image.

    Args:
        name: the image's file name.
        digits: 0..9, in the order of the annotations.
        boxes: left, top, width, height of each digit [pixels]; may reach over the image's edge.
    """

    name: str
    digits: tuple[int, ...]
    boxes: tuple[tuple[float, float, float, float], ...]


class _BadFile(ValueError):
    """What is wrong with the file, without its name."""


def read_digit_struct(path: Path) -> list[Annotation]:
    """Read all annotations of a split.

    Raises:
        SourceError: the file is missing or damaged, or holds names, digits or boxes that cannot be.
    """
    try:
        with h5py.File(path, "r") as file:
            names, boxes = (_references(file, f"digitStruct/{field}") for field in ("name", "bbox"))
            if len(names) != len(boxes):
                raise _BadFile(f"it has {len(names)} names, but {len(boxes)} boxes")
            pairs = bar(zip(names, boxes, strict=True), total=len(names), desc=f"Reading {path.name}", unit=" images")
            return [_annotation(file, name, box) for name, box in pairs]
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise SourceError(
            f"{path} cannot be read ({error}): delete its folder and run the same command again."
        ) from error


def _references(file: h5py.File, name: str) -> np.ndarray:
    """A 1-d array of the references of a dataset."""
    found = file[name]
    if not isinstance(found, h5py.Dataset) or h5py.check_ref_dtype(found.dtype) is not h5py.Reference:
        raise _BadFile(f"/{name} holds no references")
    if not 1 <= found.size <= MAX_IMAGES:
        raise _BadFile(f"/{name} has {found.size} entries, but expected 1 to {MAX_IMAGES}")
    return found[()].reshape(-1)


# From here on h5py's low-level calls: a split has half a million small arrays; these read them five times as fast.


def _read(found: h5d.DatasetID | h5g.GroupID | h5t.TypeID, most: int) -> np.ndarray:
    """The numbers (as float64) or references of a small dataset, as a 1-d array."""
    if not isinstance(found, h5d.DatasetID):
        raise _BadFile("a reference or field is no array")
    size = math.prod(found.shape)
    if not 1 <= size <= most:
        raise _BadFile(f"an array has {size} entries, but expected 1 to {most}")
    kind = found.get_type().get_class()
    if kind not in (h5t.INTEGER, h5t.FLOAT, h5t.REFERENCE):
        raise _BadFile("an array holds neither numbers nor references")
    values = np.empty(found.shape, h5py.ref_dtype if kind == h5t.REFERENCE else np.float64)
    found.read(h5s.ALL, h5s.ALL, values)
    return values.reshape(-1)


def _target(file: h5py.File, reference: h5py.Reference) -> h5d.DatasetID | h5g.GroupID | h5t.TypeID:
    if not isinstance(reference, h5py.Reference) or not reference:
        raise _BadFile("a reference is empty")
    return h5r.dereference(reference, file.id)


def _annotation(file: h5py.File, name: h5py.Reference, box: h5py.Reference) -> Annotation:
    codes = _read(_target(file, name), MAX_NAME)
    text = "".join(chr(int(code)) for code in codes if 0 < code < 128)
    if len(text) < len(codes) or not re.fullmatch(r"[0-9A-Za-z_-]+\.png", text, re.ASCII):
        raise _BadFile(f"{text!r} is no name of an image")
    try:
        group = _target(file, box)
        if not isinstance(group, h5g.GroupID):
            raise _BadFile("its box is no group")
        left, top, width, height, label = (_numbers(file, h5d.open(group, field)) for field in FIELDS)
        if len({len(field) for field in (left, top, width, height, label)}) != 1:
            raise _BadFile("its boxes and labels differ in number")
        if min(width) <= 0 or min(height) <= 0 or any(number not in range(1, 11) for number in label):
            raise _BadFile("a box is empty or a label is not in 1..10")
    except (_BadFile, KeyError) as error:
        raise _BadFile(f"at image {text}: {error}") from error
    digits = tuple(int(number) % 10 for number in label)  # label 10 stands for digit 0
    return Annotation(text, digits, tuple(zip(left, top, width, height, strict=True)))


def _numbers(file: h5py.File, field: h5d.DatasetID) -> list[float]:
    """A field of an image's boxes, one number per digit."""
    values = _read(field, MAX_DIGITS)
    if values.dtype.kind == "O":
        values = np.concatenate([_read(_target(file, reference), 1) for reference in values])
    if values.dtype.kind != "f" or not (np.abs(values) <= MAX_PIXEL).all():
        raise _BadFile(f"{values.tolist()} cannot be places or sizes in pixels")
    return values.tolist()
