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
from PIL import Image, ImageOps
from torch import Tensor

from nclib.data.sources.base import SourceError, SourceImages, cache_root
from nclib.data.tensors import load_tensors, save_tensors
from nclib.study.files import StageError
from nclib.study.progress import bar

FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 1 << 26  # of an image; decoded as RGB each takes three bytes
CACHE_VERSION = 2  # of the decoding: a new number makes older caches stale

Change = Callable[[Image.Image, int], Image.Image]


def decode(path: Path, change: Callable[[Image.Image], Image.Image]) -> UInt8[np.ndarray, "3 h w"]:
    """Read one image as 8-bit RGB: turned as its camera says (EXIF), 16 bits scaled, transparency over white.

    `change` crops and resizes. Files larger than `MAX_PIXELS` are refused before anything is decoded.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are more than the {MAX_PIXELS} allowed")
            pixels = np.asarray(change(_as_rgb(ImageOps.exif_transpose(image))))
    except Exception as error:  # Pillow's readers raise errors of many kinds on damaged files
        raise SourceError(f"{path} cannot be read as an image ({error}): replace or remove it.") from error
    return pixels.transpose(2, 0, 1)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # `convert` would cut all values above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits; 8 or 16 are read")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def decode_all(paths: Sequence[Path], change: Change, *, what: str) -> UInt8[Tensor, "n c h w"]:
    """Read many images, which `change(image, number)` brings to one size, on all cores and with a progress bar.

    Raises:
        SourceError: files cannot be read, all of which are listed, or two images differ in size.
    """
    broken: list[str] = []

    def read(number: int) -> np.ndarray | None:
        try:
            return decode(paths[number], lambda image: change(image, number))
        except SourceError as error:
            broken.append(str(error))
            return None

    start, first = next(((n, found) for n in range(len(paths)) if (found := read(n)) is not None), (len(paths), None))
    images = np.empty((len(paths), *(() if first is None else first.shape)), np.uint8)

    def keep(number: int) -> None:
        pixels = first if number == start else read(number)
        if pixels is None:
            return
        if pixels.shape != first.shape:
            raise SourceError(
                f"{paths[number]} has {pixels.shape[2]} x {pixels.shape[1]} pixels, but {paths[start]} has "
                f"{first.shape[2]} x {first.shape[1]}: set dataset.image_size to resize all."
            )
        images[number] = pixels

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(bar(pool.map(keep, range(start, len(paths))), total=len(paths), initial=start, desc=what, unit=" images"))
    if broken:
        raise SourceError("\n".join(sorted(broken)))
    return torch.from_numpy(images)


def cache_key(files: Iterable[Path], **settings: Any) -> str:
    """A digest of names, sizes and times of `files` and of all settings, for `cached`.

    The times are those of change: no program can set them.
    """
    digest = hashlib.sha256(json.dumps([CACHE_VERSION, settings], sort_keys=True).encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file}|{status.st_size}|{status.st_ctime_ns}\n".encode())
    return digest.hexdigest()


def cached(name: str, key: str, make: Callable[[], SourceImages]) -> SourceImages:
    """The decoded images from the cache, or as `make` decodes them, and then kept there.

    `key` is the `cache_key` of all they depend on. A damaged file is replaced; a folder that cannot be written only
    costs the time to decode again.
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
