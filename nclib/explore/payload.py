"""One run as bytes that the browser reads without copying: a JSON header, then the arrays."""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from matplotlib.colors import to_hex

from nclib.explore.arrays import geometry_arrays
from nclib.explore.outputs import RunData
from nclib.figures.panels import panel
from nclib.results.metrics_table import measured, of_metric

ALIGNMENT = 8
IMAGE_BYTES = 6_000_000  # of a run's sample; the images of later features are left out
IMAGE_SIDE = 32  # pixels: larger images are shrunk
LOOKUP = 33  # colors of a map; the browser interpolates
# LaTeX of the figures' titles as plain text
PLAIN = {
    r"\\mathrm\{(\w+)\}": r"\1",
    r"\\Sigma": "Σ",
    r"\\mu": "μ",
    r"\\\|": "‖",
    r"\^\{\+\}": "⁺",
    r"\\,": " ",
    "_([A-Z0-9])": r"\1",
    r"\$": "",
}


def pack(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """`[length of the header] [header] [arrays]`, each array at a multiple of 8 bytes; all little-endian.

    In the header, `arrays` has name -> [dtype, shape, offset from the end of the header].
    """
    places, parts, offset = {}, [], 0
    for name, array in arrays.items():
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        places[name] = [array.dtype.name, list(array.shape), offset]
        padding = -len(data) % ALIGNMENT
        parts += [data, bytes(padding)]
        offset += len(data) + padding
    text = json.dumps({**header, "arrays": places}, allow_nan=False).encode()
    text += b" " * (-(len(text) + 4) % ALIGNMENT)
    return b"".join([np.uint32(len(text)).astype("<u4").tobytes(), text, *parts])


def run_payload(data: RunData) -> bytes:
    """All that the browser shows of a run."""
    header: dict[str, Any] = {
        "run": data.run,
        "seed": data.seed,
        "label": data.label,
        "color": data.color,
        "problems": list(data.problems),
        "theory": {name: value for name, value in data.theory.items() if np.isfinite(value)},
    }
    arrays: dict[str, np.ndarray] = {}
    if data.metrics is not None:
        header["series"], arrays["metric_epochs"], arrays["values"] = _series(data.metrics)
    if data.geometry is not None:
        header["classes"] = list(data.geometry.class_names)
        arrays |= geometry_arrays(data.geometry)
        if (images := data.sample_images) is not None:
            arrays["images"] = _small(images).numpy()
    return pack(header, arrays)


def _series(table: pd.DataFrame) -> tuple[list[dict[str, Any]], np.ndarray, np.ndarray]:
    """What each line is, the epochs, and line x epoch; NaN where a line has no value."""
    epochs = np.unique(table["epoch"])
    described, values = [], []
    for metric, labels in measured(table):
        shown = panel(metric, labels=labels)
        for split in ("train", "test"):
            rows = of_metric(table, metric, split=split, labels=labels)
            if rows.empty:
                continue
            values.append(rows.drop_duplicates("epoch").set_index("epoch")["value"].reindex(epochs).to_numpy(float))
            described.append(
                {"metric": metric, "labels": labels, "split": split, "title": plain(shown.title), "log": shown.log}
                | {"mayBeLog": shown.may_be_log, "floor": shown.floor, "ceiling": shown.ceiling}
            )
    return described, epochs.astype(np.int32), np.array(values)


def plain(title: str) -> str:
    r"""A figure's title without LaTeX.

    >>> plain(r"NC1: $\mathrm{tr}(\Sigma_W\Sigma_B^{+})/K$")
    'NC1: tr(ΣWΣB⁺)/K'
    """
    for pattern, text in PLAIN.items():
        title = re.sub(pattern, text, title)
    return title


def _small(images: torch.Tensor) -> torch.Tensor:
    """The images at most `IMAGE_SIDE` high and wide, and so many that they take `IMAGE_BYTES`."""
    channels, height, width = images.shape[1:]
    stride = max(1, -(-max(height, width) // IMAGE_SIDE))
    pixels = channels * -(-height // stride) * -(-width // stride)
    images = images[: max(1, IMAGE_BYTES // pixels)]
    if stride == 1:
        return images
    shrunk = torch.nn.functional.avg_pool2d(images.float(), stride, ceil_mode=True)
    return shrunk.round().to(torch.uint8)


def color_maps() -> dict[str, list[str]]:
    """The color maps of the figures: of cosines, and of angles."""
    names = {"cosine": "YlGnBu", "angle": "cividis"}
    return {what: [to_hex(c) for c in colormaps[name](np.linspace(0, 1, LOOKUP))] for what, name in names.items()}
