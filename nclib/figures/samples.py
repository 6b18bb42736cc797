"""Sample images with their labels."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from nclib.data.compose import MultiLabelData
from nclib.figures.layout import SomeAxes, fit_text, panels, size_of
from nclib.figures.style import TEXT_WIDTH, style

GAP = 0.08  # inches: between two images
TITLE_SIZE = 7.0
LETTERS = 110  # that fit side by side above a row of images; longer lists of labels have a line for each


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
class SampleGrid:
    """Images with their labels, one row for each multiplicity.

    Args:
        images: the images, 0..255.
        labels: multi-hot.
        class_names: name of each class.
        rows: places of the images to show in each row of the figure.

    Attributes:
        figure_: the figure drawn on.
        axes_: its axes, in reading order.
    """

    images: UInt8[Tensor, "n c h w"]
    labels: UInt8[Tensor, "n k"]
    class_names: tuple[str, ...]
    rows: list[list[int]]

    figure_: Figure = field(init=False, repr=False)
    axes_: np.ndarray = field(init=False, repr=False)

    @classmethod
    def from_data(cls, data: MultiLabelData, *, number: int = 8) -> "SampleGrid":
        """`number` images of each multiplicity, their label sets spread over those that occur.

        Args:
            data: one split of a data set.
            number: images a row.
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
        return cls(data.images, data.labels, data.class_names, rows)

    def plot(self, ax: SomeAxes = None) -> "SampleGrid":
        """Draw.

        Args:
            ax: axes to draw on, one a image; None makes a figure.

        Returns:
            The display itself.
        """
        columns = max(map(len, self.rows))
        places = [place for row in self.rows for place in row]
        titles = [[self.class_names[k] for k in self.labels[place].nonzero().flatten().tolist()] for place in places]
        between = ", " if max(len(", ".join(names)) for names in titles) * columns <= LETTERS else "\n"
        with style():
            if ax is None:
                texts = _titles(titles, between, TEXT_WIDTH / columns - GAP)
                lines = 1 + max(text.count("\n") for text, _ in texts)
                above = 0.12 * lines + 0.08
                size = (TEXT_WIDTH, len(self.rows) * (TEXT_WIDTH / columns + above))
                self.figure_, grid = panels(None, len(self.rows), columns, size=size)
                used = [(row, column) for row, shown in enumerate(self.rows) for column in range(len(shown))]
                grid = grid.reshape(len(self.rows), columns)
                self.axes_ = np.array([grid[at] for at in used])
                for blank in set(grid.ravel()) - set(self.axes_):
                    blank.remove()
                if lines > max(map(len, titles)):
                    for axes in self.axes_:  # names were broken: the layout leaves room for them above this anchor only
                        axes.set_anchor("N")
            else:
                self.figure_, self.axes_ = panels(ax, 1, len(places), size=(0.0, 0.0))
                texts = _titles(titles, between, min(size_of(axes)[0] for axes in self.axes_))
            for axes, place, (text, points) in zip(self.axes_, places, texts, strict=True):
                show_image(axes, self.images[place])
                axes.set_title(text, loc="center", fontsize=points, pad=2.5)
        return self


def _titles(titles: list[list[str]], between: str, width: float) -> list[tuple[str, float]]:
    """The labels of each image, in lines that are no wider than `width` [inches], and the size of their letters."""
    found = []
    for names in titles:
        fitted = [fit_text(line, width, size=TITLE_SIZE) for line in between.join(names).split("\n")]
        found.append(("\n".join(text for text, _ in fitted), min(size for _, size in fitted)))
    return found
