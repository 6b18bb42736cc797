"""Sorted cosine margins of the training samples."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nclib.figures.layout import SomeAxes, legend_beside, legend_columns, panels, seeds_note
from nclib.figures.style import MARKS_A_LINE, TEXT_WIDTH, RunStyles, style
from nclib.results.study_results import StudyResults


@dataclass
class MarginDistribution:
    """Cosine margins at the last checkpoint in ascending order: all samples, and the smallest 1,000.

    Below 0 a feature points more along another class's row of the classifier than along its own. That is nearly, but
    not exactly, to be misclassified, since the margin leaves out the bias and the rows' lengths. At exact collapse all
    are K/(K-1), the dotted line. The line is the mean over seeds at each rank, the band goes from the smallest to the
    largest.

    Args:
        margins: run -> one ascending row for each seed.
        num_classes: K.
        smallest: number of samples in the second panel.

    Attributes:
        figure_: the figure drawn on.
        axes_: its two axes (one where there are no more samples than `smallest`).
    """

    margins: Mapping[str, Float[np.ndarray, "s n"]]
    num_classes: int
    smallest: int = 1000

    figure_: Figure = field(init=False, repr=False)
    axes_: np.ndarray = field(init=False, repr=False)

    @classmethod
    def from_results(cls, results: StudyResults) -> "MarginDistribution":
        """The last checkpoint of every run and seed."""
        margins, classes = {}, 0
        for run in results.runs:
            rows = []
            for seed in results.seeds:
                geometry = results.geometry(run, seed)
                rows.append(geometry.margins[-1].numpy())
                classes = len(geometry.class_names)
            margins[run] = np.stack(rows)
        return cls(margins, classes)

    def plot(self, ax: SomeAxes = None) -> "MarginDistribution":
        """Draw.

        Args:
            ax: the axes to draw on; None makes a figure.

        Returns:
            The display itself.
        """
        styles = RunStyles.from_runs(list(self.margins))
        with style():
            most = max(rows.shape[1] for rows in self.margins.values())
            numbers = [most, self.smallest] if most > self.smallest else [most]
            size = (TEXT_WIDTH * 0.42 * len(numbers), 2.5)
            self.figure_, self.axes_ = panels(ax, 1, len(numbers), size=size)
            for axes, number in zip(self.axes_, numbers, strict=True):
                axes.axhline(self.num_classes / (self.num_classes - 1), color="0.3", dashes=(1, 2), linewidth=1.0)
                for place, (run, rows) in enumerate(self.margins.items()):
                    self._draw(axes, run, rows[:, :number], styles, place)
                axes.set(xlabel="sample, by rising margin", ylabel="cosine margin" if number == most else "")
                axes.set_title("all training samples" if number == most else f"the smallest {number:,}")
            seeds = max(len(rows) for rows in self.margins.values())
            note = seeds_note(seeds)
            handles = [styles.line(run) for run in self.margins]
            if ax is None:
                columns = legend_columns(styles, handles)
                legend_beside(self.figure_, handles, used=len(numbers), columns=columns, title=note)
            else:
                self.axes_[-1].legend(handles=handles)
        return self

    @staticmethod
    def _draw(axes: Axes, run: str, rows: np.ndarray, styles: RunStyles, place: int) -> None:
        ranks = np.arange(1, rows.shape[1] + 1)
        step = max(1, len(ranks) // MARKS_A_LINE)
        axes.plot(
            ranks,
            rows.mean(0),
            color=styles.colors[run],
            linestyle=(0, styles.dashes[run]) if styles.dashes[run] else "-",
            marker=styles.markers[run],
            markevery=(place * step // 8 % step, step),
            markeredgecolor="white",
            markeredgewidth=0.4,
        )
        if len(rows) > 1:
            axes.fill_between(ranks, rows.min(0), rows.max(0), color=styles.colors[run], alpha=0.2, linewidth=0)
