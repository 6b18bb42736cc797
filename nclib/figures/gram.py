"""Angles between class means and between classifier rows, beside those of the simplex ETF."""

from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from torch import Tensor

from nclib.figures.display import Display
from nclib.figures.layout import LINE, fit_texts
from nclib.figures.style import TEXT_WIDTH, style
from nclib.results.geometry import Geometry
from nclib.results.study_results import StudyResults

COLUMNS = 5
KINDS = ("class means", "classifier")
GAP = 0.14  # inches: between the matrices of two runs


def simplex_cosines(num_classes: int) -> Float[Tensor, "k k"]:
    """Cosines between the rows of a simplex ETF: 1 on the diagonal, -1/(K-1) elsewhere.

    >>> simplex_cosines(3)[0].tolist()
    [1.0, -0.5, -0.5]
    """
    return (torch.eye(num_classes) * num_classes - 1) / (num_classes - 1)


@dataclass
class GramMatrices(Display):
    """Cosines between the centered class means and between the centered classifier rows of each run, beside the ideal.

    At exact collapse every matrix has 1 on the diagonal and -1/(K-1) elsewhere. Below each matrix stands its largest
    distance from that, entry by entry.
    """

    grams: Mapping[str, tuple[Float[Tensor, "k k"], Float[Tensor, "k k"]]]

    @classmethod
    def from_geometries(cls, geometries: Mapping[str, Geometry]) -> "GramMatrices":
        """The last checkpoint of each run."""
        return cls({run: (g.gram_features[-1], g.gram_weight[-1]) for run, g in geometries.items()})

    @classmethod
    def from_results(cls, results: StudyResults) -> "GramMatrices":
        """The last checkpoint of every run, with the study's first seed."""
        return cls.from_geometries({run: results.geometry(run, results.seeds[0]) for run in results.runs})

    def plot(self) -> "GramMatrices":
        """Draw; the result is the display itself."""
        num_classes = len(next(iter(self.grams.values()))[0])
        ideal = simplex_cosines(num_classes)
        columns = min(COLUMNS, 1 + len(self.grams))
        blocks = -(-(1 + len(self.grams)) // columns)
        side = min(1.9, TEXT_WIDTH / columns)
        titles, size = fit_texts(list(self.grams), side - GAP)
        with style():
            self.figure_, grid = plt.subplots(2 * blocks, columns, layout="constrained", squeeze=False)
            lines = 1 + max(title.count("\n") for title in titles)
            self.figure_.set_size_inches(side * columns, blocks * (2 * side + 0.15 + lines * LINE))
            for axes in grid.flat:
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
            places = [divmod(place, columns) for place in range(blocks * columns)]
            first, *pairs = [grid[2 * block : 2 * block + 2, column] for block, column in places]
            drawn = draw_cosines(first[0], ideal, note=f"{ideal[0, 1]:.2g} off the diagonal")
            first[0].set_title("simplex ETF", loc="center")
            first[1].axis("off")
            place = first[1].inset_axes((0.05, 0.75, 0.9, 0.09))
            bar = self.figure_.colorbar(drawn, cax=place, orientation="horizontal", extend="min")
            bar.set_label("cosine")
            bar.outline.set_linewidth(0.4)
            for axes, grams, title in zip(pairs, self.grams.values(), titles, strict=False):
                for place, gram, kind in zip(axes, grams, KINDS, strict=True):
                    distance = (gram - ideal).abs().max().item()
                    draw_cosines(place, gram, note=f"{distance:.2g} from the ETF")
                    if axes is pairs[0] or place.get_subplotspec().is_first_col():
                        place.set_ylabel(kind)
                axes[0].set_title(title, loc="center", fontsize=size)
            for axes in np.ravel(pairs[len(self.grams) :]):
                axes.axis("off")
            self.axes_ = np.array([first[0], *np.ravel(pairs[: len(self.grams)])])
        return self


def draw_cosines(axes: Axes, gram: Float[Tensor, "k k"], *, note: str) -> AxesImage:
    """Draw one matrix, with a note below; colors begin a little below the cosine of the ETF."""
    axes.set_xlabel(note, fontsize=6.5, labelpad=2)
    lowest = -1 / (len(gram) - 1) - 0.2
    return axes.imshow(gram.numpy(), cmap="YlGnBu", vmin=lowest, vmax=1, interpolation="nearest")
