"""The widgets around the views: what is chosen, how it is laid out, and what happens when it changes.

What stands still goes into an `ipywidgets.Image`, what moves into an HTML widget over it, as SVG; nothing goes into an
Output, which is slow and can stall the execution of a notebook. Clicks on the K x K maps come from one ToggleButtons
widget laid over each of them, whose K² invisible buttons are the cells: core widgets only, so it works wherever
ipywidgets do, keyboard included.
"""

import base64
import html
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from nclib.explore import controls, details
from nclib.explore.canvas import State, View, stack
from nclib.explore.cloud import FeaturesView
from nclib.explore.curves import MetricsView
from nclib.explore.data import LabelSet, RunData, load_run, runs, studies
from nclib.explore.matrices import MatricesView
from nclib.explore.pairs import PairsView
from nclib.explore.plane import CIRCLE, PRINCIPAL
from nclib.explore.png import encode
from nclib.storage import StageError

THREE = "three"
NO_RUN = ""
LISTED_CLASSES = 40  # beyond, the pairs of single-label data are too many for a list


class Explorer:
    """A live look at the last layer of one or two training runs, epoch by epoch.

    Put it last in a notebook's cell. Without a kernel it is a picture of the last epoch.

    Args:
        study: the folder of a study's results, `outputs/STUDY`; the other studies beside it can be chosen, too.
        run, seed: what to show first, if it is there; beside it comes another run or seed.
        sharpness: picture pixels for each pixel of the layout; 2 suits screens of high density and takes longer.
    """

    def __init__(self, study: str | Path, *, run: str = "", seed: int = 0, sharpness: float = 1.0) -> None:
        study = Path(study)
        self._outputs, self._updating = study.parent, False
        self._loaded: dict[tuple[str, str, int], RunData] = {}
        self._drawn: dict[str, Hashable] = {}  # key of the still picture that each widget holds
        kinds = (MetricsView, MatricesView, FeaturesView, PairsView)
        self.views: dict[str, View] = {kind.name: kind(sharpness=sharpness) for kind in kinds}
        self.controls = controls.Controls([(view.name, view.title) for view in self.views.values()])
        self._wire()
        with self._quiet():
            known = studies(self._outputs)
            self.controls.study.options = known if study.name in known else [study.name, *known]
            self.controls.study.value = study.name
            self._choose_study(run, seed)
        self.redraw()

    # What is shown ----------------------------------------------------------------------------------------------

    @property
    def state(self) -> State | None:
        """What the controls say; None if the study has no run."""
        c = self.controls
        if not c.first.value:
            return None
        chosen = [(c.first.value, c.first_seed.value)]
        if c.second.value != NO_RUN:
            chosen.append((c.second.value, c.second_seed.value))
        plane = tuple(corner.value for corner in c.corners) if c.plane.value == THREE else c.plane.value or CIRCLE
        return State(
            runs=tuple(self._run(*which) for which in chosen),
            epoch=c.epoch.value or 0,
            plane=plane,
            labels=c.labels.value or (),
            metric=c.metric.value or None,
            log_values=c.log_values.value,
            log_epochs=c.log_epochs.value,
        )

    def picture(self, *names: str, **changes: Any) -> bytes:
        """Views one below the other, as PNG.

        Args:
            names: of the views: `metrics`, `matrices`, `features`, `pairs`; none means those that are switched on.
            changes: fields of the state to draw otherwise than the controls say, e.g. `epoch=0` or `plane=(0, 1, 2)`.

        Raises:
            StageError: there is no run to show.
            ValueError: no view is called so.
        """
        for name in names:
            if name not in self.views:
                raise ValueError(f"Expected a view of {', '.join(self.views)}, but got {name!r}.")
        state = self.state
        if state is None:
            raise StageError(self._nothing())
        state = replace(state, **changes)
        return stack([self.views[name].pixels(state).copy() for name in names or self._shown() or self.views])

    def redraw(self) -> None:
        """Bring every view that is switched on to the chosen state; what goes wrong is said above them."""
        c = self.controls
        try:
            state = self.state
            c.body.layout.display = "none" if state is None else ""
            if state is None:
                c.say(self._nothing())
                return
            for name in self._shown():
                if self._drawn.get(name) != self.views[name].key(state):
                    c.pictures[name].value = encode(self.views[name].still(state))
                    self._drawn[name] = self.views[name].key(state)
                c.overlays[name].value = self.views[name].overlay(state)
            for name in self._shown():
                c.captions[name].value = html.escape(self.views[name].caption(state))
            if "pairs" in self._shown():
                c.numbers.value = details.table(state.runs, state.labels, state.epoch)
            c.say(*dict.fromkeys(problem for data in state.runs for problem in data.problems))
            c.tell(epoch=state.epoch, runs=" | ".join(data.label for data in state.runs))
        except Exception as error:  # raised in a callback it would only reach a log that nobody looks at
            c.say(_words(error))
            c.tell(error=type(error).__name__)

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        bundle = self.controls.ui._repr_mimebundle_(**options)
        bundle = dict(bundle[0] if isinstance(bundle, tuple) else bundle)
        if self.state is not None:
            bundle["image/png"] = base64.b64encode(self.picture()).decode()
        return bundle

    def _shown(self) -> list[str]:
        return [name for name, switch in self.controls.switches.items() if switch.value]

    def _nothing(self) -> str:
        study = self.controls.study.value
        return (
            f"{self._outputs / study} holds no training run yet: run the study first, "
            f"e.g. make reproduce STUDY=params/{study}.yaml."
        )

    # What changes it --------------------------------------------------------------------------------------------

    def _wire(self) -> None:
        c = self.controls
        for box, action in (
            (c.study, self._choose_study),
            (c.first, self._choose_runs),
            (c.second, self._choose_runs),
            (c.first_seed, self._choose_seed),
            (c.second_seed, self._choose_seed),
            (c.plane, self._choose_plane),
            (c.labels, self._choose_labels),
            # Not linked in the browser: there, a link answers each change from here with one of its own.
            (c.epoch, lambda: setattr(c.play, "value", c.epoch.index)),
            (c.play, lambda: setattr(c.epoch, "index", c.play.value)),
            *((box, None) for box in (c.metric, c.log_values, c.log_epochs)),
        ):
            box.observe(self._on_change(action), "value")
        for name, switch in c.switches.items():
            switch.observe(self._on_change(lambda name=name: c.show(name)), "value")
        for place, corner in enumerate(c.corners):
            corner.observe(lambda change, place=place: self._swap_corner(place, change["old"]), "value")
        for cells in c.cells:
            cells.observe(self._click, "value")
        c.reload.on_click(lambda _: self._reload())

    def _on_change(self, action: Any) -> Any:
        def changed(_: dict) -> None:
            if self._updating:
                return
            try:
                with self._quiet():
                    if action is not None:
                        action()
            except Exception as error:  # see redraw
                self.controls.say(_words(error))
                self.controls.tell(error=type(error).__name__)
                return
            self.redraw()

        return changed

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Within it, controls that change each other cause no redraw."""
        before, self._updating = self._updating, True
        try:
            yield
        finally:
            self._updating = before

    def _run(self, run: str, seed: int) -> RunData:
        key = (self.controls.study.value, run, seed)
        if key not in self._loaded:
            self._loaded[key] = load_run(self._outputs / key[0], run, seed)
        return self._loaded[key]

    def _reload(self) -> None:
        """Read the outputs again: a training may have gone on."""
        self._loaded.clear()
        with self._quiet():
            self.controls.study.options = studies(self._outputs) or [self.controls.study.value]
        self._on_change(self._choose_study)({})

    def _choose_study(self, run: str = "", seed: int = 0) -> None:
        c = self.controls
        self._seeds = runs(self._outputs / c.study.value)
        names = list(self._seeds)
        _offer(c.first, names, otherwise=names.index(run) if run in names else 0)
        _offer(c.second, [("none", NO_RUN), *((name, name) for name in names)])
        seeds = self._seeds.get(c.first.value, ())
        _offer(c.first_seed, seeds, otherwise=seeds.index(seed) if seed in seeds else 0)
        if len(names) > 1:
            c.second.value = next(name for name in names if name != c.first.value)
        elif len(seeds) > 1:
            c.second.value = c.first.value
        else:
            c.second.value = NO_RUN
        _offer(c.second_seed, self._seeds.get(c.second.value, ()))
        if c.second.value == c.first.value:
            c.second_seed.value = next(other for other in seeds if other != c.first_seed.value)
        self._choose_seed(last=True)

    def _choose_runs(self) -> None:
        c = self.controls
        _offer(c.first_seed, self._seeds.get(c.first.value, ()), keep=True)
        _offer(c.second_seed, self._seeds.get(c.second.value, ()), keep=True)
        self._choose_seed()

    def _choose_seed(self, *, last: bool = False) -> None:
        """Offer the epochs, classes, label sets and metrics that the chosen runs have."""
        c, state = self.controls, self.state
        if state is None:
            return
        epochs = sorted({int(epoch) for data in state.runs for epoch in data.epochs}) or [0]
        wanted = epochs[-1] if last or c.epoch.value is None else c.epoch.value
        c.set_epochs(epochs, max((e for e in epochs if e <= wanted), default=epochs[0]))
        columns = dict.fromkeys(column for data in state.runs if data.metrics is not None for column in data.metrics)
        _offer(c.metric, [("score", ""), *((k, k) for k in columns if k not in ("epoch", "split"))], keep=True)
        known = [data for data in state.runs if data.geometry is not None]
        c.set_maps([data.geometry.class_names if data.geometry is not None else () for data in state.runs])
        if not known:
            return
        names = min((data.geometry.class_names for data in known), key=len)
        planes = [("all classes, as a circle", CIRCLE), ("principal axes of the class means", PRINCIPAL)]
        _offer(c.plane, planes + [("three classes", THREE)] * (len(names) > 2), keep=True)
        for place, corner in enumerate(c.corners):
            _offer(corner, [(name, k) for k, name in enumerate(names)], keep=True, otherwise=min(place, len(names) - 1))
        sets = _listed_sets(known)
        pair = next((labels for labels in sets if len(labels) == 2), sets[0])
        _offer(c.labels, [(known[0].name(labels), labels) for labels in sets], keep=True, otherwise=sets.index(pair))
        c.set_title(
            "pairs", PairsView.title if known[0].is_multi_label else "Angles of class means, less those of the ETF"
        )
        self._choose_plane()
        self._choose_labels()

    def _choose_plane(self) -> None:
        for corner in self.controls.corners:
            corner.disabled = self.controls.plane.value != THREE

    def _swap_corner(self, place: int, old: int | None) -> None:
        """The corners stay three different classes: one that is taken swaps places."""
        if self._updating:
            return
        corners = self.controls.corners
        with self._quiet():
            for other, corner in enumerate(corners):
                if other != place and corner.value == corners[place].value:
                    corner.value = old
        self.redraw()

    def _choose_labels(self) -> None:
        """Show pictures of the chosen label set; they are the same at each epoch."""
        c, state = self.controls, self.state
        data = next((data for data in state.runs if data.geometry is not None), None)
        if data is None or not c.labels.value:
            return
        try:
            images = details.sample_pictures(data, c.labels.value)
            c.show_samples(
                details.contact_sheet(images) if len(images) else b"",
                f"Training pictures of {data.name(c.labels.value)}",
            )
        except StageError as error:
            c.show_samples(b"", str(error))

    def _click(self, change: dict) -> None:
        """A cell of a map was clicked: choose its pair, and let go of the button, so that it can be clicked again."""
        if change["new"] is None:
            return
        labels = tuple(sorted(set(change["new"])))
        change["owner"].value = None
        c = self.controls
        if labels in [value for _, value in c.labels.options]:
            c.labels.value = labels
        else:
            c.say("The training data have no picture with exactly these labels.")


def _listed_sets(known: Sequence[RunData]) -> list[LabelSet]:
    """The label sets to choose from: those of the training data, and all pairs of single-label data."""
    found = {labels for data in known for labels in data.label_sets}
    K = min(data.num_classes for data in known)
    if not any(data.is_multi_label for data in known) and K <= LISTED_CLASSES:
        found |= set(combinations(range(K), 2))
    return sorted((labels for labels in found if max(labels) < K), key=lambda labels: (len(labels), labels))


def _offer(box: Any, options: Sequence[Any], *, keep: bool = False, otherwise: int = 0) -> None:
    """Set the options of a selection; its value stays if asked for and possible."""
    before, options = box.value, list(options)
    if list(box.options) != options:
        box.options = options
    values = [
        option[1] if isinstance(option, tuple) and len(option) == 2 and isinstance(option[0], str) else option
        for option in options
    ]
    box.value = before if keep and before in values else values[otherwise] if values else None
    box.disabled = len(options) < 2


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, StageError | ValueError) else f"{type(error).__name__}: {error}"
