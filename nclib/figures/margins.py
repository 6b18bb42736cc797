"""Sorted cosine margins of the training samples."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from nclib.figures.display import Display
from nclib.figures.layout import add_legend
from nclib.figures.style import MARKERS_PER_LINE, NOTE, REFERENCE, TEXT_WIDTH, RunStyles
from nclib.results.study_results import StudyResults

RARE = 0.005  # the share of a run's smallest margins that may leave the axes, if they would squeeze the others


@dataclass
class MarginDistribution(Display):
    """Cosine margins at the last checkpoint in ascending order: all samples, and the smallest 1,000.

    Below 0 a feature points more along another class's row of the classifier than along its own. That is nearly, but
    not exactly, to be misclassified, since the margin leaves out the bias and the rows' lengths. At exact collapse all
    are K/(K-1), the dotted line. The line is the mean over seeds at each rank, the band goes from the smallest to the
    largest.
    """

    SEEN = (
        "{study}, last checkpoint: the cosine margins of the training images in rising order; a flat line at K/(K-1), "
        "the dotted one, is exact collapse."
    )
    margins: Mapping[str, Float[np.ndarray, "s n"]]  # by run, an ascending row for each seed
    num_classes: int
    smallest: int = 1000

    @classmethod
    def from_results(cls, results: StudyResults) -> "MarginDistribution":
        """The last checkpoint of every run and seed."""
        found = {run: [results.geometry(run, seed) for seed in results.seeds] for run in results.runs}
        margins = {run: np.stack([one.margins[-1].numpy() for one in seeds]) for run, seeds in found.items()}
        K = len(found[results.runs[0]][0].class_names)
        return cls(margins, K, styles=RunStyles.from_runs(results.labels))

    def _draw(self) -> None:
        styles = self.styles or RunStyles.from_runs(list(self.margins))
        most = max(rows.shape[1] for rows in self.margins.values())
        numbers = [most, self.smallest] if most > self.smallest else [most]
        left, right = self._subplots(1, 2, (TEXT_WIDTH, 2.2)).flat
        self.axes_ = self.axes_[: len(numbers)]
        for axes, number in zip(self.axes_, numbers, strict=True):
            self._draw_margins(axes, number, styles)
            ideal = axes.axhline(self.num_classes / (self.num_classes - 1), color="0.3", **REFERENCE)
            self._leave_out_outliers(axes, number)
            axes.set(xlabel="sample, by rising margin", xlim=(0, 1.02 * number))
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.set_title("all training samples" if number == most else f"the smallest {number:,}")
        left.set_ylabel("cosine margin")
        sns.despine(self.figure_)
        lines, title = styles.legend(list(self.margins), max(map(len, self.margins.values())))
        entries = {styles.labels[run]: line for run, line in lines.items()}
        blank = right if len(numbers) == 1 else None
        if blank:
            blank.axis("off")
        add_legend(self.figure_, {**entries, "exact collapse: K/(K-1)": ideal}, title=title, blank=blank)

    def _draw_margins(self, axes: Axes, number: int, styles: RunStyles) -> None:
        """A line for each run with markers of their own places, and a band where there are several seeds."""
        for place, (run, margins) in enumerate(self.margins.items()):
            rows = margins[:, :number]
            ranks = np.arange(1, rows.shape[1] + 1)
            step = max(1, len(ranks) // MARKERS_PER_LINE)
            first = place * step // len(self.margins)
            axes.plot(ranks, rows.mean(0), **styles.look(run), markevery=(first, step))
            if len(rows) > 1:
                axes.fill_between(ranks, rows.min(0), rows.max(0), color=styles.colors[run], alpha=0.2, linewidth=0)

    def _leave_out_outliers(self, axes: Axes, number: int) -> None:
        """Begin the axis where all but a few margins are, and name the smallest."""
        rows = [rows[:, :number] for rows in self.margins.values()]
        least, low = min(part.min() for part in rows), min(np.quantile(part, RARE) for part in rows)
        high = axes.get_ylim()[1]
        if low - least > 0.25 * (high - low):
            axes.set_ylim(bottom=low - 0.08 * (high - low))
            axes.annotate(f"↓ smallest {least:.3g}", (0.03, 0.03), xycoords="axes fraction", **NOTE)
