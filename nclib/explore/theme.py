"""Colors and type of the explorer: color-blind-safe, with a line style, marker or name beside each color."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_hex, to_rgb

from nclib.figures.style import COLORS, RunStyles

FIRST_COLOR = to_hex(COLORS[0])
TEXT_CONTRAST = 4.5  # to white, as WCAG 2 asks of text
INK, GREY, FAINT = "#222222", "#757575", "#d9d9d9"
# Tol's "muted" scheme without its gray, and a slate blue to make ten; with more classes they repeat with other markers.
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


def run_colors(names: Sequence[str]) -> dict[str, str]:
    """The color of each run of a study, by its place in the study's order, as in the figures of 04_figures.

    Where the figures tell the runs of a group by dashes alone (`mse_learned`, `mse_etf`), each run has its own color
    here, since dashes mean another thing.
    """
    styles = RunStyles.from_runs(names)
    if styles.groups is None:
        return {run: to_hex(color) for run, color in styles.colors.items()}
    return {run: to_hex(COLORS[place % len(COLORS)]) for place, run in enumerate(names)}


def shade(color: str) -> str:
    """A darker shade, for a second run of the same color, such as another seed."""
    return to_hex(0.5 * np.array(to_rgb(color)))


def text_color(color: str) -> str:
    """`color`, or as dark a shade of it as text on white needs."""
    rgb = np.array(to_rgb(color))
    while 1.05 / (_luminance(rgb) + 0.05) < TEXT_CONTRAST:
        rgb *= 0.95
    return to_hex(rgb)


def _luminance(rgb: np.ndarray) -> float:
    """Relative luminance of an sRGB color (WCAG 2)."""
    return float(np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722))


def class_style(k: int) -> tuple[str, str]:
    """Color and marker of class `k`; pairs are unique for 50 classes."""
    return CLASS_COLORS[k % len(CLASS_COLORS)], CLASS_MARKERS[k // len(CLASS_COLORS) % len(CLASS_MARKERS)]
