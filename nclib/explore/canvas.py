"""Pictures that are redrawn fast: a figure whose moving artists are drawn over a kept background.

Most of the time a whole matplotlib figure takes goes into axes, ticks and text that stay the same from one epoch to the
next. So a view draws those once, keeps the pixels, and from then on moves a few artists in place.
"""

import textwrap
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from nclib.explore.overlay import OverlayRenderer
from nclib.explore.plane import CIRCLE, Plane
from nclib.explore.png import encode
from nclib.explore.run_data import LabelSet, RunData
from nclib.explore.theme import GREY, INK, RC_PARAMS, shade, text_color

WIDTH = 1100  # pixels: what JupyterLab leaves of a window of 1280, its side bar closed
PIXELS_PER_INCH = 100
Number = int | float
Metric = tuple[str, int | None]  # the columns `metric` and `labels` of metrics.csv
AnyArtist = TypeVar("AnyArtist", bound=Artist)


@dataclass(frozen=True, eq=False)
class State:
    """All that a view may show.

    Attributes:
        runs: one run, or two to be set side by side.
        epoch: number of finished epochs; each run shows its last checkpoint up to it.
        plane: what the features are projected on (see `nclib.explore.plane`).
        labels: the chosen label set.
        metric: name and labels of the metric in the last panel; None for the usual score.
        log_values: logarithmic axes for the metrics that fall to zero.
        log_epochs: a logarithmic axis for the epochs.
    """

    runs: tuple[RunData, ...]
    epoch: int
    plane: Plane = CIRCLE
    labels: LabelSet = ()
    metric: Metric | None = None
    log_values: bool = True
    log_epochs: bool = False

    @property
    def known(self) -> tuple[RunData, ...]:
        """The runs whose geometry is there."""
        return tuple(data for data in self.runs if data.geometry is not None)

    @property
    def colors(self) -> tuple[str, ...]:
        """The color of each run; the second has a darker shade if it would have that of the first."""
        found: list[str] = []
        for data in self.runs:
            found.append(shade(data.color) if data.color in found else data.color)
        return tuple(found)

    @property
    def epochs(self) -> list[int]:
        """The epochs at which a run has a checkpoint, ascending; 0 alone if none has."""
        return sorted({int(epoch) for data in self.runs for epoch in data.epochs}) or [0]

    @property
    def num_classes(self) -> int:
        """The number of classes that all of these have; 0 if there is none."""
        return min((data.num_classes for data in self.known), default=0)


class View(ABC):
    """One picture of a state; subclasses say what stands still (`build`) and what an epoch changes (`move`)."""

    name: ClassVar[str]
    title: ClassVar[str]
    width: ClassVar[int] = WIDTH
    height: ClassVar[int]

    def __init__(self) -> None:
        self._key: Hashable = None

    @abstractmethod
    def key(self, state: State) -> Hashable:
        """What the still part depends on; when it changes, the figure is built anew."""

    @abstractmethod
    def build(self, state: State) -> None:
        """Draw into `self.figure`, which is empty; artists given to `self.moving` are left to `move`."""

    @abstractmethod
    def move(self, state: State) -> None:
        """Set the moving artists to `state.epoch`."""

    def caption(self, state: State) -> str:
        """The view's numbers at `state.epoch` in words (text drawn with each step would cost 1 ms a line)."""
        return ""

    def still(self, state: State) -> UInt8[np.ndarray, "h w 4"]:
        """What stands still, alone; the array is overwritten by the next picture."""
        if self._key is None or self.key(state) != self._key:
            self._start(state)
        self._canvas.restore_region(self._background)
        return np.asarray(self._canvas.buffer_rgba())

    def overlay(self, state: State) -> str:
        """What moves, as SVG to be laid over the picture of `still`."""
        if self._key is None or self.key(state) != self._key:
            self._start(state)
        self.move(state)
        renderer = OverlayRenderer(*self.figure.bbox.size, PIXELS_PER_INCH)
        for cells in self._cells:
            left, right, top, bottom = pixel_box(cells.ax)
            renderer.draw_cells(cells.colors(), left, top, right - left, bottom - top)
        for artist in self._moving:
            artist.draw(renderer)
        return renderer.svg

    def pixels(self, state: State) -> UInt8[np.ndarray, "h w 4"]:
        """The picture, which says the epoch of each run's checkpoint; the array is overwritten by the next one."""
        buffer = self.still(state)
        self.move(state)
        for cells in self._cells:
            cells.paint(buffer)
        renderer = self._canvas.get_renderer()
        for note, data in self._epoch_notes:
            note.set_text(f"epoch {data.epochs[data.position(state.epoch)]}")
            note.draw(renderer)
        for artist in self._moving:
            artist.draw(renderer)
        return buffer

    def picture(self, state: State) -> bytes:
        """The picture as PNG."""
        return encode(self.pixels(state))

    def axes(self, left: Number, top: Number, width: Number, height: Number, **settings: Any) -> Axes:
        """New axes at a place given in pixels of the layout, from the top left corner."""
        box = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box, **settings)

    def glass(self) -> Axes:
        """Invisible axes over the whole picture, in pixels of the layout from the top left corner.

        Artists that move in several panels are quicker drawn as one on the glass.
        """
        ax = self.axes(0, 0, self.width, self.height, xlim=(0, self.width), ylim=(self.height, 0), zorder=9)
        ax.set_axis_off()
        return ax

    def on_glass(self, ax: Axes, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Points in the data of `ax`, whose limits are final, as points on the glass."""
        places = self.figure.transFigure.inverted().transform(ax.transData.transform(points))
        return np.array([0, self.height]) + places * np.array([self.width, -self.height])

    def moving(self, artist: AnyArtist) -> AnyArtist:
        """Have `artist` redrawn at each step, above all that stands still, in the order of these calls."""
        artist.set_animated(True)
        self._moving.append(artist)
        return artist

    def cells(self, ax: Axes, mapping: ScalarMappable) -> "Cells":
        """A K x K map that fills `ax` and is repainted at each step, below the moving artists."""
        cells = Cells(ax, mapping)
        self._cells.append(cells)
        return cells

    def text(self, left: Number, top: Number, text: str, **settings: Any) -> Text:
        """Text that stands still, its top left corner at a place in pixels."""
        x, y = left / self.width, 1 - top / self.height
        return self.figure.text(x, y, text, **{"va": "top", "ha": "left", "color": INK, **settings})

    def name_run(self, left: Number, top: Number, data: RunData, color: str, label: str | None = None) -> None:
        """Write a run's name in its color; `pixels` adds the epoch (where a slider shows it, it would cost time)."""
        self.text(left, top, "\N{BLACK SQUARE}", color=color)
        name = self.text(left + 15, top, label or data.label, color=text_color(color), weight="bold")
        if data.epochs.size:
            place = {"xy": (1, 1), "xycoords": name, "xytext": (5, 0), "textcoords": "offset points"}
            note = Annotation("", **place, va="top", color=GREY, annotation_clip=False, animated=True)
            self.figure.add_artist(note)
            self._epoch_notes.append((note, data))

    def explain_missing(self, left: Number, top: Number, width: Number, data: RunData) -> None:
        """Say in the place of a panel why it is empty."""
        lines = _wrapped(" ".join(data.problems) or "There is nothing to show.", columns=int(width / 6.2))
        self.text(left, top, f"{data.label}\n\n{lines}", color=GREY, linespacing=1.4)

    def _start(self, state: State) -> None:
        self._key, self._moving, self._cells, self._epoch_notes = None, [], [], []
        with mpl.rc_context(RC_PARAMS):
            size = (self.width / PIXELS_PER_INCH, self.height / PIXELS_PER_INCH)
            self.figure = Figure(figsize=size, dpi=PIXELS_PER_INCH, facecolor="white")
            self._canvas = FigureCanvasAgg(self.figure)
            self.build(state)
            self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(self.figure.bbox)
        self._key = self.key(state)


class Cells:
    """A K x K map painted straight into the pixels (about 50 times as fast as matplotlib's images of that size).

    Args:
        ax: axes of the map, with row 0 on top, as `imshow` has it; the cells' centres are at whole numbers.
        mapping: values to colors; NaN leaves the axes' own color.
    """

    def __init__(self, ax: Axes, mapping: ScalarMappable) -> None:
        self.ax, self._mapping = ax, mapping
        self.values: Float[np.ndarray, "k k"] = np.zeros((1, 1))

    def colors(self) -> UInt8[np.ndarray, "k k 4"]:
        """The cells' colors."""
        colors = self._mapping.to_rgba(np.ma.masked_invalid(self.values), bytes=True)
        colors[np.isnan(self.values)] = np.round(255 * np.array(self.ax.get_facecolor()))
        return colors

    def paint(self, buffer: UInt8[np.ndarray, "h w 4"]) -> None:
        """Paint the cells into the pixels of the figure that `ax` is in."""
        K, colors = len(self.values), self.colors()
        left, right, top, bottom = pixel_box(self.ax)
        rows, columns = (np.arange(n) * K // n for n in (bottom - top, right - left))
        buffer[top:bottom, left:right] = colors[rows][:, columns]


def pixel_box(ax: Axes) -> tuple[int, int, int, int]:
    """Left, right, top and bottom edge of `ax` in pixels, counted from the top left corner of its figure."""
    box, height = ax.bbox, ax.figure.bbox.height
    return round(box.x0), round(box.x1), round(height - box.y1), round(height - box.y0)


def stack(pictures: list[UInt8[np.ndarray, "_h _w 4"]]) -> bytes:
    """Pictures one below the other on white, as PNG."""
    width = max(pixels.shape[1] for pixels in pictures)
    padded = [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures]
    return encode(np.concatenate(padded))


def _wrapped(text: str, *, columns: int) -> str:
    return "\n".join(textwrap.wrap(text, max(columns, 12), break_on_hyphens=False))
