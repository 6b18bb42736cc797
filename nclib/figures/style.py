"""How figures look: type sizes, and color, dash and marker of each run."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl
import seaborn as sns
from matplotlib.lines import Line2D

TEXT_WIDTH = 6.75  # inches: the width of both papers' text
RC = {
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
# In print the order is of falling contrast to the paper; the yellow and light blue of the palette come last.
COLOURS = [sns.color_palette("colorblind")[i] for i in (0, 1, 2, 3, 4, 5, 7, 6, 9, 8)]
DASHES = ["", (4, 1.5), (1, 1), (3, 1, 1, 1), (6, 2), (5, 1, 1, 1, 1, 1)]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*"]
MARKS_A_LINE = 7
SWEPT = re.compile(r"-(?=[A-Za-z]\w*=)")  # begins each `-key=value` of a sweep; values have dashes, too: lr=1e-05


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
    """Color, dashes and marker of each run of a study.

    Runs named like `resnet18_learned`, `resnet18_etf`, ... form groups: color and marker tell the group, dashes the
    variant (from the seventh on, dashes recur with another marker). Otherwise each run differs in all three.

    Args:
        colors, dashes, markers: by run.
        groups: the group and the variant of each run; None if the names form no groups.
    """

    colors: dict[str, tuple[float, float, float]]
    dashes: dict[str, str | tuple[float, ...]]
    markers: dict[str, str]
    groups: dict[str, tuple[str, str]] | None = None

    @classmethod
    def from_runs(cls, runs: Sequence[str]) -> "RunStyles":
        """Choose a style for each run, the same for the same names in the same order.

        >>> RunStyles.from_runs(["vgg16_learned", "vgg16_etf", "vgg19_learned", "vgg19_etf"]).groups["vgg19_etf"]
        ('vgg19', 'etf')
        """
        groups = group_names(runs)
        if groups is None:
            places = {run: (place, place, place) for place, run in enumerate(runs)}
        else:
            first, second = (list(dict.fromkeys(pair[i] for pair in groups.values())) for i in (0, 1))
            places = {}
            for run, (group, variant) in groups.items():
                color, dash = first.index(group), second.index(variant)
                places[run] = (color, dash, color + dash // len(DASHES) * len(first))
        return cls(
            {run: COLOURS[place % len(COLOURS)] for run, (place, _, _) in places.items()},
            {run: DASHES[place % len(DASHES)] for run, (_, place, _) in places.items()},
            {run: MARKERS[place % len(MARKERS)] for run, (_, _, place) in places.items()},
            groups,
        )

    def line(self, run: str, label: str | None = None) -> Line2D:
        """A line to show in a legend."""
        dashes = self.dashes[run]
        drawn = Line2D([], [], color=self.colors[run], marker=self.markers[run], label=label or run)
        drawn.set(markeredgecolor="white", markeredgewidth=0.4)
        if dashes:
            drawn.set_dashes(dashes)
        return drawn


def group_names(runs: Sequence[str]) -> dict[str, tuple[str, str]] | None:
    """Split names like `vgg16_etf` into group and variant, if that makes at least two of each.

    Names of a sweep are cut before a `-key=value` only: the first for which there are groups.

    >>> group_names(["sgd", "adam", "lbfgs"]) is None
    True
    >>> group_names(["a-lr=1", "a-lr=2", "b-lr=1", "b-lr=2"])["b-lr=1"]
    ('b', 'lr=1')
    """
    for parts in _sweep_cuts(runs) if any("=" in run for run in runs) else _cuts(runs):
        groups, variants = ({pair[i] for pair in parts.values()} for i in (0, 1))
        if all(map(all, parts.values())) and len(groups) > 1 and 1 < len(variants) < len(runs):
            return parts
    return None


def _cuts(runs: Sequence[str]) -> Iterator[dict[str, tuple[str, str]]]:
    """Each run's name cut at its last and at its first underscore or dash."""
    for cut in (str.rpartition, str.partition):
        for mark in ("_", "-"):
            yield {run: cut(run, mark)[::2] for run in runs}


def _sweep_cuts(runs: Sequence[str]) -> Iterator[dict[str, tuple[str, str]]]:
    """Each run's name cut before its first, second, ... `-key=value`."""
    parts = {run: SWEPT.split(run) for run in runs}
    for place in range(1, max(map(len, parts.values()))):
        yield {run: ("-".join(part[:place]), "-".join(part[place:])) for run, part in parts.items()}
