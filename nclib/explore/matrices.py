"""Cosines between class means and between classifier rows, beside those of the simplex ETF."""

from collections.abc import Hashable, Sequence

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from nclib.explore.canvas import Cells, State, View
from nclib.explore.run_data import RunData
from nclib.figures.gram import simplex_cosines

LEFT, TOP, PANEL, STEP = 52, 46, 164, 204  # pixels
LABELLED_CLASSES = 12  # more, or longer, names do not fit beside the cells
NAMES = {"gram_features": "class means", "gram_weight": "classifier"}


def prepare_cells(ax: Axes, names: Sequence[str]) -> None:
    """Limits of a K x K map with row 0 on top, and the class names beside it, if they fit."""
    K = len(names)
    ax.set(xlim=(-0.5, K - 0.5), ylim=(K - 0.5, -0.5))
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, pad=2)
    fit = K <= LABELLED_CLASSES and max(map(len, names)) <= 3
    ax.set_xticks(range(K) if fit else [], names if fit else None)
    ax.set_yticks(range(K) if fit else [], names if fit else None)


class MatricesView(View):
    """Cosine matrices: the first run's on the left, the ideal in the middle, the second run's on the right."""

    name, title, height = "matrices", "Cosines between class means and between classifier rows", 234

    def key(self, state: State) -> Hashable:
        return state.runs

    def build(self, state: State) -> None:
        self._panels: list[tuple[Cells, RunData, Float[np.ndarray, "e k k"]]] = []
        self._mapping = ScalarMappable(Normalize(-1, 1), "RdBu_r")
        self._draw_run(state.runs[0], 0, state.colors[0], ("gram_features", "gram_weight"))
        if len(state.runs) > 1:
            self._draw_run(state.runs[1], 3, state.colors[1], ("gram_weight", "gram_features"))
        if not state.known:
            return
        ax = self._axes(2, state.known[0], "simplex ETF")
        ideal = simplex_cosines(state.known[0].num_classes).numpy()
        ax.imshow(ideal, cmap=self._mapping.cmap, norm=self._mapping.norm, aspect="auto")
        end = 5 if len(state.runs) > 1 else 3
        place = self.axes(LEFT + end * STEP - 26, TOP, 8, PANEL)
        bar = self.figure.colorbar(self._mapping, cax=place, ticks=[-1, 0, 1])
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=2, pad=2)

    def _axes(self, place: int, data: RunData, title: str) -> Axes:
        ax = self.axes(LEFT + place * STEP, TOP, PANEL, PANEL)
        prepare_cells(ax, data.geometry.class_names)
        ax.set_title(title, pad=5)
        return ax

    def _draw_run(self, data: RunData, place: int, color: str, matrices: tuple[str, ...]) -> None:
        self.name_run(LEFT + place * STEP, 4, data, color)
        if data.geometry is None:
            self.explain_missing(LEFT + place * STEP, TOP, 2 * STEP - 50, data)
            return
        for offset, name in enumerate(matrices):
            cells = self.cells(self._axes(place + offset, data, NAMES[name]), self._mapping)
            self._panels.append((cells, data, getattr(data.geometry, name).numpy()))

    def move(self, state: State) -> None:
        for cells, data, values in self._panels:
            cells.values = values[data.position(state.epoch)]

    def caption(self, state: State) -> str:
        told = []
        for data in state.known:
            e, ideal = data.position(state.epoch), simplex_cosines(data.num_classes)
            away = [(getattr(data.geometry, name)[e] - ideal).abs().max() for name in NAMES]
            told.append(f"{data.label}: class means {away[0]:.3f}, classifier {away[1]:.3f}")
        return "Largest distance of a cosine from its ideal: " + "; ".join(told) + "." if told else ""
