"""Decoding image files: safely, in parallel, once (the decoded images are cached)."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from nclib.data.sources.base import SourceError, SourceImages, cache_root
from nclib.data.tensors import load_tensors, save_tensors
from nclib.study.files import StageError
from nclib.study.progress import bar

FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 1 << 26  # of an image; decoded as RGB each takes three bytes
CACHE_VERSION = 1  # of the decoding: a new number makes older caches stale

Change = Callable[[Image.Image, int], Image.Image]


def decode(path: Path, change: Callable[[Image.Image], Image.Image]) -> UInt8[np.ndarray, "3 h w"]:
    """Read one image as RGB.

    Args:
        path: the file.
        change: crops and resizes, before the image becomes an array.

    Raises:
        SourceError: the file is no image, damaged, or larger than `MAX_PIXELS` (checked before anything is decoded).
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are more than the {MAX_PIXELS} allowed")
            pixels = np.asarray(change(image.convert("RGB")))
    except Exception as error:  # Pillow's readers raise errors of many kinds on damaged files
        raise SourceError(f"{path} cannot be read as an image ({error}): replace or remove it.") from error
    return pixels.transpose(2, 0, 1)


def decode_all(paths: Sequence[Path], change: Change, *, what: str) -> UInt8[Tensor, "n c h w"]:
    """Read many images, which `change(image, number)` brings to one size, on all cores and with a progress bar.

    Raises:
        SourceError: a file cannot be read, or two images differ in size.
    """

    def one(number: int) -> np.ndarray:
        return decode(paths[number], lambda image: change(image, number))

    first = one(0)
    images = np.empty((len(paths), *first.shape), np.uint8)

    def keep(number: int) -> None:
        pixels = one(number)
        if pixels.shape != first.shape:
            raise SourceError(
                f"{paths[number]} has {pixels.shape[2]} x {pixels.shape[1]} pixels, but {paths[0]} has "
                f"{first.shape[2]} x {first.shape[1]}: set dataset.image_size to resize all."
            )
        images[number] = pixels

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(bar(pool.map(keep, range(len(paths))), total=len(paths), desc=what, unit=" images"))
    return torch.from_numpy(images)


def cache_key(files: Iterable[Path], **settings: Any) -> str:
    """A digest of names, sizes and times of `files` and of all settings, for `cached`."""
    digest = hashlib.sha256(json.dumps([CACHE_VERSION, settings], sort_keys=True).encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def cached(name: str, key: str, make: Callable[[], SourceImages]) -> SourceImages:
    """The decoded images from the cache, or freshly made and kept there.

    The cache is `$NCLIB_CACHE_ROOT`, else `cache` in the data root. A damaged file in it is replaced; a folder that
    cannot be written only costs the time to decode again.

    Args:
        name: what the images are.
        key: `cache_key` of all they depend on.
        make: decodes them.
    """
    path = cache_root() / f"{name}-{key[:16]}.safetensors"
    if path.is_file():
        try:
            tensors, names = load_tensors(path, stage="01_dataset", checksum=True)
            return SourceImages(tensors["images"], tensors["labels"], tuple(names), tensors["index"])
        except (StageError, KeyError, TypeError) as error:
            logging.getLogger(__name__).warning("%s is replaced: %s", path, error)
    source = make()
    tensors = {"images": source.images, "labels": source.labels, "index": source.places()}
    try:
        save_tensors(path, tensors, list(source.class_names), checksum=True)
    except (StageError, OSError) as error:
        logging.getLogger(__name__).warning(
            "Not kept, will be decoded again (NCLIB_CACHE_ROOT can name another folder): %s", error
        )
    return source
