"""One label set in numbers and pictures, for each run that is shown."""

import html
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from nclib.explore.png import encode
from nclib.explore.run_data import LabelSet, RunData, degrees, unit

SAMPLES = 12  # pictures of a label set
ACROSS = 6  # pictures in a row
SIDE = 58  # pixels of a picture in the layout, about
GAP = 4


def numbers(data: RunData, labels: LabelSet, epoch: int) -> dict[str, str]:
    """What is known of a label set at an epoch: name of each quantity and its value in words."""
    g, e = data.geometry, data.position(epoch)
    means = g.class_means[e].double().numpy()
    centered, rows = means - means.mean(0), g.weight[e].double().numpy()
    rows = rows - rows.mean(0)
    if labels not in data.label_sets:
        if len(labels) != 2 or data.is_multi_label:
            return {"training pictures": "none"}
        i, j = labels
        pairs = {"class means": centered, "classifier rows": rows}
        return {f"angle between {what}": f"{degrees(*unit(a[[i, j]])):.2f}°" for what, a in pairs.items()} | {
            "the same in a simplex ETF": f"{np.degrees(np.arccos(-1 / (data.num_classes - 1))):.2f}°"
        }
    place = data.label_sets.index(labels)
    told = {"training pictures": f"{int(g.counts[place])}"}
    if len(labels) == 1:
        (k,) = labels
        size = np.linalg.norm(centered, axis=1)
        return told | {
            "angle of class mean to classifier row": f"{degrees(unit(centered[k]), unit(rows[k])):.2f}°",
            "length of class mean, mean of all = 1": f"{size[k] / size.mean():.3f}",
            "bias": f"{g.bias[e, k]:.3f}",
        }
    mean, total = g.set_means[e, place].double().numpy(), means[list(labels)].sum(0)
    scale = float(g.scales[e, len(labels) - 1])
    away = np.linalg.norm(mean - scale * total) / max(np.linalg.norm(mean), 1e-30)
    return told | {
        "angle to tag-wise average": f"{g.angles[e, place]:.2f}°",
        "own scale": f"{mean @ total / max(total @ total, 1e-30):.3f}",
        f"scale of all {len(labels)}-label sets": f"{scale:.3f}",
        "off the scaled average": f"{100 * away:.1f} %",
    }


def table(runs: Sequence[RunData], labels: LabelSet, epoch: int) -> str:
    """`numbers` of all runs as an HTML table."""
    columns = {data.label: numbers(data, labels, epoch) for data in runs if data.geometry is not None}
    names = dict.fromkeys(name for column in columns.values() for name in column)
    if not names:
        return ""
    head = "".join(f"<th>{html.escape(label)}</th>" for label in columns)
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>"
        + "".join(f"<td>{html.escape(column.get(name, ''))}</td>" for column in columns.values())
        + "</tr>"
        for name in names
    )
    return f"<table class='nc-numbers'><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def sample_pictures(data: RunData, labels: LabelSet) -> UInt8[np.ndarray, "_n c h w"]:
    """Training pictures of a label set; for a pair that single-label data cannot have, of both classes.

    Raises:
        StageError: the data set is missing or damaged.
    """
    if labels in data.label_sets:
        return data.pictures(labels, limit=SAMPLES)
    return np.concatenate([data.pictures((k,), limit=SAMPLES // len(labels)) for k in labels])


def contact_sheet(images: UInt8[np.ndarray, "n c h w"]) -> bytes:
    """Pictures in rows of six as PNG; small ones are enlarged to whole multiples of their pixels."""
    n, _, h, w = images.shape
    times = max(1, round(SIDE / max(h, w)))
    across = min(n, ACROSS)
    down = -(-n // ACROSS)
    h, w = h * times, w * times
    sheet = np.full((down * (h + GAP), across * (w + GAP), 4), 255, np.uint8)
    for place, image in enumerate(images):
        top, left = place // ACROSS * (h + GAP), place % ACROSS * (w + GAP)
        pixels = image.repeat(times, 1).repeat(times, 2).transpose(1, 2, 0)
        sheet[top : top + h, left : left + w, :3] = pixels if pixels.shape[2] == 3 else pixels[:, :, :1]
    return encode(sheet)
