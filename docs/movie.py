"""docs/collapse.webp, the README's moving picture: `python docs/movie.py outputs/mlab_digits` (`make gallery`)."""

import io
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image

from nclib.figures.concept import TagWisePlane
from nclib.figures.feature_plane import FeaturePlane
from nclib.results.geometry import Geometry

BETWEEN, WAIT, HOLD = 4, 120, 2500  # frames from one checkpoint to the next; milliseconds of a frame, of the last one
MOVING = ("epochs", "class_means", "global_mean", "set_means", "weight", "bias", "scales", "sample_features")
DPI = 130


def between(geometry: Geometry, place: float) -> Geometry:
    """The last layer at one moment; a `place` between two checkpoints is interpolated linearly."""
    start, share = int(place), place % 1
    ends = {name: getattr(geometry, name)[[start, min(start + 1, len(geometry.epochs) - 1)]] for name in MOVING}
    mixed = {name: torch.lerp(*values.double(), share)[None] for name, values in ends.items()}
    return replace(geometry, **mixed | {"epochs": mixed["epochs"].round().long()})


def frame(geometry: Geometry) -> Image.Image:
    """All classes, and beside them three with their pairs."""
    plane, pairs = FeaturePlane({"all ten classes": (geometry, 0)}).plot(), TagWisePlane(geometry, (0,)).plot()
    plane.figure_.set_layout_engine("none")  # which would make room for names outside, and the axes would jump
    plane.axes_[0].set_position((0.03, 0.05, 0.94, 0.88))
    drawn = []
    for display in (plane, pairs):
        file = io.BytesIO()
        display.figure_.savefig(file, format="png", dpi=DPI)
        plt.close(display.figure_)
        drawn.append(Image.open(file).convert("RGB"))
    page = Image.new("RGB", (sum(image.width for image in drawn), max(image.height for image in drawn)), "white")
    page.paste(drawn[0], (0, 0))
    page.paste(drawn[1], (drawn[0].width, 0))
    return page


def main(study: Path, out: Path) -> None:
    """Draw the study's first run and seed."""
    geometry = Geometry.load(study / "learned/seed0/geometry.safetensors")
    steps = (len(geometry.epochs) - 1) * BETWEEN
    first, *others = [frame(between(geometry, step / BETWEEN)) for step in range(steps + 1)]
    times = [10 * WAIT, *[WAIT] * (steps - 1), HOLD]
    first.save(out, save_all=True, append_images=others, duration=times, loop=0, quality=80, method=2)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent / "collapse.webp")
