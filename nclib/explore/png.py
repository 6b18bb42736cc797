"""Pixels as PNG."""

import struct
import zlib

import numpy as np
from jaxtyping import UInt8


def encode(pixels: UInt8[np.ndarray, "h w 4"]) -> bytes:
    """RGBA pixels as PNG, fast rather than small.

    Without row filters and at zlib's fastest level the encoder needs a third of Pillow's time on a view (3.4 ms against
    9.6 ms for 1100 x 420 pixels), and the file is no larger.
    """
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 4 * width), np.uint8)  # each row starts with the number of its filter: 0, none
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
