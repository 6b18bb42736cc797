"""Quantities against epoch, one line a run, with bands over seeds."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nclib.figures.layout import LINE, SomeAxes, fit_text, legend_beside, legend_columns, panels, seeds_note, size_of
from nclib.figures.lines import draw_lines, scale_axis
from nclib.figures.panels import Panel, panel
from nclib.figures.style import RC, TEXT_WIDTH, RunStyles, style
from nclib.results.study_results import StudyResults

NARROWEST = 1.1  # inches: a column of panels
LEFT = 0.7  # inches: the numbers and names beside the panels
GAP = 0.08  # inches: between the titles of two columns
FACET_FROM = 5  # runs; where their names form groups, more of them get a column of panels for each group
COLLAPSE = ("nc1", "nc2_w_centered", "nc2_h_centered", "nc3_centered")
RELEASED = {
    "nc1": ("released_nc1",),
    "nc2_w_centered": ("released_nc2_w", "nc2_w"),
    "nc2_h_centered": ("released_nc2_h", "nc2_h"),
    "nc3_centered": ("released_nc3", "nc3"),
}
SINGLE_LABEL = ("bias_residual", "train_accuracy", "test_accuracy", "cosine_margin_mean", "nuclear_over_frobenius")


@dataclass
class MetricCurves:
    """Panels of quantities against epoch; the line is the mean over seeds, the band goes from smallest to largest.

    Where there are many runs named like `vgg16_learned`, `vgg16_etf`, ..., each group gets a column of panels, with one
    line a variant.

    Args:
        table: long: columns `run`, `seed`, `epoch` and one for each panel.
        panels: what to draw.
        references: column -> run -> a value to compare with (a theory's prediction), drawn as a dotted line.
        columns: panels side by side; None: as many as fit.

    Attributes:
        figure_: the figure drawn on.
        axes_: its axes, in reading order.
    """

    table: pd.DataFrame
    panels: Sequence[Panel]
    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    columns: int | None = None

    figure_: Figure = field(init=False, repr=False)
    axes_: np.ndarray = field(init=False, repr=False)

    @classmethod
    def from_results(
        cls,
        results: StudyResults,
        *,
        names: Sequence[str] | None = None,
        split: str = "train",
        released: bool = False,
        references: Mapping[str, Mapping[str, float]] | None = None,
    ) -> "MetricCurves":
        """The collapse metrics of a study at its checkpoints.

        Args:
            results: of the study.
            names: columns of `metrics.csv`; None: NC1 to NC3 and, for multi-label data, the tag-wise ratios, for
                single-label data what the second paper shows.
            split: `train` (as in both papers) or `test`.
            released: set NC1 to NC3 above the same four as the first paper's released code computes them.
            references: column -> run -> value to compare with.

        Raises:
            ValueError: a name was not measured.
        """
        table = results.metrics[results.metrics["split"] == split]
        if released:
            pairs = [next(n for n in RELEASED[name] if n in table.columns) for name in COLLAPSE]
            return cls(table, [panel(name) for name in (*COLLAPSE, *pairs)], references or {}, columns=len(COLLAPSE))
        if names is None and not results.is_multi_label:
            table = _with_accuracies(results, table)
            names = (*COLLAPSE, *SINGLE_LABEL)
        elif names is None:
            names = (*COLLAPSE, *(f"tag_wise_ratio_{m}" for m in results.multiplicities))
        unknown = [name for name in names if name not in table.columns]
        if unknown:
            measured = ", ".join(column for column in table.columns if column not in ("run", "seed", "epoch", "split"))
            raise ValueError(f"Expected names among what was measured ({measured}), but got '{unknown[0]}'.")
        return cls(table, [panel(name, _TITLES.get(name)) for name in names], references or {})

    def plot(self, ax: SomeAxes = None, *, facet: bool | None = None) -> "MetricCurves":
        """Draw.

        Args:
            ax: axes to draw on, one for each panel (times the number of groups with `facet`); None makes a figure.
            facet: a column of panels for each group of runs; None: where many runs have names that form groups.

        Returns:
            The display itself.
        """
        runs = list(dict.fromkeys(self.table["run"]))
        styles = RunStyles.from_runs(runs)
        if facet is None:
            facet = styles.groups is not None and len(runs) >= FACET_FROM and ax is None
        if facet and styles.groups is None:
            raise ValueError(f"Expected run names in groups, like vgg16_etf, to facet by, but got {', '.join(runs)}.")
        with style():
            if facet:
                self._plot_facets(ax, runs, styles)
            else:
                self._plot_panels(ax, runs, styles)
        return self

    def _plot_panels(self, ax: SomeAxes, runs: list[str], styles: RunStyles) -> None:
        columns = self.columns or (len(self.panels) if len(self.panels) < 3 else 3)
        rows = -(-len(self.panels) // columns)
        size = (TEXT_WIDTH * min(1.0, max(columns, 1.3) / 2.4), 1.55 * rows + 0.75)
        self.figure_, self.axes_ = panels(ax, rows, columns, number=len(self.panels), size=size)
        for axes, shown in zip(self.axes_, self.panels, strict=True):
            self._draw(axes, shown, runs, styles)
            scale_axis(axes, shown)
            axes.set(title=shown.title, xlabel="", ylabel="")
        for axes in self.axes_[-columns:]:
            axes.set_xlabel("epoch")
        handles = [styles.line(run) for run in runs] + self._reference_handle()
        if ax is None:
            width = legend_columns(styles, handles)
            legend_beside(self.figure_, handles, used=len(self.panels), columns=width, title=self._seeds_note())
        else:
            self.axes_[-1].legend(handles=handles)

    def _plot_facets(self, ax: SomeAxes, runs: list[str], styles: RunStyles) -> None:
        groups = list(dict.fromkeys(group for group, _ in styles.groups.values()))
        shape = (len(self.panels), len(groups))
        size = (max(TEXT_WIDTH, NARROWEST * len(groups) + LEFT), 1.15 * shape[0] + 0.7)
        self.figure_, self.axes_ = panels(ax, *shape, size=size, sharex="col", sharey="row")
        width = (size[0] - LEFT) / len(groups) - GAP if ax is None else min(size_of(axes)[0] for axes in self.axes_)
        titles = {group: fit_text(group, width, size=RC["axes.titlesize"]) for group in groups}
        if ax is None:
            self.figure_.set_figheight(size[1] + LINE * max(title.count("\n") for title, _ in titles.values()))
        grid = self.axes_.reshape(shape)
        for shown, row in zip(self.panels, grid, strict=True):
            for group, axes in zip(groups, row, strict=True):
                members = [run for run in runs if styles.groups[run][0] == group]
                self._draw(axes, shown, members, RunStyles.from_runs(members))
                axes.set(xlabel="", ylabel="")
                if shown is self.panels[0]:
                    axes.set_title(titles[group][0], fontsize=titles[group][1])
            scale_axis(row[0], shown)
            row[0].set_ylabel(_narrow(shown.title))
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        first = [run for run in runs if styles.groups[run][0] == groups[0]]
        own = RunStyles.from_runs(first)
        handles = [own.line(run, styles.groups[run][1]) for run in first] + self._reference_handle()
        if ax is None:
            used = len(self.axes_)
            legend_beside(self.figure_, handles, used=used, columns=len(handles), title=self._seeds_note())

    def _draw(self, axes: Axes, shown: Panel, runs: Sequence[str], styles: RunStyles) -> None:
        draw_lines(axes, self.table, shown.column, runs, styles)
        references = self.references.get(shown.column, {})
        for run in runs:
            if run in references:
                axes.axhline(references[run], color=styles.colors[run], dashes=(1, 2), linewidth=1.0, zorder=1)

    def _seeds_note(self) -> str | None:
        return seeds_note(self.table["seed"].nunique())

    def _reference_handle(self) -> list[Line2D]:
        drawn = any(self.references.get(shown.column) for shown in self.panels)
        return [Line2D([], [], color="0.3", dashes=(1, 2), linewidth=1.0, label="theory")] if drawn else []


class ScoreCurves(MetricCurves):
    """Training and test score of every epoch, side by side on one scale.

    The training score is the mean over the epoch while the network changed, the test score is taken at the epoch's end.
    """

    @classmethod
    def from_results(
        cls, results: StudyResults, *, references: Mapping[str, Mapping[str, float]] | None = None
    ) -> "ScoreCurves":
        """IoU for multi-label data, accuracy for single-label data, from the histories of all runs.

        Args:
            results: of the study.
            references: `train_soft_iou` -> run -> value predicted by the theory.
        """
        score, name = ("soft_iou", "IoU") if results.is_multi_label else ("accuracy", "accuracy")
        shown = [
            Panel(f"{split}_{score}", f"{text} {name}", floor=None, ceiling=1.0) for split, text in _SPLITS.items()
        ]
        return cls(results.history, shown, references or {})

    def plot(self, ax: SomeAxes = None, *, facet: bool | None = None) -> "ScoreCurves":
        """Draw; see `MetricCurves.plot`."""
        super().plot(ax, facet=facet)
        bottom = min(axes.get_ylim()[0] for axes in self.axes_)
        for axes in self.axes_:
            axes.set_ylim(bottom, 1.0 + 0.02 * (1.0 - bottom))
        return self


class LossCurves(MetricCurves):
    """Learning rate, training loss, feature decay and test loss of every epoch."""

    @classmethod
    def from_results(
        cls, results: StudyResults, *, references: Mapping[str, Mapping[str, float]] | None = None
    ) -> "LossCurves":
        """From the histories of all runs.

        Args:
            results: of the study.
            references: `train_loss` or `train_feature_decay` -> run -> value predicted by the theory.
        """
        names = ["lr", "train_loss", "train_feature_decay", "test_loss"]
        shown = [name for name in names if name in results.history and results.history[name].gt(0).any()]
        return cls(results.history, [panel(name) for name in shown], references or {}, columns=2)


_SPLITS = {"train": "training", "test": "test"}
_TITLES = {"train_accuracy": "training accuracy", "test_accuracy": "test accuracy"}


def _narrow(title: str) -> str:
    """A title in lines short enough to stand beside a low panel; formulas stay whole."""
    parts = title.replace(": ", ":\n").replace(", ", ",\n").split("\n")
    return "\n".join(part if "$" in part else textwrap.fill(part, 16) for part in parts)


def _with_accuracies(results: StudyResults, table: pd.DataFrame) -> pd.DataFrame:
    """The table of checkpoints with the accuracies of training and test images, both at the checkpoint."""
    keys = ["run", "seed", "epoch"]
    for split in _SPLITS:
        chosen = results.metrics.loc[results.metrics["split"] == split, [*keys, "top1"]]
        table = table.merge(chosen.rename(columns={"top1": f"{split}_accuracy"}), on=keys, how="left")
    return table
