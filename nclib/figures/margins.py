"""Sorted cosine margins of the training samples."""

from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from nclib.figures.display import Display
from nclib.figures.layout import legend_below
from nclib.figures.style import MARKERS_PER_LINE, REFERENCE, TEXT_WIDTH, RunStyles, style
from nclib.results.study_results import StudyResults


@dataclass
class MarginDistribution(Display):
    """Cosine margins at the last checkpoint in ascending order: all samples, and the smallest 1,000.

    Below 0 a feature points more along another class's row of the classifier than along its own. That is nearly, but
    not exactly, to be misclassified, since the margin leaves out the bias and the rows' lengths. At exact collapse all
    are K/(K-1), the dotted line. The line is the mean over seeds at each rank, the band goes from the smallest to the
    largest.
    """

    margins: Mapping[str, Float[np.ndarray, "s n"]]  # by run, an ascending row for each seed
    num_classes: int
    smallest: int = 1000

    @classmethod
    def from_results(cls, results: StudyResults) -> "MarginDistribution":
        """The last checkpoint of every run and seed."""
        found = {run: [results.geometry(run, seed) for seed in results.seeds] for run in results.runs}
        margins = {run: np.stack([one.margins[-1].numpy() for one in seeds]) for run, seeds in found.items()}
        return cls(margins, len(found[results.runs[0]][0].class_names))

    def plot(self) -> "MarginDistribution":
        """Draw; the result is the display itself."""
        styles = RunStyles.from_runs(list(self.margins))
        most = max(rows.shape[1] for rows in self.margins.values())
        numbers = [most, self.smallest] if most > self.smallest else [most]
        with style():
            size = (TEXT_WIDTH / 2 * len(numbers), 2.2)
            self.figure_, grid = plt.subplots(1, len(numbers), figsize=size, layout="constrained", squeeze=False)
            self.axes_ = grid[0]
            for axes, number in zip(self.axes_, numbers, strict=True):
                axes.axhline(self.num_classes / (self.num_classes - 1), color="0.3", **REFERENCE)
                for place, (run, rows) in enumerate(self.margins.items()):
                    draw_margins(axes, styles.line(run), rows[:, :number], shift=place / len(self.margins))
                axes.set(xlabel="sample, by rising margin")
                axes.set_title("all training samples" if number == most else f"the smallest {number:,}")
            self.axes_[0].set_ylabel("cosine margin")
            sns.despine(self.figure_)
            seeds = max(len(rows) for rows in self.margins.values())
            legend_below(self.figure_, [styles.line(run) for run in self.margins], seeds=seeds)
        return self


def draw_margins(axes: Axes, line: Line2D, rows: Float[np.ndarray, "s n"], *, shift: float) -> None:
    """Give a line of a run's look its data, and a band if there are several rows (seeds).

    `shift` moves the markers, as a share of the distance between two.
    """
    ranks = np.arange(1, rows.shape[1] + 1)
    step = max(1, len(ranks) // MARKERS_PER_LINE)
    line.set(xdata=ranks, ydata=rows.mean(0), markevery=(int(shift * step), step))
    axes.add_line(line)
    axes.autoscale_view()
    if len(rows) > 1:
        axes.fill_between(ranks, rows.min(0), rows.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
