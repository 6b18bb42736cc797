"""Contact sheets: every image of a selection, by class."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from jaxtyping import Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from nclib.figures.style import TEXT_WIDTH, style

GAP = 1  # pixels between two images
COLUMNS = 20
LARGEST = 0.4  # inches: side of a image where there are few
NAMES_TAKE = 3  # images' widths, left of the rows
TITLE_TAKES = 2.7  # inches, with the names
NAME_FITS = 5  # letters below a image


@dataclass
class ContactSheet:
    """Misclassified images, one row of small images for each class; what the network says stands below each.

    Where the class names are long, it is said by the class's number.

    Args:
        images: the images, 0..255.
        labels: their classes.
        predicted: what the network says.
        class_names: name of each class.
        columns: largest number of images of a class that are shown; the title of a row counts them all.
        index: place of each image in its split; None: they are the whole split.

    Attributes:
        figure_: the figure drawn on.
        axes_: its axes.

    Raises:
        ValueError: columns is not positive.
    """

    images: UInt8[Tensor, "n c h w"]
    labels: Int[Tensor, " n"]
    predicted: Int[Tensor, " n"]
    class_names: Sequence[str]
    columns: int = COLUMNS
    index: Int[Tensor, " n"] | None = None

    figure_: Figure = field(init=False, repr=False)
    axes_: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.columns < 1:
            raise ValueError(f"Expected columns >= 1, but got {self.columns}.")

    @classmethod
    def from_predictions(
        cls,
        images: UInt8[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        predicted: Int[Tensor, " n"],
        class_names: Sequence[str],
        *,
        columns: int = COLUMNS,
    ) -> "ContactSheet":
        """Keep the images whose prediction is wrong.

        Args:
            images: all images of a split, 0..255.
            labels: their classes.
            predicted: what the network says.
            class_names: name of each class.
            columns: largest number of images of a class that are shown.
        """
        wrong = (labels != predicted).nonzero().flatten()
        return cls(images[wrong], labels[wrong], predicted[wrong], class_names, columns, wrong)

    def table(self) -> pd.DataFrame:
        """Every image, by class: `index` (its place in the split), `label` and `predicted` (class numbers)."""
        index = torch.arange(len(self.labels)) if self.index is None else self.index
        columns = {"index": index, "label": self.labels, "predicted": self.predicted}
        return pd.DataFrame(columns).sort_values(["label", "index"], ignore_index=True)

    def plot(self) -> "ContactSheet":
        """Draw; the result is the display itself."""
        classes, numbers = self.labels.unique(return_counts=True)
        columns = min(self.columns, numbers.max().item()) if len(classes) else 0
        with style():
            side = min(LARGEST, TEXT_WIDTH / (columns + NAMES_TAKE))
            size = (max(TITLE_TAKES, side * (columns + NAMES_TAKE)), max(0.6, len(classes) * side * 1.45 + 0.3))
            self.figure_, axes = plt.subplots(figsize=size, layout="constrained")
            self.axes_ = np.array([axes])
            axes.grid(False)
            axes.spines[:].set_visible(False)
            axes.set(xticks=[], yticks=[])
            says = "number predicted" if self._numbered else "class predicted"
            axes.set_title(f"{len(self.labels)} misclassified, by class\nbelow each: the {says}")
            if columns:
                self._draw(axes, classes.tolist(), columns)
        return self

    @property
    def _numbered(self) -> bool:
        return max(map(len, self.class_names)) > NAME_FITS

    def _draw(self, axes: Axes, classes: list[int], columns: int) -> None:
        channels, height, width = self.images.shape[1:]
        cell, tall = width + GAP, round(height * 1.45) + GAP
        paper = 0 if channels == 1 else 255
        sheet = torch.full((channels, tall * len(classes), cell * columns), paper, dtype=torch.uint8)
        texts = []
        for row, label in enumerate(classes):
            places = (self.labels == label).nonzero().flatten().tolist()
            for column, place in enumerate(places[: self.columns]):
                top, left = row * tall, column * cell
                sheet[:, top : top + height, left : left + width] = self.images[place]
                says = self.predicted[place].item()
                texts.append((left + width / 2, top + height, str(says if self._numbered else self.class_names[says])))
            name = f"{f'{label} ' if self._numbered else ''}{self.class_names[label]} ({len(places)})"
            axes.text(-width * 0.2, row * tall + height / 2, name, ha="right", va="center", fontsize=7)
        pixels = sheet.permute(1, 2, 0).numpy()
        colors = {"cmap": "gray_r", "vmin": 0, "vmax": 255} if channels == 1 else {}
        axes.set_anchor("W")
        axes.imshow(pixels[..., 0] if channels == 1 else pixels, interpolation="nearest", **colors)
        for x, y, text in texts:
            axes.text(x, y, text, ha="center", va="top", fontsize=5.5)
