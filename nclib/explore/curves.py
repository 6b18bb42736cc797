"""Metrics against the epoch, one panel each, with a cursor at the epoch that the other views show."""

import textwrap
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from nclib.explore.canvas import Metric, State, View
from nclib.explore.logaxis import LogRange
from nclib.explore.run_data import RunData
from nclib.explore.theme import FAINT, GREY, INK
from nclib.figures.panels import Panel, panel
from nclib.results.metrics_table import measured_labels, of_metric

Points = Float[np.ndarray, "n 2"]
STYLES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (4, 1, 1, 1)))
LEFT, TOP, PANEL, HEIGHT, STEP = 52, 46, 150, 132, 221  # pixels
TITLE_FITS = 24  # letters above a panel


@dataclass(frozen=True)
class Line:
    """One line of each run: a metric on a split, and its name in the panel's legend."""

    metric: Metric
    split: str = "train"
    name: str = ""


@dataclass(frozen=True)
class Curves:
    """What one panel shows: title and axis of its first metric, and its lines."""

    shown: Panel
    lines: tuple[Line, ...]


def usual_score(tables: Sequence[pd.DataFrame]) -> Metric:
    """The metric of prediction that suits the data: IoU for several labels, accuracy for one."""
    several = any(measured_labels(table, "tag_wise_scale") for table in tables)
    return ("soft_iou" if several else "top1"), None


def metric_panels(tables: Sequence[pd.DataFrame], metric: Metric | None) -> list[Curves]:
    """The panels that suit some tables of metrics; the last one shows `metric`."""

    def one(metric: Metric) -> Curves:
        return Curves(_panel(metric), (Line(metric),))

    ratios = [("tag_wise_ratio", m) for m in sorted({m for t in tables for m in measured_labels(t, "tag_wise_ratio")})]
    nc2 = (Line(("nc2_w_centered", None), name="W"), Line(("nc2_h_centered", None), name="means"))
    found = [one(("nc1", None)), Curves(_panel(nc2[0].metric, "NC2: simplex ETF"), nc2), one(("nc3_centered", None))]
    if len(ratios) > 1:
        lines = tuple(Line(ratio, name=f"m = {ratio[1]}") for ratio in ratios)
        found.append(Curves(_panel(ratios[0], "tag-wise ratio, m labels"), lines))
    else:
        found.append(one(ratios[0] if ratios else ("nc4", None)))
    last = metric or usual_score(tables)
    return [*found, Curves(_panel(last), (Line(last, "train", "train"), Line(last, "test", "test")))]


class MetricsView(View):
    """Five panels of metrics, both runs in each."""

    name, title, height = "metrics", "Metrics", 222

    def key(self, state: State) -> Hashable:
        return state.runs, state.metric, state.log_values, state.log_epochs

    def build(self, state: State) -> None:
        self._panels: list[Axes] = []
        self._marks: list[tuple[Line2D, RunData, dict[int, Points]]] = []
        left, runs = LEFT, list(zip(state.runs, state.colors, strict=True))
        for data, color in runs:
            label = data.label if data.metrics is not None else f"{data.label} (no metrics)"
            self.name_run(left, 6, data, color, label)
            left += 110 + 8 * len(label)
        runs = [(data, color) for data, color in runs if data.metrics is not None]
        if not runs:
            self.explain_missing(LEFT, TOP, 900, state.runs[0])
            return
        drawn: list[list[tuple[Axes, pd.Series]]] = [[] for _ in runs]
        for place, curves in enumerate(metric_panels([data.metrics for data, _ in runs], state.metric)):
            ax = self.axes(LEFT + place * STEP, TOP, PANEL, HEIGHT)
            lines = [list(_series(data, curves)) for data, _ in runs]
            values = np.concatenate([rows.to_numpy(float) for of_run in lines for rows in of_run])
            if values.size and state.log_values and curves.shown.may_be_log:
                scale = LogRange.from_values(values)
                scale.apply(ax)
                lines = [[scale.shown(rows) for rows in of_run] for of_run in lines]
            for (_, color), of_run, found in zip(runs, lines, drawn, strict=True):
                for rows, style in zip(of_run, STYLES, strict=False):
                    ax.plot(rows.index, rows, color=color, ls=style, lw=1.4)
                found += [(ax, rows) for rows in of_run]
            self._finish(ax, curves, state)
            self._panels.append(ax)
        glass = self.glass()
        self._cursor = self.moving(glass.plot([], [], color=GREY, lw=1)[0])
        for (data, color), lines in zip(runs, drawn, strict=True):
            mark = self.moving(glass.plot([], [], "o", color=color, ms=4.5)[0])
            self._marks.append((mark, data, self._points(lines)))

    def _points(self, lines: Sequence[tuple[Axes, pd.Series]]) -> dict[int, Points]:
        """Where a run's lines are at each epoch, on the glass."""
        found: dict[int, list[Points]] = {}
        for ax, rows in lines:
            points = self.on_glass(ax, np.column_stack([rows.index, rows]).astype(float))
            for epoch, point in zip(rows.index, points, strict=True):
                if np.isfinite(point).all():
                    found.setdefault(int(epoch), []).append(point[None])
        return {epoch: np.concatenate(points) for epoch, points in found.items()}

    def _finish(self, ax: Axes, curves: Curves, state: State) -> None:
        title = curves.shown.title
        ax.set_title(title if "$" in title else textwrap.fill(title, TITLE_FITS), loc="left", pad=6)
        ax.set_xlabel("epoch", labelpad=1)
        ax.grid(color=FAINT, lw=0.5)
        ax.set_axisbelow(True)
        if not any(line.get_xdata().size for line in ax.lines):
            ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", color=GREY)
        elif ax.get_yscale() == "linear":
            ax.set_ylim(*_with_margin(ax))
        if state.log_epochs:
            ax.set_xscale("symlog", linthresh=1, linscale=0.5)
        else:
            ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.autoscale_view()  # else matplotlib sets the limits when it draws, after `_points`
        if any(line.name for line in curves.lines):
            handles = [
                Line2D([], [], color=INK, ls=style, lw=1.2, label=line.name)
                for line, style in zip(curves.lines, STYLES, strict=False)
            ]
            ax.legend(handles=handles, frameon=False, loc="best", handlelength=1.8, borderpad=0.1, labelspacing=0.2)

    def move(self, state: State) -> None:
        if not self._panels:
            return
        ends = [[(state.epoch, y) for y in ax.get_ylim()] for ax in self._panels]
        gap = np.full((1, 2), np.nan)
        lines = [p for ax, end in zip(self._panels, ends, strict=True) for p in (self.on_glass(ax, np.array(end)), gap)]
        self._cursor.set_data(*np.concatenate(lines).T)
        for mark, data, points in self._marks:
            epoch = int(data.epochs[data.position(state.epoch)])
            mark.set_data(*points.get(epoch, gap).T)


def _panel(metric: Metric, title: str | None = None) -> Panel:
    """Title and axis of a metric, as in the figures."""
    return panel(metric[0], labels=metric[1], title=title)


def _series(data: RunData, curves: Curves) -> Iterator[pd.Series]:
    """The lines of a panel that a run has, by epoch."""
    for line in curves.lines:
        metric, labels = line.metric
        yield of_metric(data.metrics, metric, split=line.split, labels=labels).set_index("epoch")["value"].dropna()


def _with_margin(ax: Axes) -> tuple[float, float]:
    low, high = ax.dataLim.intervaly
    margin = 0.06 * (high - low) or 0.05
    return low - margin, high + margin
