"""Sample images with their labels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from torch import Tensor

from nclib.data.compose import MultiLabelData
from nclib.figures.display import Display
from nclib.figures.layout import LINE, drawable, fit_texts
from nclib.figures.style import TEXT_WIDTH

GAP = 0.08  # inches: between two images
TITLE_SIZE = 7.0
NOTES = {"mnist": "shifted cyclically, as in the paper's data"}  # by layout: strokes leave at an edge and come back


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

    SEEN = "{study}: training images, a row for each number of labels, with their labels."
    images: UInt8[Tensor, "n c h w"]
    labels: UInt8[Tensor, "n k"]
    class_names: tuple[str, ...]
    rows: list[list[int]]
    note: str = ""

    @classmethod
    def from_data(cls, data: MultiLabelData, *, number: int = 8, layout: str | None = None) -> "SampleGrid":
        """`number` images of each multiplicity of a split, their label sets spread over those that occur.

        `layout` is how they were composed; where it moves strokes beyond an edge, a note says so.
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
        return cls(data.images, data.labels, data.class_names, rows, NOTES.get(layout, ""))

    def caption(self, study: str) -> str:
        """What is drawn, of which study, and what was done to it."""
        return super().caption(study) + (f" They are {self.note}." if self.note else "")

    def _draw(self) -> None:
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
        size = (TEXT_WIDTH, len(self.rows) * (side + GAP) + LINE * (lines + bool(self.note)))
        grid = self._subplots(len(self.rows), columns, size)
        used = [grid[row, column] for row, shown in enumerate(self.rows) for column in range(len(shown))]
        self.axes_ = np.array(used)
        for blank in set(grid.flat) - set(used):
            blank.remove()
        for axes, place, title in zip(used, places, titles, strict=True):
            show_image(axes, self.images[place])
            axes.set_anchor("N")  # the layout leaves room for titles of several lines above it
            axes.set_title(title, loc="center", fontsize=points, pad=2.5)
        self.figure_.supxlabel(self.note, fontsize=TITLE_SIZE)
