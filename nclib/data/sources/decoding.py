"""Decoding image files: safely, in parallel, once (the decoded images are cached)."""

import hashlib
import json
import logging
import os
import threading
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
    images: list[np.ndarray] = []  # one array, made when the first image is known
    lock = threading.Lock()

    def keep(number: int) -> None:
        try:
            pixels = decode(paths[number], lambda image: change(image, number))
        except SourceError as error:
            broken.append(str(error))
            return
        with lock:
            if not images:
                images.append(np.empty((len(paths), *pixels.shape), np.uint8))
        if pixels.shape != images[0].shape[1:]:
            expected, found = (f"{width} x {height}" for height, width in (images[0].shape[2:], pixels.shape[1:]))
            raise SourceError(
                f"{paths[number]} has {found} pixels, but others have {expected}: set dataset.image_size to resize all."
            )
        images[0][number] = pixels

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(bar(pool.map(keep, range(len(paths))), total=len(paths), desc=what, unit=" images"))
    if broken:
        raise SourceError("\n".join(sorted(broken)))
    return torch.from_numpy(images[0])


def cached(name: str, files: Iterable[Path], make: Callable[[], SourceImages], **settings: Any) -> SourceImages:
    """The decoded images from the cache, or as `make` decodes them, and then kept there.

    They depend on the names, sizes and times of change (which no program can set) of `files` and on all settings. A
    damaged file is replaced; a folder that cannot be written only costs the time to decode again.
    """
    key = hashlib.sha256(json.dumps([CACHE_VERSION, settings], sort_keys=True).encode())
    for file in files:
        status = file.stat()
        key.update(f"{file}|{status.st_size}|{status.st_ctime_ns}\n".encode())
    path = cache_root() / f"{name}-{key.hexdigest()[:16]}.safetensors"
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
