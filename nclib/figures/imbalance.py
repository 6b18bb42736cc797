"""Tag-wise averages of rare and of frequent pairs."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nclib.figures.layout import LINE, SomeAxes, few_ticks, fit_text, legend_beside, panels, seeds_note, size_of
from nclib.figures.lines import draw_lines
from nclib.figures.style import RC, TEXT_WIDTH, RunStyles, style
from nclib.results.study_results import StudyResults

LEFT = 0.7  # inches: the numbers beside the axes and the gaps between them


@dataclass
class ImbalanceCurves:
    """Tag-wise ratio of the pairs against epoch, one line for each number of training images a pair, one panel a run.

    Args:
        table: long: columns `run`, `seed`, `epoch`, `group` and `ratio`.
        groups: images of each pair, largest first.

    Attributes:
        figure_: the figure drawn on.
        axes_: its axes.
    """

    table: pd.DataFrame
    groups: tuple[int, ...]

    figure_: Figure = field(init=False, repr=False)
    axes_: np.ndarray = field(init=False, repr=False)

    @classmethod
    def from_results(cls, results: StudyResults, *, split: str = "train") -> "ImbalanceCurves":
        """From the metrics of an imbalanced study.

        Args:
            results: of the study.
            split: `train` (as in the paper) or `test`.

        Raises:
            ValueError: the study is balanced.
        """
        if not results.imbalance_groups:
            raise ValueError(f"Expected a study with dataset.pair_groups, but '{results.study.study}' is balanced.")
        names = {f"imbalance_ratio_{n}": n for n in results.imbalance_groups}
        table = results.metrics[results.metrics["split"] == split]
        table = table.melt(["run", "seed", "epoch"], list(names), var_name="group", value_name="ratio")
        return cls(table.assign(group=table["group"].map(names)), results.imbalance_groups)

    def plot(self, ax: SomeAxes = None) -> "ImbalanceCurves":
        """Draw.

        Args:
            ax: axes to draw on, one a run; None makes a figure.

        Returns:
            The display itself.
        """
        runs = list(dict.fromkeys(self.table["run"]))
        columns = min(4, len(runs))
        rows = -(-len(runs) // columns)
        names = [f"{n} images a pair" for n in self.groups]
        styles = RunStyles.from_runs(names)
        table = self.table.assign(name=self.table["group"].map(dict(zip(self.groups, names, strict=True))))
        with style():
            size = (min(TEXT_WIDTH, 2.4 * columns), 1.8 * rows + 0.5)
            self.figure_, self.axes_ = panels(ax, rows, columns, number=len(runs), size=size, sharey=True)
            width = (size[0] - LEFT) / columns if ax is None else min(size_of(axes)[0] for axes in self.axes_)
            titles = [fit_text(run, width, size=RC["axes.titlesize"]) for run in runs]
            if ax is None:
                further = max(title.count("\n") for title, _ in titles)
                self.figure_.set_figheight(size[1] + rows * further * LINE)
            for axes, run, (title, points) in zip(self.axes_, runs, titles, strict=True):
                draw_lines(axes, table[table["run"] == run], "ratio", names, styles, label="name")
                axes.set(xlabel="epoch", ylabel="")
                axes.set_title(title, fontsize=points)
            for axes in self.axes_:
                few_ticks(axes)
                axes.set_ylim(bottom=0)
            for axes in self.axes_[::columns]:
                axes.set_ylabel("tag-wise ratio, 2 labels")
            handles = [styles.line(name) for name in names]
            if ax is None:
                seeds = self.table["seed"].nunique()
                note = seeds_note(seeds)
                legend_beside(self.figure_, handles, used=len(runs), columns=len(names), title=note)
            else:
                self.axes_[-1].legend(handles=handles)
        return self
