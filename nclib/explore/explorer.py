"""The widgets around the views, and what happens when one of them changes.

What stands still goes into an `ipywidgets.Image`, what moves into an HTML widget over it, as SVG; nothing goes into an
Output, which is slow and can stall the execution of a notebook. Clicks on the K x K maps come from one ToggleButtons
widget laid over each of them, whose K² invisible buttons are the cells: core widgets only, so it works wherever
ipywidgets do, keyboard included.
"""

import base64
import html
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from nclib.explore import controls, details
from nclib.explore.canvas import State, View, stack
from nclib.explore.cloud import FeaturesView
from nclib.explore.curves import MetricsView
from nclib.explore.matrices import MatricesView
from nclib.explore.pairs import PairsView
from nclib.explore.png import encode
from nclib.explore.selection import Selection
from nclib.study.files import StageError


class Explorer:
    """A live look at the last layer of one or two training runs, epoch by epoch.

    Put it last in a notebook's cell. Without a kernel it is a picture of the last epoch.

    Args:
        study: the folder of a study's results, `outputs/STUDY`; the other studies beside it can be chosen, too.
        run, seed: what to show first; without them, the study's first. Beside it comes another run or seed.

    Raises:
        StageError: there is no such folder. (Before any study has results, a study's missing folder in an existing
            folder of outputs is no error: the explorer then says how to run it.)
        ParameterError: the study has no such run, or the run no such seed.
    """

    def __init__(self, study: str | Path, *, run: str = "", seed: int | None = None) -> None:
        self._updating = False
        self._drawn: dict[str, Hashable] = {}  # key of the still picture that each widget holds
        kinds = (MetricsView, MatricesView, FeaturesView, PairsView)
        self.views: dict[str, View] = {kind.name: kind() for kind in kinds}
        self.controls = controls.Controls([(view.name, view.title) for view in self.views.values()])
        self._selection = Selection(self.controls, Path(study).parent)
        self._wire()
        with self._quiet():
            self._selection.start(Path(study).name, run, seed)
        self.redraw()

    @property
    def state(self) -> State | None:
        """What the controls say; None if the study has no run."""
        return self._selection.state

    def picture(self, *names: str, **changes: Any) -> bytes:
        """Views one below the other, as PNG; beside each run's name stands the epoch of its checkpoint.

        Args:
            names: of the views: `metrics`, `matrices`, `features`, `pairs`; none means those that are switched on.
            changes: fields of the state to draw otherwise than the controls say, e.g. `epoch=0` or `plane=(0, 1, 2)`.
                The epoch is one at which a run has a checkpoint; a run that has none there shows its last one before.

        Raises:
            StageError: there is no run to show.
            ValueError: no view is called so, or there is no checkpoint of this epoch.
        """
        for name in names:
            if name not in self.views:
                raise ValueError(f"Expected a view of {', '.join(self.views)}, but got {name!r}.")
        state = self.state
        if state is None:
            raise StageError(self._selection.nothing)
        state = replace(state, **changes)
        if "epoch" in changes and state.epoch not in state.epochs:
            raise ValueError(f"Expected an epoch of {', '.join(map(str, state.epochs))}, but got {state.epoch!r}.")
        return stack([self.views[name].pixels(state).copy() for name in names or self._shown() or self.views])

    def redraw(self) -> None:
        """Bring every view that is switched on to the chosen state; what goes wrong is said above them."""
        c = self.controls
        try:
            state = self.state
            c.body.layout.display = "none" if state is None else ""
            if state is None:
                c.say(self._selection.nothing)
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

    def _wire(self) -> None:
        c, chosen = self.controls, self._selection
        for box, action in (
            (c.study, chosen.choose_study),
            (c.first, chosen.choose_runs),
            (c.second, chosen.choose_runs),
            (c.first_seed, chosen.choose_seed),
            (c.second_seed, chosen.choose_seed),
            (c.plane, chosen.choose_plane),
            (c.labels, chosen.choose_labels),
            # Not linked in the browser: there, a link answers each change from here with one of its own.
            (c.epoch, lambda: setattr(c.play, "value", c.epoch.index)),
            (c.play, lambda: setattr(c.epoch, "index", c.play.value)),
            *((box, None) for box in (c.metric, c.log_values, c.log_epochs)),
        ):
            box.observe(self._on_change(action), "value")
        for name, switch in c.switches.items():
            switch.observe(self._on_change(lambda name=name: c.show(name)), "value")
        for place, corner in enumerate(c.corners):
            corner.observe(lambda change, place=place: self._corner_changed(place, change["old"]), "value")
        for cells in c.cells:
            cells.observe(self._click, "value")
        c.reload.on_click(self._on_change(chosen.reload))

    def _on_change(self, action: Any) -> Any:
        def changed(_: object) -> None:
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

    def _corner_changed(self, place: int, before: int | None) -> None:
        self._on_change(lambda: self._selection.choose_corner(place, before))(None)

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


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, StageError | ValueError) else f"{type(error).__name__}: {error}"
