"""Paper 1's concept figure, from data: features of three classes and of their pairs in one plane."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from nclib.data.compose import LabelSet
from nclib.figures.descent_plane import FAINT, GRAY, label_set_marker
from nclib.figures.display import Display
from nclib.figures.feature_plane import plane_axes
from nclib.figures.layout import add_legend, drawable
from nclib.figures.style import TEXT_WIDTH
from nclib.results.geometry import Geometry
from nclib.results.study_results import StudyResults

SMALL, LARGE, RING = 3.0, 6.5, 11.0  # points: a feature, a mean, a tag-wise average
RING_LOOK = {"color": "none", "markeredgecolor": GRAY}


@dataclass
class TagWisePlane(Display):
    """Features with one and with two labels in the plane of three classes, before and after the collapse.

    Small marks are features, large ones the means of their label sets: a color and a shape for each class, a diamond of
    both colors for a pair. Rings are the tag-wise averages `C_2 (mu_i + mu_j)` with the fitted scale. At collapse all
    features of a class lie at a corner of the triangle, and all of a pair in its ring.

    The plane is that of the triangle of the class means. The projection onto it is linear, so that sums stay sums; the
    cross is the origin.

    Args:
        geometry: of a run; at least one label set has two labels.
        checkpoints: places in `geometry.epochs`, one panel for each.
    """

    SEEN = (
        "{study}, first run: features of three classes and of their pairs (small), means (large) and tag-wise averages "
        "(rings), before and after training; at exact collapse all features of a pair lie in its ring."
    )
    geometry: Geometry
    checkpoints: Sequence[int] = (0, -1)

    @classmethod
    def from_results(cls, results: StudyResults) -> "TagWisePlane":
        """The first run with the study's first seed, at its first and its last checkpoint."""
        return cls(results.geometry(results.runs[0], results.seeds[0]))

    def _draw(self) -> None:
        g = self.geometry
        sets = set(g.label_set_counts())
        # three classes with as many pairs among them as there are: three, where all pairs occur
        K = len(g.class_names)
        classes = max(combinations(range(K), min(3, K)), key=lambda some: len(sets & {*combinations(some, 2)}))
        shown = [labels for m in (1, 2) for labels in combinations(classes, m) if labels in sets]
        self._subplots(1, len(self.checkpoints), (TEXT_WIDTH / 2 * len(self.checkpoints), 3.0))
        for axes, checkpoint in zip(self.axes_, self.checkpoints, strict=True):
            self._draw_plane(axes, checkpoint, classes, shown)
        names = drawable(g.class_names)
        entries = {" and ".join(names[k] for k in s): Line2D([], [], **_marker(classes, s, LARGE)) for s in shown}
        gray = {"linestyle": "none", "marker": "o", "color": "0.7"}
        entries["one image"] = Line2D([], [], markersize=SMALL, **gray)
        entries["mean"] = Line2D([], [], markersize=LARGE, markeredgecolor="black", **gray)
        entries["$C_2(\\mu_i + \\mu_j)$"] = Line2D([], [], markersize=LARGE, **gray | RING_LOOK)
        add_legend(self.figure_, entries)

    def _draw_plane(self, axes: Axes, checkpoint: int, classes: Sequence[int], shown: Sequence[LabelSet]) -> None:
        g = self.geometry
        means = g.class_means[checkpoint].double().numpy()
        vertices = np.stack([np.zeros(means.shape[1]), *means[list(classes)]])[-3:]  # of two classes: with the origin
        frame = plane_axes(vertices, (0, 1, 2))
        corners = means @ frame
        features = g.sample_features[checkpoint].double().numpy() @ frame
        set_means = g.set_means[checkpoint].double().numpy() @ frame
        places = {labels: place for place, labels in enumerate(g.label_set_counts())}
        axes.plot(*corners[[*classes, classes[0]]].T, color=FAINT, linewidth=0.8, zorder=1)
        points = []
        for labels in shown:
            hot = np.isin(np.arange(len(means)), labels)
            own = features[(g.sample_labels.numpy().astype(bool) == hot).all(1)]
            axes.plot(*own.T, **_marker(classes, labels, SMALL), alpha=0.7)
            mean = set_means[places[labels]]
            axes.plot(*mean, **_marker(classes, labels, LARGE) | {"markeredgecolor": "black", "zorder": 9})
            points += [own, mean[None]]
            if len(labels) == 2:
                ring = g.scales[checkpoint, 1].item() * corners[list(labels)].sum(0)
                axes.plot(*np.stack([np.zeros(2), ring]).T, color=FAINT, linewidth=0.8, linestyle=":", zorder=1)
                axes.plot(*ring, marker="o", markersize=RING, zorder=10, **RING_LOOK)
                points.append(ring[None])
        points = np.concatenate(points)
        low, high = points.min(0), points.max(0)
        middle, reach = (low + high) / 2, 0.56 * (high - low).max()
        axes.plot(0, 0, marker="+", color=GRAY, markersize=7, zorder=2)
        axes.set(xlim=middle[0] + np.array([-reach, reach]), ylim=middle[1] + np.array([-reach, reach]))
        axes.set(aspect="equal", xticks=[], yticks=[], title=f"epoch {g.epochs[checkpoint]}")
        axes.grid(False)


def _marker(classes: Sequence[int], labels: Sequence[int], size: float) -> dict:
    return label_set_marker([classes.index(k) for k in labels], size=size)
