"""Panels, shared labels and the legend outside them."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nclib.figures.style import RunStyles

SomeAxes = Axes | Sequence[Axes] | np.ndarray | None  # what every `.plot(ax)` takes
BLANK_HOLDS = 8  # legend entries


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

    Args:
        figure: made by `panels`.
        handles: the entries.
        used: panels in use.
        columns: of a legend below.
        title: above the entries.
    """
    blank = figure.axes[used:]
    options = {"handles": list(handles), "title": title, "handlelength": 3.2, "alignment": "left"}
    if blank and len(handles) <= BLANK_HOLDS:
        blank[0].legend(**options, loc="center", borderaxespad=0)
    else:
        figure.legend(**options, loc="outside lower center", ncols=columns, columnspacing=1.6)


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
