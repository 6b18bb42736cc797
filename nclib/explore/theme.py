"""Colours and type of the explorer: colour-blind-safe, with a line style, marker or name beside each colour."""

from matplotlib.colors import to_hex

from nclib.figures.style import COLOURS

RUN_COLORS = (
    to_hex(COLOURS[0]),
    to_hex(COLOURS[3]),
)  # of the two runs that are compared; the palette's orange is too pale for text
INK, GREY, FAINT = "#222222", "#757575", "#d9d9d9"
IDEAL = "#009e73"  # what exact collapse looks like
# Tol's "muted" scheme without its grey, and a slate blue to make ten; with more classes they repeat with other markers.
CLASS_COLORS = (
    *("#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499", "#6f7fa8"),
)
CLASS_MARKERS = "os^Dv"
RC_PARAMS = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
}


def class_style(k: int) -> tuple[str, str]:
    """Colour and marker of class `k`; pairs are unique for 50 classes."""
    return CLASS_COLORS[k % len(CLASS_COLORS)], CLASS_MARKERS[k // len(CLASS_COLORS) % len(CLASS_MARKERS)]
