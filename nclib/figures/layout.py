"""Text that fits, and legends beside or below the axes."""

import re
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath

from nclib.figures.style import HIGHEST, RC, TEXT_WIDTH

BREAK_AFTER = re.compile(r"(?<=\w{5})=|_(?!\w*=)")  # besides blanks; never in the key of a `key=value`
LETTER = 0.62 / 72  # inches per point of size: width of a letter, on the wide side of the mean
SHORT = 12  # letters of a class name beside a matrix
LINE = 0.125  # inches: height of a line of a title
LEGEND_LINE = 0.165  # inches: height of a line of a legend
LEGEND_HANDLE = 0.6  # inches: a legend's line, and the gap to the next column


def fit_texts(texts: Sequence[str], width: float, *, size: float = RC["axes.titlesize"]) -> tuple[list[str], float]:
    r"""Break texts into lines, and make all of them smaller where a piece is still too wide.

    They are broken at blanks, after an underscore and after a long key. A formula stays whole. Returns the texts and
    the size of the letters [points] that fits the width [inches].

    >>> fit_texts(["learned, lr=0.05, weight_decay=0.0005"], 1.5)
    (['learned, lr=0.05,\nweight_decay=0.0005'], 8.0)
    """
    letters = int(width / (LETTER * size))
    fitted = [text if "$" in text else "\n".join(_broken(line, letters) for line in text.split("\n")) for text in texts]
    lengths = [len(line) for text in fitted if "$" not in text for line in text.split("\n")]
    return fitted, size * min(1.0, letters / max([1, *lengths]))


def drawable(names: Sequence[str], *, longest: int = 100) -> list[str]:
    """Names of classes as figures can show them: shortened; their numbers if no installed font has the characters."""
    fonts = [font_manager.get_font(font_manager.findfont(family)) for family in RC["font.family"]]
    missing = {c for name in names for c in name if not any(font.get_char_index(ord(c)) for font in fonts)}
    if missing:
        warnings.warn(
            f"No font on this machine has {''.join(sorted(missing)[:9])}: figures show numbers instead of class names. "
            "Install one that has, such as Noto Sans CJK.",
            stacklevel=1,
        )
        return [str(k) for k in range(len(names))]
    return [name if len(name) <= longest else f"{name[: longest - 1]}…" for name in names]


def set_titles(grid: Iterable[Axes], texts: Sequence[str], width: float) -> None:
    """Titles of some axes that fit their width [inches]."""
    titles, size = fit_texts(texts, width)
    for axes, title in zip(grid, titles, strict=True):
        axes.set_title(title, fontsize=size)


def _broken(text: str, letters: int) -> str:
    marked = BREAK_AFTER.sub("\\g<0>\v", text)
    lines = textwrap.fill(marked, letters, break_long_words=False, break_on_hyphens=False, replace_whitespace=False)
    return lines.replace("\v", "")


def add_legend(
    figure: Figure,
    entries: Mapping[str, Line2D | tuple[Line2D, ...]],
    *,
    title: str | None = None,
    columns: int | None = None,
    blank: Axes | None = None,
) -> None:
    """A legend in `blank`, axes that are off, if it fits there; else below all axes, and the figure grows for it.

    The entries are lines by label; several share a label, side by side. There are `columns` below the axes, without it
    as few rows as fit, about equally long.
    """
    size = RC["legend.fontsize"]
    longest = max(TextPath((0, 0), label, size=size).get_extents().width for label in entries) / 72
    shrunk = min(1.0, (TEXT_WIDTH - LEGEND_HANDLE) / longest)
    size, entry = size * shrunk, LEGEND_HANDLE + longest * shrunk
    options = {"title": title, "fontsize": size, "handlelength": 3.0, "columnspacing": 1.4, "alignment": "left"}
    options["handler_map"] = {tuple: HandlerTuple(ndivide=None, pad=0)}
    if blank:
        grid = blank.get_subplotspec().get_gridspec()
        lines = len(entries) + (2 if title else 0)
        if entry < figure.get_figwidth() / grid.ncols and lines * LEGEND_LINE < figure.get_figheight() / grid.nrows:
            options["title"] = title and title.replace(", ", ",\n")
            blank.legend(list(entries.values()), list(entries), loc="center left", **options)
            return
    fitting = max(1, min(columns or 5, int(figure.get_figwidth() / entry)))
    rows = -(-len(entries) // fitting)
    options["ncols"] = fitting if columns else -(-len(entries) // rows)
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", **options)
    figure.set_figheight(min(HIGHEST, figure.get_figheight() + LEGEND_LINE * (rows + bool(title))))
