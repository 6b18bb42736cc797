"""How figures look: type sizes, and color, dashes and marker of each run."""

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
# In order of falling contrast to white paper; the yellow and light blue of the palette come last.
COLORS = [sns.color_palette("colorblind")[i] for i in (0, 1, 2, 3, 4, 5, 7, 6, 9, 8)]
DASHES = ["", (4.0, 1.5), (1.0, 1.0), (3.0, 1.0, 1.0, 1.0), (6.0, 2.0), (5.0, 1.0, 1.0, 1.0, 1.0, 1.0)]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*"]
MARKERS_PER_LINE = 7
REFERENCE = {"dashes": (1, 2), "linewidth": 1.0}  # a predicted or ideal value
CUT = re.compile(r"(.+)-([A-Za-z]\w*=.*)|(.+)_(.+)")  # values of a sweep have dashes, too: lr=1e-05


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
    """Color, dashes and marker of each run of a study, the same in all its figures.

    Each run has its own color and marker. Runs named like `resnet18_learned`, `resnet18_etf`, ... form groups, in which
    dashes distinguish the variants; otherwise each run has its own dashes.

    `groups` has the group and the variant of each run; None if the names form no groups.
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
        variants = [groups[run][1] if groups else run for run in runs]
        order = list(dict.fromkeys(variants))
        return cls(
            {run: COLORS[place % len(COLORS)] for place, run in enumerate(runs)},
            {run: DASHES[order.index(name) % len(DASHES)] for run, name in zip(runs, variants, strict=True)},
            {run: MARKERS[place % len(MARKERS)] for place, run in enumerate(runs)},
            groups,
        )

    def line(self, run: str) -> Line2D:
        """An empty line of the run's look, with its name: an entry of a legend."""
        return Line2D(
            [],
            [],
            color=self.colors[run],
            linestyle=linestyle(self.dashes[run]),
            marker=self.markers[run],
            markeredgecolor="white",
            markeredgewidth=0.4,
            label=run,
        )


def linestyle(dashes: str | tuple[float, ...]) -> str | tuple[int, tuple[float, ...]]:
    """Dashes as matplotlib takes them."""
    return (0, dashes) if dashes else "-"


def group_names(runs: Sequence[str]) -> dict[str, tuple[str, str]] | None:
    """Split names like `vgg16_etf` into group and variant, if that makes at least two of each and variants recur.

    Names are cut before the last `-key=value` of a sweep, others at the last underscore.

    >>> group_names(["sgd", "adam", "lbfgs"]) is None
    True
    >>> group_names(["a-lr=1", "a-lr=2", "b-lr=1", "b-lr=2"])["b-lr=1"]
    ('b', 'lr=1')
    """
    cuts = [CUT.fullmatch(run) for run in runs]
    pairs = {cut.string: (cut[1] or cut[3], cut[2] or cut[4]) for cut in cuts if cut}
    groups, variants = ({pair[i] for pair in pairs.values()} for i in (0, 1))
    is_grid = len(pairs) == len(runs) and len(groups) > 1 and 1 < len(variants) < len(runs)
    return pairs if is_grid else None
