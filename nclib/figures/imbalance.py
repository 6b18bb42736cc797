"""Tag-wise averages of rare and of frequent pairs."""

from dataclasses import dataclass

import pandas as pd

from nclib.figures.display import Display
from nclib.figures.layout import legend_below, set_titles
from nclib.figures.lines import line_grid, scale_axis
from nclib.figures.panels import panel
from nclib.figures.style import TEXT_WIDTH, RunStyles, style
from nclib.results.study_results import StudyResults


@dataclass
class ImbalanceCurves(Display):
    """Tag-wise ratio of the pairs against epoch, one line per number of training images per pair, one axes per run.

    The values are long: columns `run`, `seed`, `epoch`, `images` (per pair) and `value`.
    """

    values: pd.DataFrame

    @classmethod
    def from_results(cls, results: StudyResults) -> "ImbalanceCurves":
        """From the metrics of an imbalanced study, on its training images."""
        if not results.imbalance_groups:
            raise ValueError(f"Expected a study with dataset.pair_groups, but '{results.study.study}' is balanced.")
        groups = results.imbalance_groups
        tables = [results.values("imbalance_ratio", labels=n).assign(images=n) for n in groups]
        return cls(pd.concat(tables, ignore_index=True))

    def plot(self) -> "ImbalanceCurves":
        """Draw; the result is the display itself."""
        names = {n: f"{n} images per pair" for n in self.values["images"].unique()}
        styles = RunStyles.from_runs(list(names.values()))
        values = self.values.assign(images=self.values["images"].map(names))
        runs = list(values["run"].unique())
        columns = min(4, len(runs))
        width = TEXT_WIDTH / max(columns, 2)
        with style():
            grid = line_grid(
                values, styles, hue="images", col="run", col_wrap=columns, width=width, height=1.7, sharey=True
            )
            self.figure_, self.axes_ = grid.figure, grid.axes
            set_titles(self.axes_, runs, width)
            for axes in self.axes_:
                scale_axis(axes, panel("imbalance_ratio"))
            for axes in self.axes_[::columns]:
                axes.set_ylabel("tag-wise ratio, 2 labels")
            handles = [styles.line(name) for name in styles.colors]
            legend_below(self.figure_, handles, seeds=values["seed"].nunique())
        return self
