"""Reading `digitStruct.mat`, SVHN's annotations: a MATLAB 7.3 (HDF5) file of references to small arrays.

`/digitStruct/name` refers to arrays of UTF-16 codes, `/digitStruct/bbox` to groups with `height`, `left`, `top`,
`width`
and `label`, each a (1, 1) number or, where a picture has n > 1 digits, an (n, 1) array of references to (1, 1)
numbers.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from tqdm.auto import tqdm

from nclib.sources.base import SourceError

MAX_PICTURES = 1_000_000
MAX_DIGITS = 64  # of a picture; the real most is 6
MAX_NAME = 64
MAX_PIXEL = 100_000  # of a box's place and size


@dataclass(frozen=True)
class Annotation:
    """The digits of one picture.

    Args:
        name: the picture's file name.
        digits: 0..9, from left to right as annotated.
        boxes: left, top, width, height of each digit [pixels]; may reach over the picture's edge.
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
            pairs = zip(names, boxes, strict=True)
            progress = tqdm(pairs, total=len(names), desc=f"Reading {path.name}", unit=" pictures")
            return [_annotation(file, name, box) for name, box in progress]
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise SourceError(
            f"{path} cannot be read ({error}): delete its folder and run the same command again."
        ) from error


def _references(file: h5py.File, name: str) -> np.ndarray:
    """A 1-d array of the references of a dataset."""
    found = file[name]
    if not isinstance(found, h5py.Dataset) or h5py.check_ref_dtype(found.dtype) is not h5py.Reference:
        raise _BadFile(f"/{name} holds no references")
    if not 1 <= found.size <= MAX_PICTURES:
        raise _BadFile(f"/{name} has {found.size} entries, but expected 1 to {MAX_PICTURES}")
    return found[()].reshape(-1)


def _target(file: h5py.File, reference: h5py.Reference, kind: type) -> h5py.Dataset | h5py.Group:
    if not reference:
        raise _BadFile("it holds an empty reference")
    found = file[reference]
    if not isinstance(found, kind):
        raise _BadFile(f"a reference leads to a {type(found).__name__}, not to a {kind.__name__}")
    return found


def _annotation(file: h5py.File, name: h5py.Reference, box: h5py.Reference) -> Annotation:
    codes = _target(file, name, h5py.Dataset)
    if codes.dtype.kind != "u" or not 1 <= codes.size <= MAX_NAME:
        raise _BadFile("a picture's name is no short text")
    text = "".join(map(chr, codes[()].reshape(-1).tolist()))
    if not re.fullmatch(r"[0-9A-Za-z_-]+\.png", text, re.ASCII):
        raise _BadFile(f"{text!r} is no name of a picture")
    group = _target(file, box, h5py.Group)
    try:
        fields = [_numbers(file, group[field]) for field in ("left", "top", "width", "height", "label")]
        if len({len(field) for field in fields}) != 1:
            raise _BadFile("its boxes and labels differ in number")
        left, top, width, height, label = fields
        if min(width) <= 0 or min(height) <= 0 or min(label) < 1 or max(label) > 10 or any(x % 1 for x in label):
            raise _BadFile("a box is empty or a label is not in 1..10")
    except (_BadFile, KeyError) as error:
        raise _BadFile(f"at picture {text}: {error}") from error
    digits = tuple(int(number) % 10 for number in label)  # label 10 stands for digit 0
    return Annotation(text, digits, tuple(zip(left, top, width, height, strict=True)))


def _numbers(file: h5py.File, field: h5py.Dataset) -> list[float]:
    if not isinstance(field, h5py.Dataset) or not 1 <= field.size <= MAX_DIGITS:
        raise _BadFile(f"a field has not 1 to {MAX_DIGITS} entries")
    if h5py.check_ref_dtype(field.dtype) is h5py.Reference:
        numbers = [_number(_target(file, reference, h5py.Dataset)) for reference in field[()].reshape(-1)]
    else:
        numbers = [_number(field)]
    return numbers


def _number(field: h5py.Dataset) -> float:
    if field.size != 1 or field.dtype.kind not in "iuf":
        raise _BadFile("a field is no single number")
    number = float(field[()].reshape(-1)[0])
    if not abs(number) <= MAX_PIXEL:
        raise _BadFile(f"{number} cannot be a place or size in pixels")
    return number
