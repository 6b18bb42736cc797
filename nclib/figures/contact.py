"""Contact sheets: the misclassified images, by class."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Int, UInt8
from matplotlib.axes import Axes
from torch import Tensor

from nclib.figures.display import Display
from nclib.figures.layout import drawable
from nclib.figures.samples import show_image
from nclib.figures.style import HIGHEST, TEXT_WIDTH

GAP = 1  # pixels between two images
COLUMNS, ROWS = 20, 10
NAMES_TAKE = 3  # images' widths, left of the rows
TALL = 1.45  # images' heights: a row, with the names below
TITLE = 0.3  # inches


@dataclass
class ContactSheet(Display):
    """Misclassified images, one row of small images per class, with the predicted class below each.

    Where class names are long, the number of the predicted class stands there. A row shows at most `COLUMNS` images,
    and counts all; the `ROWS` classes with most are shown. `index` are their places in the split.
    """

    images: UInt8[Tensor, "n c h w"]
    labels: Int[Tensor, " n"]
    predicted: Int[Tensor, " n"]
    index: Int[Tensor, " n"]
    class_names: Sequence[str]

    @classmethod
    def from_predictions(
        cls,
        images: UInt8[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        predicted: Int[Tensor, " n"],
        class_names: Sequence[str],
    ) -> "ContactSheet":
        """Keep the images of a split whose prediction is wrong."""
        wrong = (labels != predicted).nonzero().flatten()
        return cls(images[wrong], labels[wrong], predicted[wrong], wrong, class_names)

    def table(self) -> pd.DataFrame:
        """Every image, by class: `index` (its place in the split), `label` and `predicted` (class numbers)."""
        columns = {"index": self.index, "label": self.labels, "predicted": self.predicted}
        return pd.DataFrame(columns).sort_values(["label", "index"], ignore_index=True)

    def _draw(self) -> None:
        classes, numbers = self.labels.unique(return_counts=True)
        columns = min(COLUMNS, numbers.max().item()) if len(classes) else 0
        most = f", the {ROWS} classes with most" if len(classes) > ROWS else ""
        classes = classes[numbers.argsort(descending=True, stable=True)[:ROWS].sort().values]
        side = min(0.4, TEXT_WIDTH / (columns + NAMES_TAKE), (HIGHEST - TITLE) / (TALL * max(1, len(classes))))
        size = (max(2.7, side * (columns + NAMES_TAKE)), max(0.6, TALL * side * len(classes) + TITLE))
        names = drawable(self.class_names)
        numbered = max(map(len, names)) > 5  # letters that fit below an image
        (axes,) = self._subplots(1, 1, size).flat
        axes.spines[:].set_visible(False)
        axes.set(xticks=[], yticks=[])
        below = "number predicted" if numbered else "class predicted"
        axes.set_title(f"{len(self.labels)} misclassified, by class{most}\nbelow each: the {below}")
        if columns:
            self._draw_rows(axes, classes.tolist(), columns, names, numbered=numbered)

    def _draw_rows(self, axes: Axes, classes: list[int], columns: int, names: list[str], *, numbered: bool) -> None:
        channels, height, width = self.images.shape[1:]
        cell, tall = width + GAP, round(height * TALL) + GAP
        paper = 0 if channels == 1 else 255
        sheet = torch.full((channels, tall * len(classes), cell * columns), paper, dtype=torch.uint8)
        for row, label in enumerate(classes):
            places = (self.labels == label).nonzero().flatten().tolist()
            top = row * tall
            name = f"{f'{label} ' if numbered else ''}{names[label]} ({len(places)})"
            axes.text(-width * 0.2, top + height / 2, name, ha="right", va="center", fontsize=7)
            for column, place in enumerate(places[:columns]):
                left, found = column * cell, self.predicted[place].item()
                sheet[:, top : top + height, left : left + width] = self.images[place]
                text = str(found) if numbered else names[found]
                axes.text(left + width / 2, top + height, text, ha="center", va="top", fontsize=5.5)
        show_image(axes, sheet)
        axes.set_anchor("W")
