"""Angles between class means and between classifier rows, beside those of the simplex ETF."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Context

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from torch import Tensor

from nclib.figures.layout import LINE, SomeAxes, fit_text, panels, size_of
from nclib.figures.style import RC, TEXT_WIDTH, style
from nclib.results.geometry import Geometry
from nclib.results.study_results import StudyResults

RUNS_A_ROW = 4
KINDS = ("class means", "classifier")
GAP = 0.14  # inches: between the matrices of two runs


def simplex_cosines(num_classes: int) -> Float[Tensor, "k k"]:
    """Cosines between the rows of a simplex ETF: 1 on the diagonal, -1/(K-1) elsewhere.

    >>> simplex_cosines(3)[0].tolist()
    [1.0, -0.5, -0.5]
    """
    return (torch.eye(num_classes) * num_classes - 1) / (num_classes - 1)


def gram_floor(num_classes: int) -> float:
    """The lowest cosine with a color of its own, a little below that of the ETF."""
    return -1 / (num_classes - 1) - 0.2


def upper_bound(distance: float) -> str:
    """A distance in two digits, rounded up, so that what is written bounds it.

    >>> upper_bound(0.0934), upper_bound(0.13039), upper_bound(2e-16), upper_bound(0.0)
    ('0.094', '0.14', '2e-16', '0')
    """
    return f"{float(Context(prec=2, rounding=ROUND_CEILING).create_decimal(repr(distance))):.2g}"


@dataclass
class GramMatrices:
    """Cosines between the centered class means and between the centered classifier rows of each run, beside the ideal.

    At exact collapse every matrix has 1 on the diagonal and -1/(K-1) elsewhere. Below each matrix stands its largest
    distance from that, entry by entry, rounded up.

    Args:
        grams: run -> cosines of class means and of classifier rows.

    Attributes:
        figure_: the figure drawn on.
        axes_: the ideal and, for each run, class means and classifier.
    """

    grams: Mapping[str, tuple[Float[Tensor, "k k"], Float[Tensor, "k k"]]]

    figure_: Figure = field(init=False, repr=False)
    axes_: np.ndarray = field(init=False, repr=False)

    @classmethod
    def from_geometries(cls, geometries: Mapping[str, Geometry], *, checkpoint: int = -1) -> "GramMatrices":
        """One checkpoint of each run.

        Args:
            geometries: by run.
            checkpoint: place of the checkpoint; the default is the last.
        """
        return cls({run: (g.gram_features[checkpoint], g.gram_weight[checkpoint]) for run, g in geometries.items()})

    @classmethod
    def from_results(cls, results: StudyResults) -> "GramMatrices":
        """The last checkpoint of every run, with the study's first seed."""
        return cls.from_geometries({run: results.geometry(run, results.seeds[0]) for run in results.runs})

    def plot(self, ax: SomeAxes = None) -> "GramMatrices":
        """Draw.

        Args:
            ax: axes to draw on: the ideal, then class means and classifier of each run; None makes a figure.

        Returns:
            The display itself.
        """
        ideal = simplex_cosines(len(next(iter(self.grams.values()))[0]))
        with style():
            if ax is None:
                width = self._make_figure()
            else:
                self.figure_, self.axes_ = panels(ax, 1, 1 + 2 * len(self.grams), size=(0.0, 0.0))
                width = min(size_of(axes)[0] for axes in self.axes_)
            shown = self._draw(self.axes_[0], ideal, "simplex ETF", note=f"{ideal[0, 1]:.2g} off the diagonal")
            for place, (run, pair) in enumerate(self.grams.items()):
                title, size = fit_text(run, width, size=RC["axes.titlesize"])
                for i, (gram, kind) in enumerate(zip(pair, KINDS, strict=True)):
                    axes = self.axes_[1 + 2 * place + i]
                    distance = (gram - simplex_cosines(len(gram))).abs().max().item()
                    note = f"within {upper_bound(distance)} of the ETF"
                    self._draw(axes, gram, title if i == 0 else "", note=note, size=size)
                    if ax is not None or place % RUNS_A_ROW == 0:
                        axes.set_ylabel(kind)
            if ax is None:
                bar = self.figure_.colorbar(shown, cax=self._bar, orientation="horizontal", extend="min")
                bar.set_label("cosine")
                bar.outline.set_linewidth(0.4)
        return self

    def _make_figure(self) -> float:
        """Make the axes; the result is the width that a title may take [inches]."""
        columns = min(RUNS_A_ROW, len(self.grams))
        blocks = -(-len(self.grams) // columns)
        side = min(1.9, TEXT_WIDTH / (columns + 1))
        width = side - GAP
        lines = [fit_text(run, width, size=RC["axes.titlesize"])[0].count("\n") for run in self.grams]
        further = sum(max(lines[first : first + columns]) for first in range(0, len(lines), columns))
        size = (side * (columns + 1), blocks * (2 * side + 0.45) + further * LINE)
        self.figure_, grid = panels(None, 2 * blocks, columns + 1, size=size)
        grid = grid.reshape(2 * blocks, columns + 1)
        used = [grid[0, 0]]
        for place in range(len(self.grams)):
            block, column = divmod(place, columns)
            used += [grid[2 * block, 1 + column], grid[2 * block + 1, 1 + column]]
        for blank in set(grid.ravel()) - set(used):
            blank.axis("off")
        self._bar = grid[1, 0].inset_axes((0.05, 0.75, 0.9, 0.09))
        self.axes_ = np.array(used)
        return width

    def _draw(
        self, axes: Axes, gram: Float[Tensor, "k k"], title: str, *, note: str, size: float | None = None
    ) -> AxesImage:
        shown = axes.imshow(gram.numpy(), cmap="YlGnBu", vmin=gram_floor(len(gram)), vmax=1, interpolation="nearest")
        axes.set_title(title, loc="center", fontsize=size)
        axes.grid(False)
        axes.set_xlabel(note, fontsize=6.5, labelpad=2)
        axes.set(xticks=[], yticks=[])
        return shown
