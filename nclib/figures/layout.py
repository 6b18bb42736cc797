"""Panels, shared labels and the legend outside them."""

import re
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from nclib.figures.style import SWEPT, TEXT_WIDTH, RunStyles

SomeAxes = Axes | Sequence[Axes] | np.ndarray | None  # what every `.plot(ax)` takes
BLANK_HOLDS = 8  # legend entries
MARGIN = 0.15  # inches: left and right of a legend, together
ROOM = 0.8  # inches: the height of a legend that figures have room for below their panels
LINE = 0.125  # inches: height of a further line of a title


def panels(
    ax: SomeAxes,
    rows: int,
    columns: int,
    *,
    number: int | None = None,
    size: tuple[float, float],
    sharex: bool | str = False,
    sharey: bool | str = False,
) -> tuple[Figure, np.ndarray]:
    """Axes to draw on: those given, or a new figure of `rows` x `columns` panels.

    Args:
        ax: axes to draw on, in reading order; None makes a figure.
        rows, columns: of the new figure.
        number: of panels in use, the rest stay blank; None: all.
        size: width and height of the new figure [inches].
        sharex, sharey: as for `matplotlib.pyplot.subplots`.

    Returns:
        The figure and its `number` axes, in reading order.

    Raises:
        ValueError: too few or too many axes were given.
    """
    number = rows * columns if number is None else number
    if ax is not None:
        given = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
        if len(given) != number:
            raise ValueError(f"Expected {number} axes, one for each panel, but got {len(given)}.")
        return given[0].figure, given
    figure, grid = plt.subplots(
        rows, columns, figsize=size, layout="constrained", sharex=sharex, sharey=sharey, squeeze=False
    )
    for blank in grid.ravel()[number:]:
        blank.axis("off")
    return figure, grid.ravel()[:number]


def legend_beside(
    figure: Figure, handles: Sequence[Artist], *, used: int, columns: int, title: str | None = None
) -> None:
    """A legend in the blank place after the last panel, or below all panels where there is none or it is too small.

    A legend below that is too wide gets fewer columns, and the figure the height that it takes more; a figure narrower
    than the text, or than one column, is widened.

    Args:
        figure: made by `panels`.
        handles: the entries.
        used: panels in use.
        columns: of a legend below, at most.
        title: above the entries.
    """
    blank = figure.axes[used:]
    options = {"handles": list(handles), "title": title, "handlelength": 3.2, "alignment": "left"}
    if blank and len(handles) <= BLANK_HOLDS:
        legend = blank[0].legend(**options, loc="center", borderaxespad=0)
        if size_of(legend)[0] <= figure.get_figwidth() / blank[0].get_gridspec().ncols:
            return
        legend.remove()
    options |= {"loc": "outside lower center", "columnspacing": 1.6}
    legend = figure.legend(**options, ncols=columns)
    width, height = size_of(legend)
    room = min(height, ROOM)
    rows = -(-len(handles) // columns)
    while width + MARGIN > max(figure.get_figwidth(), TEXT_WIDTH) and rows < len(handles):
        rows += 1
        legend.remove()
        legend = figure.legend(**options, ncols=-(-len(handles) // rows))
        width, height = size_of(legend)
    if width + MARGIN > figure.get_figwidth():
        figure.set_figwidth(width + MARGIN)
    if height > room:
        figure.set_figheight(figure.get_figheight() + height - room)


def size_of(artist: Artist) -> tuple[float, float]:
    """Width and height [inches]."""
    box = artist.get_window_extent()
    return box.width / artist.figure.dpi, box.height / artist.figure.dpi


def fit_text(text: str, width: float, *, size: float) -> tuple[str, float]:
    r"""Break a text into lines, and make it smaller where a piece is still too wide.

    It is broken at blanks, before a `-key=value` of a sweep, and after a dash or underscore of what holds no `=`.

    Args:
        text: a name, or several.
        width: to fit [inches].
        size: of the letters, where they need not be smaller [points].

    Returns:
        The text and the size.

    >>> fit_text("learned-lr=0.05-weight_decay=0.0005", 1.3, size=8.0)
    ('learned-lr=0.05-\nweight_decay=0.0005', 8.0)
    """
    lines = [""]
    for piece in _pieces(text):
        if lines[-1] and _width((lines[-1] + piece).rstrip(), size) > width:
            lines.append("")
        lines[-1] += piece
    lines = [line.rstrip() for line in lines]
    widest = max(_width(line, size) for line in lines)
    return "\n".join(lines), size * min(1, width / widest) if widest else size


def _pieces(text: str) -> list[str]:
    marked = SWEPT.sub("-\n", re.sub(r"(?<= )(?=\S)", "\n", text)).split("\n")
    return [part for piece in marked for part in ([piece] if "=" in piece else re.split(r"(?<=[-_])(?=[^\W_])", piece))]


def _width(text: str, size: float) -> float:
    return TextPath((0, 0), text, size=size, usetex=False).get_extents().width / 72 if text else 0.0


def legend_columns(styles: RunStyles, handles: Sequence[Artist]) -> int:
    """Columns of a legend below: one a group where the runs form groups, since a legend fills its columns first."""
    if styles.groups:
        return min(6, len({group for group, _ in styles.groups.values()}))
    rows = -(-len(handles) // 4)
    return -(-len(handles) // rows)


def seeds_note(seeds: int) -> str | None:
    """What line and band mean; None for a single seed, which has no band."""
    return f"mean of {seeds} seeds\n(band: smallest to largest)" if seeds > 1 else None


def few_ticks(axes: Axes) -> None:
    """Three to five numbers on a linear y-axis."""
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=3, steps=[1, 2, 2.5, 5, 10]))
