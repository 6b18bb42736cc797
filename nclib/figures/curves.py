"""Quantities against epoch, one line per run, with bands over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from nclib.figures.display import Display
from nclib.figures.layout import fit_texts, legend_below, set_titles
from nclib.figures.lines import line_grid, scale_axis
from nclib.figures.panels import Panel, panel
from nclib.figures.style import REFERENCE, TEXT_WIDTH, RunStyles, style
from nclib.results.study_results import StudyResults

HIGHEST = 4.1  # inches: all rows of panels together
ROW = 1.0  # inches: height of a row of panels, where each group of runs has a column
FACET_FROM = 5  # runs; where their names form groups, more of them get a column of panels per group
COLLAPSE = ("nc1", "nc2_w_centered", "nc2_h_centered", "nc3_centered")
RELEASED = ("released_nc1", "nc2_w", "nc2_h", "released_nc3")  # as the first paper's code computes those
References = Mapping[str, Mapping[str, float]]


@dataclass
class MetricCurves(Display):
    """Panels of quantities against epoch; the line is the mean over seeds, the band goes from smallest to largest.

    Where there are many runs named like `vgg16_learned`, `vgg16_etf`, ..., each group gets a column of panels.

    Args:
        values: long: columns `run`, `seed`, `epoch`, `panel` (its place in `panels`) and `value`.
        panels: what to draw.
        references: name of a panel -> run -> a value to compare with (a theory's prediction), drawn as a dotted line.
        columns: panels side by side, at most.
    """

    values: pd.DataFrame
    panels: Sequence[Panel]
    references: References = field(default_factory=dict)
    columns: int = 3
    share_scale: ClassVar[bool] = False

    @classmethod
    def from_results(
        cls,
        results: StudyResults,
        *,
        panels: Sequence[Panel] | None = None,
        released: bool = False,
        references: References | None = None,
    ) -> "MetricCurves":
        """The collapse metrics of a study at its checkpoints.

        Without `panels` NC1 to NC3, for multi-label data the tag-wise ratios, for single-label data what the second
        paper shows; with `released` NC1 to NC3 above the same four as the first paper's released code computes them.
        """
        if released:
            panels = [panel(name) for name in (*COLLAPSE, *RELEASED)]
        elif panels is None:
            panels = [panel(name) for name in COLLAPSE] + _further(results)
        tables = [results.values(shown.metric, split=shown.split, labels=shown.labels) for shown in panels]
        return cls(_joined(tables), panels, references or {}, columns=4 if released else 3)

    @classmethod
    def from_history(
        cls, history: pd.DataFrame, panels: Sequence[Panel], *, references: References | None = None
    ) -> "MetricCurves":
        """What training logged: one row per epoch, with columns `run`, `seed`, `epoch` and the panels' metrics."""
        keys = ["run", "seed", "epoch"]
        tables = [history[[*keys, shown.metric]].set_axis([*keys, "value"], axis=1) for shown in panels]
        return cls(_joined(tables), panels, references or {}, columns=2 if len(panels) == 4 else 3)

    def plot(self) -> "MetricCurves":
        """Draw; the result is the display itself."""
        runs = list(self.values["run"].unique())
        styles = RunStyles.from_runs(runs)
        groups = {run: group for run, (group, _) in (styles.groups or {}).items()} if len(runs) >= FACET_FROM else {}
        with style():
            if groups:
                self._plot_groups(styles, groups)
            else:
                self._plot_panels(styles)
            handles = [styles.line(run) for run in runs]
            if any(self.references.get(shown.name) for shown in self.panels):
                handles.append(Line2D([], [], color="0.3", label="theory", **REFERENCE))
            columns = len(set(groups.values())) or None
            legend_below(self.figure_, handles, columns=columns, seeds=self.values["seed"].nunique())
        return self

    def _plot_panels(self, styles: RunStyles) -> None:
        """One axes per panel."""
        columns = min(self.columns, len(self.panels))
        width = TEXT_WIDTH / max(columns, 2)
        height = min(1.6, HIGHEST / -(-len(self.panels) // columns))
        grid = line_grid(
            self.values, styles, col="panel", col_wrap=columns, width=width, height=height, sharey=self.share_scale
        )
        self.figure_, self.axes_ = grid.figure, grid.axes
        for axes, shown in zip(self.axes_, self.panels, strict=True):
            self._finish(axes, shown, styles.colors)
        set_titles(self.axes_, [shown.title for shown in self.panels], width)

    def _plot_groups(self, styles: RunStyles, groups: Mapping[str, str]) -> None:
        """A row of axes per panel and a column per group of runs."""
        values = self.values.assign(group=self.values["run"].map(groups))
        names = list(values["group"].unique())
        width = max(1.2, TEXT_WIDTH / len(names))
        share = True if self.share_scale else "row"
        grid = line_grid(values, styles, row="panel", col="group", width=width, height=ROW, sharey=share)
        self.figure_, self.axes_ = grid.figure, grid.axes.ravel()
        for (place, group), axes in grid.axes_dict.items():
            members = {run: color for run, color in styles.colors.items() if groups[run] == group}
            self._finish(axes, self.panels[place], members)
        set_titles(grid.axes[0], names, width - 0.2)
        labels, size = fit_texts([shown.title for shown in self.panels], ROW)
        for axes, label in zip(grid.axes[:, 0], labels, strict=True):
            axes.set_ylabel(label, fontsize=size)

    def _finish(self, axes: Axes, shown: Panel, colors: Mapping[str, tuple[float, float, float]]) -> None:
        """Draw the references of the runs on this axes, then scale it."""
        for run, value in self.references.get(shown.name, {}).items():
            if run in colors:
                axes.axhline(value, color=colors[run], zorder=1, **REFERENCE)
        scale_axis(axes, shown)


class ScoreCurves(MetricCurves):
    """Training and test score of every epoch, side by side on one scale.

    The training score is the mean over the epoch while the network changed, the test score is taken at the epoch's end.
    """

    share_scale = True

    @classmethod
    def from_results(cls, results: StudyResults, *, references: References | None = None) -> "ScoreCurves":
        """IoU for multi-label data, accuracy for single-label data, from the histories of all runs."""
        score = "soft_iou" if results.is_multi_label else "accuracy"
        return cls.from_history(
            results.history, [panel(f"{split}_{score}") for split in ("train", "test")], references=references
        )


class LossCurves(MetricCurves):
    """Learning rate, training loss, feature decay and test loss of every epoch."""

    @classmethod
    def from_results(cls, results: StudyResults, *, references: References | None = None) -> "LossCurves":
        """From the histories of all runs."""
        names = ["lr", "train_loss", "train_feature_decay", "test_loss"]
        shown = [name for name in names if name in results.history and results.history[name].gt(0).any()]
        return cls.from_history(results.history, [panel(name) for name in shown], references=references)


def _further(results: StudyResults) -> list[Panel]:
    """What is shown beside NC1 to NC3."""
    if results.is_multi_label:
        return [panel("tag_wise_ratio", labels=m) for m in results.multiplicities]
    return [
        panel("bias_residual"),
        panel("top1", title="training accuracy"),
        panel("top1", split="test", title="test accuracy"),
        panel("cosine_margin_mean"),
        panel("nuclear_over_frobenius"),
    ]


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([table.assign(panel=place) for place, table in enumerate(tables)], ignore_index=True)
