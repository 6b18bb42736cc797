"""One run as the bytes of a safetensors file, for the browser."""

import hashlib
import io
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.markers import MarkerStyle
from PIL import Image
from safetensors.numpy import save

from nclib.explore.arrays import FACTS, geometry_arrays
from nclib.explore.outputs import RunData, labels
from nclib.figures.panels import panel
from nclib.figures.style import RunStyles

MAPS = {"cosine": "YlGnBu", "angle": "cividis"}  # those of the figures
IMAGE_SIDE = 32  # pixels: larger images are shrunk
PLAIN = {r"\Sigma": "Σ", r"\mu": "μ", r"\|": "‖", r"\mathrm": "", "^{+}": "⁺"}
PANELS = {  # of several metrics: its title, and what each line is called
    "nc2_w_centered": ("NC2", "classifier"),
    "nc2_h_centered": ("NC2", "means"),
    "tag_wise_ratio": ("tag-wise ratio", "{m} labels"),
}


def run_payload(data: RunData) -> tuple[bytes, dict[str, bytes]]:
    """All that the browser shows of a run: its numbers, and files that runs share (color maps, its images) by name."""
    styles = RunStyles.from_runs(labels(data.study))
    marker = MarkerStyle(styles.markers[data.run] or "o")
    header: dict[str, Any] = {
        "run": data.run,
        "seed": data.seed,
        "label": data.label,
        "color": to_hex(styles.colors[data.run]),
        "dash": list(styles.dashes[data.run] or ()),
        "marker": marker.get_path().transformed(marker.get_transform()).to_polygons()[0].tolist(),
        "problems": data.problems,
        "theory": data.theory,
    }
    arrays: dict[str, np.ndarray] = {}
    files = {what: colormaps[name](np.arange(256), bytes=True).tobytes() for what, name in MAPS.items()}
    if data.metrics is not None:
        header["series"], arrays["metric_epochs"], arrays["values"] = _series(data)
    if data.geometry is not None:
        header |= {"classes": data.geometry.class_names, "factNames": FACTS}
        header["colors"] = _colors(data.geometry.label_sets.numpy())
        header["classColors"] = _colors(np.eye(len(data.geometry.class_names)))
        arrays |= geometry_arrays(data.geometry, data.theory)
        if (images := data.sample_images) is not None and len(images):
            file, tiles = sprite(images)
            header["images"] = tiles | {"file": hashlib.sha256(file).hexdigest()}
            files[header["images"]["file"]] = file
    return pack(header, arrays), files


def pack(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """A safetensors file of some arrays, with the header as its JSON metadata `text`."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}  # what `save` takes for granted
    return save(contiguous, {"text": json.dumps(header, allow_nan=False)})


def _series(data: RunData) -> tuple[list[dict[str, Any]], np.ndarray, np.ndarray]:
    """What each line is, the epochs, and line x epoch; NaN where a line has no value."""
    epochs = np.unique(data.metrics["epoch"])
    described, values = [], []
    for (metric, split, m), rows in data.metrics.groupby(["metric", "split", "labels"], dropna=False, sort=False):
        shown = panel(metric, labels=None if pd.isna(m) else int(m))
        predicted = data.theory.get(f"train_{shown.name}", data.theory.get(shown.name))
        panel_title, name = PANELS.get(metric, (shown.title, split))
        values.append(rows.drop_duplicates("epoch").set_index("epoch")["value"].reindex(epochs).to_numpy(np.float32))
        described.append(
            {"key": f"{split} {shown.name}", "metric": metric, "split": split, "title": plain(shown.title)}
            | {"panel": plain(panel_title), "name": name.format(m=m), "log": shown.log}
            | {"mayBeLog": shown.may_be_log, "floor": shown.floor, "ceiling": shown.ceiling}
            | {"theory": predicted if split == "train" else None}
        )
    return described, epochs.astype(np.int32), np.array(values)


def plain(title: str) -> str:
    r"""A figure's title without LaTeX.

    >>> plain(r"NC1: $\mathrm{tr}(\Sigma_W\Sigma_B^{+})/K$")
    'NC1: tr(ΣWΣB⁺)/K'
    """
    for latex, text in PLAIN.items():
        title = title.replace(latex, text)
    return re.sub(r"[${}_]", "", title)


def _colors(sets: np.ndarray) -> list[str]:
    """The color of each label set's features: those of its classes in the figures, mixed."""
    mixed = sets @ np.array(sns.husl_palette(sets.shape[1], s=0.7, l=0.5))
    return [to_hex(color) for color in mixed / np.maximum(sets.sum(1, keepdims=True), 1)]


def sprite(images: torch.Tensor) -> tuple[bytes, dict[str, int]]:
    """All images side by side as one file, exact if they are gray; and the size of each, and their number in a row."""
    stride = -(-max(images.shape[2:]) // IMAGE_SIDE)
    if stride > 1:
        images = torch.nn.functional.avg_pool2d(images.float(), stride, ceil_mode=True).round().to(torch.uint8)
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    blank = torch.zeros(-count % columns, channels, height, width, dtype=torch.uint8)
    grid = torch.cat([images, blank]).unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2)
    pixels = grid.reshape(-1, columns * width, channels).squeeze(2).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png" if channels == 1 else "jpeg", quality=85)
    return file.getvalue(), {"columns": columns, "width": width, "height": height}
