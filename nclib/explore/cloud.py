"""Features in a plane with class means, classifier and tag-wise averages; and the distribution of cosine margins."""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import IdentityTransform

from nclib.explore.canvas import State, View
from nclib.explore.plane import CIRCLE, Plane, Projection, project
from nclib.explore.run_data import RunData
from nclib.explore.theme import FAINT, GREY, INK, class_style

TOP, PANEL = 30, 340  # pixels
LOWEST_MARGIN = -2.0  # smaller ones, as single pictures of an untrained network have, lie at the lower edge
NAMED_CLASSES = 20
COLORED_SETS = 12  # more label sets in one plane, and only those of one label keep a color


def reach(plane: Plane, num_classes: int) -> float:
    """Half the width of the axes, in units of the class means' distance from their centre.

    The corners of a simplex ETF lie at sqrt(2/(K-1)) in the circle, at sqrt(2K/(K-1)/3) in the plane of three classes.
    """
    if plane == CIRCLE:
        return 1.8 * np.sqrt(2 / max(num_classes - 1, 2))
    return 1.35


class FeaturesView(View):
    """Two planes with the same scale, one a run, and the margins of both runs in one panel."""

    name, title, height = "features", "Features, class means and classifier", 396

    def key(self, state: State) -> Hashable:
        return state.runs, state.plane

    def build(self, state: State) -> None:
        self._clouds: list[_Cloud] = []
        for place, (data, color) in enumerate(zip(state.runs, state.colors, strict=True)):
            left = 8 + place * (PANEL + 20)
            self.name_run(left, 6, data, color)
            if data.geometry is None:
                self.explain_missing(left, TOP, PANEL - 20, data)
            else:
                ax = self.axes(left, TOP, PANEL, PANEL)
                edge = reach(state.plane, state.num_classes)
                ax.set(xlim=(-edge, edge), ylim=(-edge, edge), xticks=[], yticks=[])
                ax.spines[:].set(visible=True, color=FAINT)
                self._clouds.append(_Cloud(self, ax, data, project(data, state.plane)))
        if self._clouds:
            self._draw_legend(pairs=any(cloud.seen.pairs for cloud in self._clouds))
            self._draw_margins([item for item in zip(state.runs, state.colors, strict=True) if item[0].geometry])

    def _draw_legend(self, *, pairs: bool) -> None:
        gray = {"color": GREY, "ls": ""}
        handles = [
            Line2D([], [], marker=".", ms=5, label="training picture", **gray),
            Line2D([], [], marker="o", ms=8, mec="white", label="class mean", **gray),
            Line2D([], [], color=INK, lw=1.3, label="classifier row"),
        ]
        if pairs:
            handles.append(Line2D([], [], marker="D", ms=4, mec=INK, mew=0.8, label="pair mean", **gray))
            handles.append(Line2D([], [], marker="s", ms=7, mfc="none", mec=INK, ls="", label="tag-wise average"))
        place = (8 / self.width, 1 - (TOP + PANEL + 4) / self.height)
        settings = {
            "ncols": len(handles),
            "handletextpad": 0.3,
            "columnspacing": 1.5,
            "borderaxespad": 0,
            "borderpad": 0,
        }
        self.figure.legend(handles=handles, loc="upper left", bbox_to_anchor=place, frameon=False, **settings)

    def _draw_margins(self, runs: list[tuple[RunData, str]]) -> None:
        left, self._curves = 790, []
        self.text(left - 32, 6, "Cosine margins of the one-label training pictures")
        ax = self.axes(left, TOP, 290, PANEL - 14)
        ideal = max(data.num_classes / (data.num_classes - 1) for data, _ in runs)
        low = min(float(data.margins.min(initial=0)) for data, _ in runs)
        ax.set(xlim=(0, 100), ylim=(max(low, LOWEST_MARGIN) - 0.05, ideal + 0.15))
        ax.set_xlabel("pictures, sorted by margin [%]", labelpad=2)
        ax.grid(color=FAINT, lw=0.5)
        ax.axhline(0, color=GREY, lw=0.8)
        ax.axhline(ideal, color=INK, lw=1.2, ls=(0, (4, 2)))
        ax.text(99, ideal + 0.02, "exact collapse", color=INK, ha="right", va="bottom", fontsize=8)
        for data, color in runs:
            x = np.linspace(0, 100, data.margins.shape[1])
            self._curves.append((self.moving(ax.plot(x, np.zeros_like(x), color=color, lw=1.8)[0]), data))

    def move(self, state: State) -> None:
        for cloud in self._clouds:
            cloud.move(state.epoch)
        for line, data in self._curves if self._clouds else ():
            line.set_ydata(data.margins[data.position(state.epoch)].clip(min=LOWEST_MARGIN))

    def caption(self, state: State) -> str:
        told = []
        for data in (data for data in state.known if data.margins.size):
            margins = data.geometry.margins[data.position(state.epoch)]
            told.append(f"{data.label}: lowest {margins.min():.2f}, mean {margins.mean():.2f}")
        return "Cosine margin: " + "; ".join(told) + "." if told else ""


class _Cloud:
    """The artists of one run's plane."""

    def __init__(self, view: View, ax: Axes, data: RunData, seen: Projection) -> None:
        self.data, self.seen, self._edge = data, seen, ax.get_xlim()[1]
        self._groups = []
        for color, chosen in _groups(data, seen):
            points = ax.plot([], [], "o", ms=2.4, color=color, alpha=0.55, mew=0)[0]
            self._groups.append((view.moving(points), chosen))
        self._arrows = view.moving(ax.plot([], [], color=INK, lw=1.3, solid_capstyle="round")[0])
        edge = {"ls": "", "mec": INK, "mew": 0.8}
        self._averages = view.moving(ax.plot([], [], marker="s", ms=7, mfc="none", **edge)[0])
        self._pairs = view.moving(ax.plot([], [], marker="D", ms=3.4, color=GREY, **edge)[0])
        self._means = []
        styles = [class_style(k) for k in seen.classes]
        for marker in dict.fromkeys(marker for _, marker in styles):
            members = [place for place, (_, own) in enumerate(styles) if own == marker]
            colors = [styles[place][0] for place in members]
            drawn = ax.scatter(
                *np.zeros((2, len(members))), 62, colors, marker=marker, linewidths=1, edgecolors="white"
            )
            self._means.append((view.moving(drawn), members))
        self._names = None
        if len(seen.classes) <= NAMED_CLASSES:
            self._names = view.moving(_Names(ax, [data.geometry.class_names[k] for k in seen.classes]))

    def move(self, epoch: int) -> None:
        e, seen = self.data.position(epoch), self.seen
        for points, chosen in self._groups:
            points.set_data(*seen.points[e, chosen].T)
        gap = np.full(2, np.nan)
        self._arrows.set_data(*np.stack([p for tip in seen.tips[e] for p in (seen.origin[e], tip, gap)]).T)
        self._averages.set_data(*seen.averages[e].T)
        self._pairs.set_data(*seen.pair_means[e].T)
        for means, members in self._means:
            means.set_offsets(seen.means[e, members])
        if self._names is not None:
            away = seen.means[e] - seen.origin[e]
            away /= np.linalg.norm(away, axis=-1, keepdims=True).clip(1e-9)
            self._names.put(seen.means[e], away)


def _groups(data: RunData, seen: Projection) -> Iterator[tuple[tuple[float, ...], Bool[np.ndarray, " n"]]]:
    """Colors of the points: those of their classes, mixed; gray for several labels where that would be a muddle."""
    labels = data.geometry.sample_labels.numpy()[seen.shown]
    sets = np.unique(labels, axis=0)
    muddle = labels.sum(1) > 1 if len(sets) > COLORED_SETS else np.zeros(len(labels), bool)
    if muddle.any():
        yield to_rgb(GREY), muddle
    colors = np.array([to_rgb(class_style(k)[0]) for k in range(data.num_classes)])
    for row in np.unique(labels[~muddle], axis=0):
        yield tuple(colors[row.astype(bool)].mean(0)), (labels == row).all(1)


class _Names(PathPatch):
    """Class names as one path: matplotlib draws it more than 20 times as fast as as many texts."""

    def __init__(self, ax: Axes, names: Sequence[str]) -> None:
        letters = [TextPath((0, 0), name, size=8 * ax.figure.dpi / 72) for name in names]
        boxes = [path.get_extents() for path in letters]
        self._shapes = [
            path.vertices - [(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2]
            for path, box in zip(letters, boxes, strict=True)
        ]
        self._gap = 6 * ax.figure.dpi / 72  # from the middle of a disc to the name, in pixels
        self._halves = np.array([[box.width, box.height] for box in boxes]) / 2
        codes = np.concatenate([path.codes for path in letters])
        super().__init__(Path(np.zeros((len(codes), 2)), codes), transform=IdentityTransform(), color=INK, lw=0)
        ax.add_artist(self)

    def put(self, places: Float[np.ndarray, "k 2"], sides: Float[np.ndarray, "k 2"]) -> None:
        """Move each name beside a place in data coordinates, on the side that a unit vector points to."""
        pixels = self.axes.transData.transform(places) + sides * (self._gap + self._halves)
        self.get_path().vertices = np.concatenate([s + at for s, at in zip(self._shapes, pixels, strict=True)])
