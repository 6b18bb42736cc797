"""Pictures that are redrawn fast: a figure whose moving artists are drawn over a kept background.

Most of the time a whole matplotlib figure takes goes into axes, ticks and text that stay the same from one epoch to the
next. So a view draws those once, keeps the pixels, and from then on moves a few artists in place.
"""

import struct
import textwrap
import zlib
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

from nclib.explore.data import LabelSet, RunData
from nclib.explore.plane import CIRCLE, Plane
from nclib.explore.theme import GREY, INK, RC_PARAMS

WIDTH = 1100  # pixels: what JupyterLab leaves of a window of 1280, its side bar closed
PIXELS_PER_INCH = 100
AnyArtist = TypeVar("AnyArtist", bound=Artist)


@dataclass(frozen=True, eq=False)
class State:
    """All that a view may show.

    Attributes:
        runs: one run, or two to be set side by side.
        epoch: number of finished epochs.
        plane: what the features are projected on (see `nclib.explore.plane`).
        labels: the chosen label set.
        metric: column of `metrics.csv` in the last panel; None for the usual score.
        log_values: logarithmic axes for the metrics that fall to zero.
        log_epochs: a logarithmic axis for the epochs.
    """

    runs: tuple[RunData, ...]
    epoch: int
    plane: Plane = CIRCLE
    labels: LabelSet = ()
    metric: str | None = None
    log_values: bool = True
    log_epochs: bool = False


class View(ABC):
    """One picture of a state; subclasses say what stands still (`build`) and what an epoch changes (`move`).

    Args:
        sharpness: picture pixels for each pixel of the layout; 2 suits dense screens, at 3 to 4 times the time.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    width: ClassVar[int] = WIDTH
    height: ClassVar[int]

    def __init__(self, *, sharpness: float = 1.0) -> None:
        self._dpi = PIXELS_PER_INCH * sharpness
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

    def pixels(self, state: State) -> UInt8[np.ndarray, "h w 4"]:
        """The picture; the array is overwritten by the next one."""
        if self._key is None or self.key(state) != self._key:
            self._start(state)
        self._canvas.restore_region(self._background)
        buffer = np.asarray(self._canvas.buffer_rgba())
        self.move(state)
        for cells in self._cells:
            cells.paint(buffer)
        for artist in self._moving:
            if artist.get_visible():
                artist.axes.draw_artist(artist)
        return buffer

    def picture(self, state: State) -> bytes:
        """The picture as PNG."""
        return encode(self.pixels(state))

    def axes(self, left: float, top: float, width: float, height: float, **settings: Any) -> Axes:
        """New axes at a place given in pixels of the layout, from the top left corner."""
        box = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box, **settings)

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

    def text(self, left: float, top: float, text: str, **settings: Any) -> None:
        """Text that stands still, its top left corner at a place in pixels."""
        x, y = left / self.width, 1 - top / self.height
        self.figure.text(x, y, text, **{"va": "top", "ha": "left", "color": INK, **settings})

    def explain_missing(self, left: float, top: float, width: float, data: RunData, why: str | None = None) -> None:
        """Say in the place of a panel why it is empty."""
        lines = _wrapped(why or " ".join(data.problems) or "There is nothing to show.", columns=int(width / 6.2))
        self.text(left, top, f"{data.label}\n\n{lines}", color=GREY, linespacing=1.4)

    def _start(self, state: State) -> None:
        self._key, self._moving, self._cells = None, [], []
        with mpl.rc_context(RC_PARAMS):
            size = (self.width / PIXELS_PER_INCH, self.height / PIXELS_PER_INCH)
            self.figure = Figure(figsize=size, dpi=self._dpi, facecolor="white")
            self._canvas = FigureCanvasAgg(self.figure)
            self.build(state)
            self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(self.figure.bbox)
        self._key = self.key(state)


class Cells:
    """A K x K map painted straight into the pixels (about 50 times as fast as matplotlib's images of that size).

    Args:
        ax: axes of the map, with row 0 on top, as `imshow` has it; the cells' centres are at whole numbers.
        mapping: values to colours; NaN leaves the axes' own colour.
    """

    def __init__(self, ax: Axes, mapping: ScalarMappable) -> None:
        self._ax, self._mapping = ax, mapping
        self.values: Float[np.ndarray, "k k"] = np.zeros((1, 1))

    def paint(self, buffer: UInt8[np.ndarray, "h w 4"]) -> None:
        """Paint `values` into the pixels of the figure that `ax` is in."""
        K = len(self.values)
        colors = self._mapping.to_rgba(np.ma.masked_invalid(self.values), bytes=True)
        colors[np.isnan(self.values)] = np.round(255 * np.array(self._ax.get_facecolor()))
        left, right, top, bottom = pixel_box(self._ax)
        rows, columns = (np.arange(n) * K // n for n in (bottom - top, right - left))
        buffer[top:bottom, left:right] = colors[rows][:, columns]


def pixel_box(ax: Axes) -> tuple[int, int, int, int]:
    """Left, right, top and bottom edge of `ax` in pixels, counted from the top left corner of its figure."""
    box, height = ax.bbox, ax.figure.bbox.height
    return round(box.x0), round(box.x1), round(height - box.y1), round(height - box.y0)


def encode(pixels: UInt8[np.ndarray, "h w 4"]) -> bytes:
    """RGBA pixels as PNG, fast rather than small.

    Without row filters and at zlib's fastest level the encoder needs a third of Pillow's time on a view (3.4 ms against
    9.6 ms for 1100 x 420 pixels), and the file is no larger.
    """
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 4 * width), np.uint8)  # each row starts with the number of its filter: 0, none
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def stack(pictures: list[UInt8[np.ndarray, "_h _w 4"]]) -> bytes:
    """Pictures one below the other on white, as PNG."""
    width = max(pixels.shape[1] for pixels in pictures)
    padded = [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures]
    return encode(np.concatenate(padded))


def _wrapped(text: str, *, columns: int) -> str:
    return "\n".join(textwrap.wrap(text, max(columns, 12), break_on_hyphens=False))
