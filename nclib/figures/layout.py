"""Text that fits, and legends below the axes."""

import re
import textwrap
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nclib.figures.style import RC

BREAK_AFTER = re.compile(r"-(?=[A-Za-z]\w*=)|_(?!\w*=)")  # besides blanks: before a `-key=value`, never in a key
LETTER = 0.62 / 72  # inches per point of size: width of a letter, on the wide side of the mean
LINE = 0.125  # inches: height of a line of a title
LEGEND_LINE = 0.165  # inches: height of a line of a legend
LEGEND_HANDLE = 0.6  # inches: a legend's line, and the gap to the next column


def fit_texts(texts: Sequence[str], width: float, *, size: float = RC["axes.titlesize"]) -> tuple[list[str], float]:
    r"""Break texts into lines, and make all of them smaller where a piece is still too wide.

    They are broken at blanks, before a `-key=value` of a sweep, and after an underscore. A formula stays whole. Returns
    the texts and the size of the letters [points] that fits the width [inches].

    >>> fit_texts(["learned-lr=0.05-weight_decay=0.0005"], 1.5)
    (['learned-lr=0.05-\nweight_decay=0.0005'], 8.0)
    """
    letters = int(width / (LETTER * size))
    fitted = [text if "$" in text else "\n".join(_broken(line, letters) for line in text.split("\n")) for text in texts]
    lengths = [len(line) for text in fitted if "$" not in text for line in text.split("\n")]
    return fitted, size * min(1.0, letters / max([1, *lengths]))


def set_titles(grid: Iterable[Axes], texts: Sequence[str], width: float) -> None:
    """Titles of some axes that fit their width [inches]."""
    titles, size = fit_texts(texts, width)
    for axes, title in zip(grid, titles, strict=True):
        axes.set_title(title, fontsize=size)


def _broken(text: str, letters: int) -> str:
    marked = BREAK_AFTER.sub("\\g<0>\v", text)
    lines = textwrap.fill(marked, letters, break_long_words=False, break_on_hyphens=False, replace_whitespace=False)
    return lines.replace("\v", "")


def legend_below(figure: Figure, handles: Sequence[Line2D], *, columns: int | None = None, seeds: int = 1) -> None:
    """A legend below all axes; the figure grows by its height, and to the width of an entry that is wider.

    Without `columns` the rows are about equally long. For several seeds a title says what line and band mean.
    """
    entry = LEGEND_HANDLE + RC["legend.fontsize"] * LETTER * max(len(handle.get_label()) for handle in handles)
    figure.set_figwidth(max(figure.get_figwidth(), entry))
    fitting = min(columns or 5, int(figure.get_figwidth() / entry))
    rows = -(-len(handles) // fitting)
    figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=fitting if columns else -(-len(handles) // rows),
        title=f"mean of {seeds} seeds, band: smallest to largest" if seeds > 1 else None,
        handlelength=3.2,
        columnspacing=1.6,
        alignment="left",
    )
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * (rows + (seeds > 1)))
