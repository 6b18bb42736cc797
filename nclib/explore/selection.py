"""What the controls offer of the outputs, and the state that they say."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from nclib.explore import details
from nclib.explore.canvas import State
from nclib.explore.controls import Controls
from nclib.explore.pairs import PairsView
from nclib.explore.plane import CIRCLE, PRINCIPAL
from nclib.explore.run_data import LabelSet, RunData, load_run, runs, studies
from nclib.results.metrics_table import measured
from nclib.study.files import StageError
from nclib.study.study import ParameterError

THREE = "three"
NO_RUN = ""
LISTED_CLASSES = 40  # beyond, the pairs of single-label data are too many for a list


class Selection:
    """Keeps the controls at choices that there are: each `choose_...` offers what follows from one of them.

    Args:
        controls: the widgets; their callbacks are not its business.
        outputs: folder of all studies.
    """

    def __init__(self, controls: Controls, outputs: Path) -> None:
        self._controls, self._outputs = controls, outputs
        self._loaded: dict[tuple[str, str, int], RunData] = {}
        self._seeds: dict[str, tuple[int, ...]] = {}

    @property
    def state(self) -> State | None:
        """What the controls say; None if the study has no run."""
        c = self._controls
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

    @property
    def nothing(self) -> str:
        """Why there is no state, and what to do about it."""
        study = self._controls.study.value
        return f"{self._outputs / study} holds no training run yet: run the study first, e.g. {_how_to_run(study)}."

    def start(self, study: str, run: str, seed: int | None) -> None:
        """Offer all studies, and choose one with a run and seed.

        Raises:
            StageError: there is no folder of outputs, or other studies have a folder in it, but not this one.
            ParameterError: there is no such run or seed.
        """
        known = studies(self._outputs)
        if not self._outputs.is_dir():
            raise StageError(f"{self._outputs.resolve()} is no folder: is the path right, or no study run yet?")
        if known and not (self._outputs / study).is_dir():
            raise StageError(
                f"{self._outputs} has no study '{study}'; it has {', '.join(known)}. "
                f"To add a study, run it first, e.g. {_how_to_run(study)}."
            )
        self._check(study, run, seed)
        self._controls.study.options = known if study in known else [study, *known]
        self._controls.study.value = study
        self.choose_study(run, seed)

    def reload(self) -> None:
        """Read the outputs again: a training may have gone on."""
        self._loaded.clear()
        self._controls.study.options = studies(self._outputs) or [self._controls.study.value]
        self.choose_study()

    def _check(self, study: str, run: str, seed: int | None) -> None:
        found = runs(self._outputs / study)
        if found and run and run not in found:
            raise ParameterError(f"run: study '{study}' has no run '{run}'; it has {', '.join(found)}")
        run = run or next(iter(found), "")
        if found and seed is not None and seed not in found[run]:
            has = ", ".join(map(str, found[run]))
            raise ParameterError(f"seed: run '{run}' of study '{study}' has no seed {seed!r}; it has {has}")

    def choose_study(self, run: str = "", seed: int | None = None) -> None:
        c = self._controls
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
        self.choose_seed(last=True)

    def choose_runs(self) -> None:
        c = self._controls
        _offer(c.first_seed, self._seeds.get(c.first.value, ()), keep=True)
        _offer(c.second_seed, self._seeds.get(c.second.value, ()), keep=True)
        self.choose_seed()

    def choose_seed(self, *, last: bool = False) -> None:
        """Offer the epochs, classes, label sets and metrics that the chosen runs have."""
        c, state = self._controls, self.state
        if state is None:
            return
        epochs = state.epochs
        wanted = epochs[-1] if last or c.epoch.value is None else c.epoch.value
        c.set_epochs(epochs, max((e for e in epochs if e <= wanted), default=epochs[0]))
        tables = [data.metrics for data in state.runs if data.metrics is not None]
        metrics = dict.fromkeys(metric for table in tables for metric in measured(table))
        named = [(name if labels is None else f"{name}, {labels}", (name, labels)) for name, labels in metrics]
        _offer(c.metric, [("score", ""), *named], keep=True)
        c.set_maps([data.geometry.class_names if data.geometry is not None else () for data in state.runs])
        if state.known:
            self._offer_classes(state)

    def _offer_classes(self, state: State) -> None:
        c, known = self._controls, state.known
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
        self.choose_plane()
        self.choose_labels()

    def choose_plane(self) -> None:
        for corner in self._controls.corners:
            corner.disabled = self._controls.plane.value != THREE

    def choose_corner(self, place: int, before: int | None) -> None:
        """The corners stay three different classes: one that is taken swaps places."""
        corners = self._controls.corners
        for other, corner in enumerate(corners):
            if other != place and corner.value == corners[place].value:
                corner.value = before

    def choose_labels(self) -> None:
        """Show pictures of the chosen label set; they are the same at each epoch."""
        c, state = self._controls, self.state
        if not state.known or not c.labels.value:
            return
        data = state.known[0]
        try:
            images = details.sample_pictures(data, c.labels.value)
            c.show_samples(
                details.contact_sheet(images) if len(images) else b"",
                f"Training pictures of {data.name(c.labels.value)}",
            )
        except StageError as error:
            c.show_samples(b"", str(error))

    def _run(self, run: str, seed: int) -> RunData:
        key = (self._controls.study.value, run, seed)
        if key not in self._loaded:
            self._loaded[key] = load_run(self._outputs / key[0], run, seed)
        return self._loaded[key]


def _how_to_run(study: str) -> str:
    return f"make reproduce STUDY=params/{study}.yaml"


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
