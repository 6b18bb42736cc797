"""Quantities against epoch, one line per run, with bands over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import ClassVar

import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Shaped
from matplotlib.lines import Line2D

from nclib.figures.display import Display
from nclib.figures.layout import add_legend, fit_texts, set_titles
from nclib.figures.lines import draw_lines, draw_references, scale_axis
from nclib.figures.panels import Panel, panel
from nclib.figures.style import HIGHEST, MOST, REFERENCE, TEXT_WIDTH, RunStyles, spread
from nclib.results.study_results import StudyResults

PANEL, GROUPED = 1.6, 1.0  # inches: height of a panel, at most; where groups have columns
BELOW = 0.5  # inches: left for a legend below the panels
BESIDE = 0.85  # inches: width of the names beside rows of panels
FACET_FROM, MOST_GROUPS = 7, 6  # so many runs, where their labels form so many groups, get a column of panels per group
COLLAPSE = ("nc1", "nc2_w_centered", "nc2_h_centered", "nc3_centered")
RELEASED = ("released_nc1", "nc2_w", "nc2_h", "released_nc3")  # as the first paper's code computes those
THEORY = (
    " Dotted: the minimum that theory predicts for each run. Its features are free; a network's come out of a ReLU and "
    "cost decay on all layers, so that it may end off these lines."
)
References = Mapping[str, Mapping[str, float]]


@dataclass
class MetricCurves(Display):
    """Panels of quantities against epoch; the line is the mean over seeds, the band goes from smallest to largest.

    Its subclasses choose the panels. Where there are many runs called like `VGG-16, learned`, `VGG-16, ETF`, ..., each
    group gets a column of panels.

    Args:
        values: long: columns `run`, `seed`, `epoch`, `panel` (its place in `panels`) and `value`.
        panels: what to draw.
        references: name of a panel -> run -> a value to compare with (a theory's prediction), drawn as a dotted line.
    """

    COLUMNS: ClassVar[int | None] = None
    SHARE_SCALE: ClassVar[bool] = False
    ALONE: ClassVar[float] = 1.9  # inches: height of the panels of a single row
    PANELS: ClassVar[tuple[str, ...]] = ()  # metrics; a tag-wise one has a panel for each number of labels
    values: pd.DataFrame
    panels: Sequence[Panel]
    references: References = field(default_factory=dict)

    @classmethod
    def from_results(
        cls, results: StudyResults, *, panels: Sequence[Panel] | None = None, references: References | None = None
    ) -> "MetricCurves":
        """Some quantities of a study: at every epoch what training logged, at its checkpoints what was measured."""
        panels, history, tables = panels or cls._panels_of(results), results.history, []
        for place, shown in enumerate(panels):
            logged = history.rename(columns={shown.metric: "value"}) if shown.metric in history else None
            table = results.values(shown.metric, labels=shown.labels) if logged is None else logged
            tables.append(table[["run", "seed", "epoch", "value"]].assign(panel=place))
        values = pd.concat(tables, ignore_index=True)
        return cls(values, panels, references or {}, styles=RunStyles.from_runs(results.labels))

    @classmethod
    def _panels_of(cls, results: StudyResults) -> list[Panel]:
        of_sets = {name: results.multiplicities for name in cls.PANELS if name.startswith("tag_wise")}
        return [panel(name, labels=m) for name in cls.PANELS for m in of_sets.get(name, (None,))]

    def _draw(self) -> None:
        runs = list(self.values["run"].unique())
        styles = self.styles or RunStyles.from_runs(runs)
        groups = {run: styles.groups[run][0] for run in runs} if styles.groups else {}
        names, titles = list(dict.fromkeys(groups.values())), [shown.title for shown in self.panels]
        faceted = len(runs) >= FACET_FROM and 0 < len(names) <= MOST_GROUPS
        if faceted:  # a row per panel and a column per group
            columns, members = len(names), [[run for run in runs if groups[run] == name] for name in names]
            grid = self._draw_cells(styles, members, columns, height=GROUPED, share=self.SHARE_SCALE or "row")
            set_titles(grid[0], names, TEXT_WIDTH / columns - 0.2)
            labels, size = fit_texts([title.split(":")[0].replace(" $", "\n$") for title in titles], BESIDE)
            for axes, label in zip(grid[:, 0], labels, strict=True):
                axes.set_ylabel(label, fontsize=size, rotation=0, ha="right", va="center")
        else:
            columns = min(self.COLUMNS or (4 if len(self.panels) == 4 else 3), len(self.panels))
            height = PANEL if len(self.panels) > columns else self.ALONE
            grid = self._draw_cells(styles, [runs], columns, height=height, share=self.SHARE_SCALE)
            set_titles(self.axes_, titles, TEXT_WIDTH / max(columns, 2))
        lines, title = styles.legend(runs, self.values["seed"].nunique())
        last = self.values.groupby("run")["epoch"].max()
        ends = {run: f" (to epoch {epoch})" for run, epoch in last[last < last.max()].items()}
        entries = {styles.labels[run] + ends.get(run, ""): line for run, line in lines.items()}
        compared = [run for run in runs if any(run in self._compared(shown) for shown in self.panels)]
        if compared and faceted:
            title = f"{title}; dotted: theory" if title else "dotted: theory"
        elif compared:
            entries["theory"] = tuple(Line2D([], [], color=styles.colors[run], **REFERENCE) for run in compared)
        blank = grid.flat[-1] if len(self.axes_) < grid.size else None
        add_legend(self.figure_, entries, title=title, columns=columns if faceted else None, blank=blank)

    def _draw_cells(
        self, styles: RunStyles, groups: Sequence[Sequence[str]], columns: int, *, height: float, share: bool | str
    ) -> Shaped[np.ndarray, "rows columns"]:
        """Axes for each panel and group of runs, with the lines and references of these."""
        cells = list(product(range(len(self.panels)), groups))
        rows = -(-len(cells) // columns)
        size = (columns * TEXT_WIDTH / max(columns, 2), rows * min(height, (HIGHEST - BELOW) / rows))
        grid = self._subplots(rows, columns, size, sharex=True, sharey=share)
        sns.despine(self.figure_)
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        for place in range(len(cells), grid.size):
            grid.flat[place].axis("off")
            grid.flat[place - columns].tick_params(labelbottom=True)
        self.axes_ = self.axes_[: len(cells)]
        for axes, (place, runs) in zip(self.axes_, cells, strict=True):
            values = self.values[(self.values["panel"] == place) & self.values["run"].isin(runs)]
            draw_lines(axes, values, styles)
            compared, drawn = self._compared(self.panels[place]), set(values["run"])
            draw_references(axes, {run: value for run, value in compared.items() if run in drawn}, styles)
        for axes, (place, _) in zip(self.axes_, cells, strict=True):  # when all that shares an axis is drawn
            scale_axis(axes, self.panels[place])
        return grid

    def caption(self, study: str) -> str:
        """What is drawn, of which study, and what to see."""
        return super().caption(study) + THEORY * any(map(self._compared, self.panels))

    def _compared(self, shown: Panel) -> Mapping[str, float]:
        """The values to compare with, by run; none where there are too many runs."""
        return self.references.get(shown.name, {}) if self.values["run"].nunique() <= MOST else {}


class CollapseCurves(MetricCurves):
    """NC1 to NC3, and for several labels per image the tag-wise ratios."""

    SEEN = (
        "{study}, training images: the spread within classes (NC1), the distances of classifier and class means from a "
        "simplex ETF (NC2) and from each other (NC3), and for several labels the angle of a set's mean to the sum of "
        "its labels' means (tag-wise ratio); at exact collapse all are 0."
    )
    PANELS = (*COLLAPSE, "tag_wise_ratio")


class ReleasedCurves(MetricCurves):
    """NC1 to NC3 above the same four as the first paper's released code computes them."""

    COLUMNS = 4
    SEEN = (
        "{study}, training images: NC1 to NC3 (above), and as the first paper's released code computes them (below), "
        "which centers neither classifier nor class means and takes too small a global mean: an offset that the class "
        "means share looks far from an ETF there."
    )
    PANELS = (*COLLAPSE, *RELEASED)


class GeometryCurves(MetricCurves):
    """How the features lie, for one label per image, as the second paper shows it."""

    SEEN = (
        "{study}, training images: the logits at the features' mean (0 at exact collapse, $1/\\sqrt{{K}}$ with squared "
        "error), the mean cosine margin (K/(K-1)) and how many directions a class's features take (1)."
    )
    PANELS = ("bias_residual", "cosine_margin_mean", "nuclear_over_frobenius")


class TagWiseCurves(MetricCurves):
    """How the mean of a label set lies to the sum of its labels' means."""

    SEEN = (
        "{study}, training images: the angle of a set's mean to the sum of its labels' means, 0 at exact collapse, and "
        "the scale $C_m$ of the mean along that sum."
    )
    PANELS = ("tag_wise_angle_mean", "tag_wise_scale")


class ScoreCurves(MetricCurves):
    """Training and test score of every epoch: IoU for several labels per image, else accuracy."""

    SHARE_SCALE = True
    SEEN = (
        "{study}: training score, a mean over the epoch while the network changed, and test score at its end, on an "
        "axis that widens towards 1 so that runs can be compared there."
    )

    @staticmethod
    def _panels_of(results: StudyResults) -> list[Panel]:
        return [panel(f"{split}_{'soft_iou' if results.is_multi_label else 'accuracy'}") for split in ("train", "test")]


class LossCurves(MetricCurves):
    """Learning rate, training loss, feature decay and test loss of every epoch."""

    COLUMNS = 2
    SEEN = "{study}: learning rate, losses and decay of the features (as trained with, beside the loss) of every epoch."

    @staticmethod
    def _panels_of(results: StudyResults) -> list[Panel]:
        names, history = ("lr", "train_loss", "train_feature_decay", "test_loss"), results.history
        return [panel(name) for name in names if name in history and history[name].gt(0).any()]


class ImbalanceCurves(MetricCurves):
    """Tag-wise ratio of the pairs, a panel per run and a line per number of training images that a pair has."""

    COLUMNS, ALONE, SHARE_SCALE = 4, PANEL, True
    SEEN = (
        "{study}, training images against epoch: the angle of a pair's mean to the sum of its labels' means, against "
        "that of pairs and labels that do not belong together, for frequent and rare pairs; 0 is exact collapse."
    )

    @classmethod
    def from_results(cls, results: StudyResults) -> "ImbalanceCurves":
        """From the metrics of an imbalanced study; its numbers of images take the place of runs, and runs of panels."""
        if not results.imbalance_groups:
            raise ValueError(f"Expected a study with dataset.pair_groups, but '{results.study.study}' is balanced.")
        runs, tables = spread(results.runs, MOST), []
        for n in results.imbalance_groups:
            of_group = results.values("imbalance_ratio", labels=n)
            of_group = of_group[of_group["run"].isin(runs)]
            tables.append(of_group.assign(panel=of_group["run"].map(runs.index), run=f"{n} images per pair"))
        values = pd.concat(tables, ignore_index=True)
        panels = [Panel("imbalance_ratio", results.labels[run]) for run in runs]
        return cls(values, panels, styles=RunStyles.from_order(list(values["run"].unique())))

    def _draw(self) -> None:
        super()._draw()
        for axes in self.axes_:
            if axes.get_subplotspec().is_first_col():
                axes.set_ylabel("tag-wise ratio")
