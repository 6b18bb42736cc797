"""Tag-wise averages of rare and of frequent pairs."""

from dataclasses import dataclass

import pandas as pd

from nclib.figures.curves import BELOW, PANEL
from nclib.figures.display import Display
from nclib.figures.layout import add_legend, set_titles
from nclib.figures.lines import draw_lines, epoch_grid, scale_axis
from nclib.figures.panels import panel
from nclib.figures.style import HIGHEST, MOST, TEXT_WIDTH, RunStyles, spread
from nclib.results.study_results import StudyResults


@dataclass
class ImbalanceCurves(Display):
    """Tag-wise ratio of the pairs against epoch, one line per number of training images per pair, one axes per run.

    The values are long: columns `run`, `seed`, `epoch`, `images` (per pair) and `value`.
    """

    SEEN = (
        "{study}, training images against epoch: the angle of a pair's mean to the sum of its labels' means, against "
        "that of pairs and labels that do not belong together, for frequent and rare pairs; 0 is exact collapse."
    )
    values: pd.DataFrame

    @classmethod
    def from_results(cls, results: StudyResults) -> "ImbalanceCurves":
        """From the metrics of an imbalanced study, on its training images."""
        if not results.imbalance_groups:
            raise ValueError(f"Expected a study with dataset.pair_groups, but '{results.study.study}' is balanced.")
        groups = results.imbalance_groups
        tables = [results.values("imbalance_ratio", labels=n).assign(images=n) for n in groups]
        return cls(pd.concat(tables, ignore_index=True), styles=RunStyles.from_runs(results.labels))

    def _draw(self) -> None:
        names = {n: f"{n} images per pair" for n in self.values["images"].unique()}
        lines = RunStyles.from_order(list(names.values()))
        runs = spread(list(self.values["run"].unique()), MOST)
        labels = self.styles.labels if self.styles else {run: run for run in runs}
        values = self.values.assign(images=self.values["images"].map(names))
        columns = min(4, len(runs))
        width, height = TEXT_WIDTH / max(columns, 2), min(PANEL, (HIGHEST - BELOW) / -(-len(runs) // columns))
        self.figure_, grid = epoch_grid(len(runs), columns, width=width, height=height, sharey=True)
        self.axes_ = grid.ravel()[: len(runs)]
        set_titles(self.axes_, [labels[run] for run in runs], width)
        for axes, run in zip(self.axes_, runs, strict=True):
            draw_lines(axes, values[values["run"] == run], lines, hue="images")
        for axes in self.axes_:
            scale_axis(axes, panel("imbalance_ratio"))
        for axes in grid[:, 0]:
            axes.set_ylabel("tag-wise ratio")
        entries, title = lines.legend(list(lines.colors), values["seed"].nunique())
        add_legend(self.figure_, entries, title=title)
