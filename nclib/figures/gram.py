"""Angles between class means and between classifier rows, beside those of the simplex ETF."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from torch import Tensor

from nclib.figures.display import Display
from nclib.figures.layout import LINE, SHORT, drawable, fit_texts
from nclib.figures.style import HIGHEST, MOST, NOTE, RC, TEXT_WIDTH, RunStyles, spread
from nclib.results.geometry import Geometry
from nclib.results.study_results import StudyResults

COLUMNS = 9  # matrices side by side, at most
KINDS = ("class means", "classifier")
GAP = 0.14  # inches: between the matrices of two runs
TEXT, NAMES = 0.17, 0.4  # inches: height of the note below a matrix, width of the names beside the first
NAMED = 12  # classes; of more, some numbers are written


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

    SEEN = (
        "{study}, last checkpoint of the first seed: cosines between the class means (above) and between the "
        "classifier rows (below), centered, beside those of a simplex ETF; below each, how far its worst entry is off."
    )
    grams: Mapping[str, tuple[Float[Tensor, "k k"], Float[Tensor, "k k"]]]
    class_names: Sequence[str] = ()

    @classmethod
    def from_geometries(cls, geometries: Mapping[str, Geometry], *, styles: RunStyles | None = None) -> "GramMatrices":
        """The last checkpoint of each run."""
        grams = {run: (g.gram_features[-1], g.gram_weight[-1]) for run, g in geometries.items()}
        return cls(grams, next(iter(geometries.values())).class_names, styles=styles)

    @classmethod
    def from_results(cls, results: StudyResults) -> "GramMatrices":
        """The last checkpoint of every run, with the study's first seed."""
        shown = spread(results.runs, MOST)
        styles = RunStyles.from_runs(results.labels)
        return cls.from_geometries({run: results.geometry(run, results.seeds[0]) for run in shown}, styles=styles)

    def _draw(self) -> None:
        num_classes = len(next(iter(self.grams.values()))[0])
        ideal = simplex_cosines(num_classes)
        labels = self.styles.labels if self.styles else {run: run for run in self.grams}
        blocks = -(-(1 + len(self.grams)) // COLUMNS)
        columns = -(-(1 + len(self.grams)) // blocks)
        highest = (HIGHEST / blocks - 3.5 * LINE) / 2 - TEXT  # below titles of some lines
        side = min(1.9, (TEXT_WIDTH - NAMES) / columns, highest)
        titles, size = fit_texts([labels[run] for run in self.grams], side - GAP)
        above = LINE + max(title.count("\n") for title in titles) * LINE * size / RC["axes.titlesize"]
        grid = self._subplots(2 * blocks, columns, (side * columns + NAMES, blocks * (2 * (side + TEXT) + above)))
        places = [divmod(place, columns) for place in range(blocks * columns)]
        first, *pairs = [grid[2 * block : 2 * block + 2, column] for block, column in places]
        drawn = draw_cosines(first[0], ideal, note=f"{ideal[0, 1]:.2g} elsewhere")
        first[0].set_title("simplex ETF", loc="center", fontsize=size)
        first[1].axis("off")
        self._draw_scale(first[1], drawn)
        for axes, grams, title in zip(pairs, self.grams.values(), titles, strict=False):
            for place, gram, kind in zip(axes, grams, KINDS, strict=True):
                distance = (gram - ideal).abs().max().item()
                draw_cosines(place, gram, note=f"off by {distance:.2g}")
                if axes is pairs[0] or place.get_subplotspec().is_first_col():
                    place.set_ylabel(kind)
                    self._name_classes(place, num_classes)
            axes[0].set_title(title, loc="center", fontsize=size)
        for axes in np.ravel(pairs[len(self.grams) :]):
            axes.remove()
        self.axes_ = np.array([first[0], *np.ravel(pairs[: len(self.grams)])])

    def _draw_scale(self, axes: Axes, drawn: AxesImage) -> None:
        lowest = drawn.norm.vmin
        place, arrow = axes.inset_axes((0.05, 0.75, 0.9, 0.09)), lowest > -1
        bar = self.figure_.colorbar(drawn, cax=place, orientation="horizontal", extend="min" if arrow else "neither")
        bar.set_label("cosine" + (f"\n(arrow: below {lowest:.2g})" if arrow else ""), **NOTE)
        bar.ax.tick_params(labelsize=NOTE["fontsize"])
        bar.outline.set_linewidth(0.4)

    def _name_classes(self, axes: Axes, num_classes: int) -> None:
        step = 1 if num_classes <= NAMED else -(-num_classes // 50) * 10
        ticks = range(0, num_classes, step)
        named = num_classes <= NAMED and self.class_names
        names = drawable(self.class_names, longest=SHORT) if named else list(map(str, range(num_classes)))
        axes.set_yticks(ticks, [names[k] for k in ticks], fontsize=5.5)
        axes.tick_params(length=1.5, pad=1)


def draw_cosines(axes: Axes, gram: Float[Tensor, "k k"], *, note: str) -> AxesImage:
    """Draw one matrix, with a note below; colors begin a little below the cosine of the ETF."""
    axes.set_xlabel(note, labelpad=2, **NOTE)
    lowest = max(-1.0, -1 / (len(gram) - 1) - 0.2)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    return axes.imshow(gram.numpy(), cmap="YlGnBu", vmin=lowest, vmax=1, interpolation="nearest")
