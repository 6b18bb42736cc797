"""How figures look: type sizes, and label, color, dashes and marker of each run."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib import font_manager
from matplotlib.lines import Line2D

# DejaVu Sans comes with matplotlib; of the others, which have Chinese, Japanese and Korean, one may be installed
FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "Droid Sans Fallback")
FONTS += ("WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "IPAexGothic", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic")
FONTS += ("PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Arial Unicode MS", "Unifont")
TEXT_WIDTH = 6.75  # inches: the width of both papers' text
HIGHEST = 4.5  # inches: of any figure
RC = {
    "font.family": [name for name in FONTS if name in font_manager.get_font_names()],
    "font.size": 8,
    "axes.titlesize": 8.0,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.title_fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.4,
    "grid.color": "0.88",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "mathtext.fontset": "dejavusans",
    "figure.dpi": 130,
}
# In order of falling contrast to white paper; the yellow and light blue of the palette come last.
COLORS = [sns.color_palette("colorblind")[i] for i in (0, 1, 2, 3, 4, 5, 7, 6, 9, 8)]
DASHES = ["", (4.0, 1.5), (1.0, 1.0), (3.0, 1.0, 1.0, 1.0), (6.0, 2.0), (5.0, 1.0, 1.0, 1.0, 1.0, 1.0)]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*"]
MOST = len(MARKERS)  # runs that can be told apart; more are lines of a color gradient,
NAMED = 6  # of which so many are in the legend
GRADIENT = "flare"  # of what has an order: it also reads in gray
MARKERS_PER_LINE = 7
REFERENCE = {"linestyle": (0, (1, 2)), "linewidth": 1.0}  # a predicted or ideal value
NOTE = {"fontsize": 6.5, "color": "0.3"}
CUT = re.compile(r"(.+), (.+)|(.+)_(.+)")


@contextmanager
def style() -> Iterator[None]:
    """Within it, figures are drawn with the type sizes and lines of this package."""
    with sns.axes_style("ticks", {"axes.grid": True}):
        # not `mpl.rc_context`: it would also undo the interactive mode that Jupyter turns on at the first figure, and
        # no later figure of a notebook would show
        before = {key: mpl.rcParams[key] for key in RC}
        mpl.rcParams.update(RC)
        try:
            yield
        finally:
            mpl.rcParams.update(before)


@dataclass(frozen=True)
class RunStyles:
    """Label, color, dashes and marker of each run of a study, the same in all its figures.

    Each of up to `MOST` runs has its own color and marker; more have colors of a gradient, in their order. Runs called
    like `VGG-16, learned` and `VGG-16, ETF` (or `vgg16_learned`, ...) form groups, in which dashes distinguish the
    variants; otherwise each run has its own dashes.

    `groups` has the group and the variant of each run; None if the labels form no groups.
    """

    labels: dict[str, str]
    colors: dict[str, tuple[float, float, float]]
    dashes: dict[str, str | tuple[float, ...]]
    markers: dict[str, str]
    groups: dict[str, tuple[str, str]] | None = None

    @classmethod
    def from_runs(cls, runs: Iterable[str] | Mapping[str, str]) -> "RunStyles":
        """Choose a style for each run, the same for the same names in the same order.

        Args:
            runs: their names, or their labels by name.

        >>> RunStyles.from_runs(["vgg16_learned", "vgg16_etf", "vgg19_learned", "vgg19_etf"]).groups["vgg19_etf"]
        ('vgg19', 'etf')
        """
        labels = dict(runs) if isinstance(runs, Mapping) else {run: run for run in runs}
        few = len(labels) <= MOST
        colors = COLORS if few else sns.color_palette(GRADIENT, len(labels))
        groups = group_names(labels)
        variants = list(dict.fromkeys(groups[run][1] if groups else run for run in labels))
        dash_of = {run: variants.index(groups[run][1] if groups else run) for run in labels}
        return cls(
            labels,
            {run: colors[place % len(colors)] for place, run in enumerate(labels)},
            {run: DASHES[dash_of[run] % len(DASHES)] if few else "" for run in labels},
            {run: MARKERS[place] if few else "" for place, run in enumerate(labels)},
            groups,
        )

    @classmethod
    def from_order(cls, names: Sequence[str]) -> "RunStyles":
        """For lines that are no runs but have an order: colors of a gradient."""
        colors = dict(zip(names, sns.color_palette(GRADIENT, len(names)), strict=True))
        return replace(cls.from_runs(names), colors=colors)

    def renamed(self, runs: Mapping[str, str]) -> "RunStyles":
        """The styles of some runs under other names: name -> run."""
        looks = ({name: look[run] for name, run in runs.items()} for look in (self.colors, self.dashes, self.markers))
        return RunStyles({name: name for name in runs}, *looks)

    def legend(self, runs: Sequence[str], seeds: int) -> tuple[dict[str, Line2D], str | None]:
        """The entries of a legend, by run, and its title; of many runs some are named."""
        if len(runs) > MOST:
            return {run: self.line(run) for run in spread(runs, NAMED)}, f"{NAMED} of {len(runs)} runs, in order"
        title = f"mean of {seeds} seeds, band: smallest to largest" if seeds > 1 else None
        return {run: self.line(run) for run in runs}, title

    def look(self, run: str) -> dict[str, Any]:
        """How a run's line looks, and its label: options of `axes.plot`."""
        return {
            "color": self.colors[run],
            "linestyle": linestyle(self.dashes[run]),
            "marker": self.markers[run],
            "markeredgecolor": "white",
            "markeredgewidth": 0.4,
            "linewidth": None if self.markers[run] else 0.7,
            "label": self.labels[run],
        }

    def line(self, run: str) -> Line2D:
        """An empty line of the run's look: an entry of a legend."""
        return Line2D([], [], **self.look(run))


def spread(items: Sequence[str], most: int) -> list[str]:
    """At most so many items, evenly spaced, the first and the last among them.

    >>> spread(["a", "b", "c", "d", "e"], 3)
    ['a', 'c', 'e']
    """
    return [
        items[place] for place in np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int))
    ]


def linestyle(dashes: str | tuple[float, ...]) -> str | tuple[int, tuple[float, ...]]:
    """Dashes as matplotlib takes them."""
    return (0, dashes) if dashes else "-"


def group_names(labels: Mapping[str, str]) -> dict[str, tuple[str, str]] | None:
    """Split labels into group and variant, if that makes at least two of each and variants recur.

    They are cut at the last comma, others at the last underscore.

    >>> group_names({"sgd": "SGD", "adam": "Adam"}) is None
    True
    >>> group_names({run: run for run in ("a, lr=1", "a, lr=2", "b, lr=1", "b, lr=2")})["b, lr=1"]
    ('b', 'lr=1')
    """
    cuts = {run: CUT.fullmatch(label) for run, label in labels.items()}
    pairs = {run: (cut[1] or cut[3], cut[2] or cut[4]) for run, cut in cuts.items() if cut}
    groups, variants = ({pair[i] for pair in pairs.values()} for i in (0, 1))
    is_grid = len(pairs) == len(labels) and len(groups) > 1 and 1 < len(variants) < len(labels)
    return pairs if is_grid else None
