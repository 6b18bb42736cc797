"""Sample images with their labels."""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from torch import Tensor

from nclib.data.compose import MultiLabelData
from nclib.figures.display import Display
from nclib.figures.layout import LINE, drawable, fit_texts
from nclib.figures.style import TEXT_WIDTH, style
from nclib.study.parameters import Dataset

GAP = 0.08  # inches: between two images
TITLE_SIZE = 7.0
SHIFTED = "shifted cyclically, as in the paper's data"  # layout mnist: strokes leave at an edge and come back
PERMUTED = "labels permuted at random"


def show_image(axes: Axes, image: UInt8[Tensor, "c h w"]) -> None:
    """Draw one image (1 channel: black paper, white ink turned to black on white) without ticks."""
    pixels = image.permute(1, 2, 0).numpy()
    if pixels.shape[2] == 1:
        axes.imshow(pixels[..., 0], cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
    else:
        axes.imshow(pixels, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)


@dataclass
class SampleGrid(Display):
    """Images with their labels, one row for each multiplicity: `rows` has the places of the images to show.

    `note` stands below them.
    """

    SEEN = "{study}: training images with their labels{display.of_note}."
    images: UInt8[Tensor, "n c h w"]
    labels: UInt8[Tensor, "n k"]
    class_names: tuple[str, ...]
    rows: list[list[int]]
    note: str = ""

    @classmethod
    def from_data(cls, data: MultiLabelData, *, number: int = 8, settings: Dataset | None = None) -> "SampleGrid":
        """`number` images of each multiplicity of a split, their label sets spread over those that occur.

        `settings` are those of the data set: what they do to its images is noted.
        """
        rows = []
        for m in data.multiplicity.unique().tolist():
            places = (data.multiplicity == m).nonzero().flatten()
            sets = data.labels[places].unique(dim=0).flip(0)
            if len(sets) < number and m == 1:  # few classes: more images of each
                chosen = places[:: max(1, len(places) // number)][:number]
                rows.append(chosen.tolist())
                continue
            wanted = sets[np.linspace(0, len(sets) - 1, min(number, len(sets))).round().astype(int)]
            match = (data.labels[places][:, None] == wanted).all(2)
            rows.append([places[column.nonzero()[0, 0]].item() for column in match.T])
        note = SHIFTED if settings and settings.layout == "mnist" else ""
        note = PERMUTED if settings and settings.random_labels else note
        return cls(data.images, data.labels, data.class_names, rows, note)

    @property
    def of_note(self) -> str:
        return f", {self.note}" if self.note else ""

    def plot(self) -> "SampleGrid":
        """Draw; the result is the display itself."""
        columns = max(map(len, self.rows))
        side = TEXT_WIDTH / columns
        places = [place for row in self.rows for place in row]
        class_names = drawable(self.class_names)
        names = [[class_names[k] for k in self.labels[place].nonzero().flatten()] for place in places]
        titles, points = fit_texts([", ".join(found) for found in names], side - GAP, size=TITLE_SIZE)
        if any("\n" in title for title in titles):  # else a label's second line would look like another label
            titles, points = fit_texts(["\n".join(found) for found in names], side - GAP, size=TITLE_SIZE)
        rest = iter(titles)
        lines = sum(1 + max(next(rest).count("\n") for _ in row) for row in self.rows)
        with style():
            size = (TEXT_WIDTH, len(self.rows) * (side + GAP) + LINE * (lines + bool(self.note)))
            self.figure_, grid = plt.subplots(
                len(self.rows), columns, figsize=size, layout="constrained", squeeze=False
            )
            used = [grid[row, column] for row, shown in enumerate(self.rows) for column in range(len(shown))]
            self.axes_ = np.array(used)
            for blank in set(grid.flat) - set(used):
                blank.remove()
            for axes, place, title in zip(used, places, titles, strict=True):
                show_image(axes, self.images[place])
                axes.set_anchor("N")  # the layout leaves room for titles of several lines above it
                axes.set_title(title, loc="center", fontsize=points, pad=2.5)
            self.figure_.supxlabel(self.note, fontsize=TITLE_SIZE)
        return self
