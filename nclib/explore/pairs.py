"""Angle of each pair's mean to its tag-wise average, as a K x K map for each run."""

from collections.abc import Hashable

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D

from nclib.explore.canvas import Cells, State, View
from nclib.explore.matrices import prepare_cells
from nclib.explore.run_data import RunData
from nclib.explore.theme import FAINT

LEFT, TOP, PANEL, STEP = 40, 30, 270, 318  # pixels
SMALLEST, LARGEST = 0.3, 90.0  # degrees at the ends of the color scale
TICKS = (0.3, 1, 3, 10, 30, 90)


def cells_box(place: int) -> tuple[float, float, float, float]:
    """Left, top, width and height of the map at `place` (0 or 1), as shares of the picture."""
    width, height = PairsView.width, PairsView.height
    return (LEFT + place * STEP) / width, TOP / height, PANEL / width, PANEL / height


class PairsView(View):
    """One map a run; the chosen pair is framed."""

    name, title, width, height = "pairs", "Angles of pairs to their tag-wise averages", 710, 326

    def key(self, state: State) -> Hashable:
        return state.runs

    def build(self, state: State) -> None:
        self._panels: list[tuple[Cells, list[Line2D], RunData]] = []
        mapping = ScalarMappable(LogNorm(SMALLEST, LARGEST, clip=True), "cividis")
        for place, (data, color) in enumerate(zip(state.runs, state.colors, strict=True)):
            left = LEFT + place * STEP
            self.name_run(left, 6, data, color)
            if data.geometry is None:
                self.explain_missing(left, TOP, PANEL, data)
                continue
            ax = self.axes(left, TOP, PANEL, PANEL, facecolor=FAINT)
            prepare_cells(ax, data.geometry.class_names)
            frames = [
                self.moving(ax.plot([], [], c, lw=w, clip_on=False)[0]) for c, w in (("w", 3.6), ("#cc3311", 1.8))
            ]
            self._panels.append((self.cells(ax, mapping), frames, data))
        if self._panels:
            place = self.axes(LEFT + len(state.runs) * STEP - 32, TOP, 9, PANEL)
            bar = self.figure.colorbar(mapping, cax=place, ticks=TICKS, format="%g°")
            bar.outline.set_visible(False)
            bar.ax.tick_params(which="both", length=0, pad=3)

    def move(self, state: State) -> None:
        for cells, frames, data in self._panels:
            cells.values = data.angles[data.position(state.epoch)]
            outline = _outline(state.labels, data.num_classes)
            for frame in frames:
                frame.set_data(*outline)

    def caption(self, state: State) -> str:
        told = []
        for data in state.known:
            angles = data.angles[data.position(state.epoch)]
            beside = angles[~np.eye(len(angles), dtype=bool)]
            pairs = f"pairs {np.nanmean(beside):.2f}°" if np.isfinite(beside).any() else "no pairs in its training data"
            told.append(f"{data.label}: {pairs}, diagonal {np.diag(angles).mean():.2f}°")
        return "Mean angle: " + "; ".join(told) + "." if told else ""


def _outline(labels: tuple[int, ...], num_classes: int) -> tuple[list[float], list[float]]:
    """Outlines of the two cells of a pair (one cell, for one label); nothing for larger label sets."""
    x, y = [], []
    if 1 <= len(labels) <= 2 and max(labels) < num_classes:
        i, j = labels[0], labels[-1]
        for column, row in {(i, j), (j, i)}:
            x += [column + dx for dx in (-0.5, 0.5, 0.5, -0.5, -0.5, np.nan)]
            y += [row + dy for dy in (-0.5, -0.5, 0.5, 0.5, -0.5, np.nan)]
    return x, y
