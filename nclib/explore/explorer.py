"""The widget: Python chooses runs and sends them as arrays, `explorer.js` draws them and answers the reader."""

import base64
import gzip
import html
import io
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import anywidget
import matplotlib.pyplot as plt
import numpy as np
import traitlets

from nclib.explore.outputs import RunData, labels, load_run, runs, studies
from nclib.explore.payload import pack, run_payload
from nclib.explore.views import view_of
from nclib.figures.feature_plane import Plane
from nclib.study.files import StageError, atomic_path
from nclib.study.study import ParameterError

HERE = Path(__file__).parent
PICTURE_DPI = 130


class Explorer(anywidget.AnyWidget):
    """A live look at the last layer of one or two training runs, epoch by epoch.

    Put it last in a notebook's cell. Without a kernel it is an image of the last epoch; `save_html` writes a page that
    needs none.

    Args:
        study: the folder of a study's results, `outputs/STUDY`; the other studies beside it can be chosen, too.
        run, seed: what to show first; without them, the study's first. Beside it comes another run or seed.

    Attributes:
        choice: the study, `runs` ([run, seed] for each) and a count of the times they were read.
        shown: that choice, what else can be chosen, and the runs' arrays; replaced as a whole.

    Raises:
        ParameterError: the study has no such run, or the run no such seed.
    """

    _esm = HERE / "explorer.js"
    _css = HERE / "explorer.css"
    choice = traitlets.Dict().tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)

    def __init__(self, study: str | Path, *, run: str = "", seed: int | None = None) -> None:
        super().__init__()
        folder = Path(study)
        self._outputs, self._message, name = folder.parent, "", folder.name
        known = studies(self._outputs)
        if name not in known:
            self._message, run, seed = _nothing(folder), "", None
            name = known[0] if known else name
        self._load = lru_cache(maxsize=4)(self._read)
        self.choice = {"study": name, "runs": _first_choice(_choices(self._outputs / name), run, seed), "read": 0}
        self._show()
        self.observe(self._chosen, "choice")

    @property
    def runs(self) -> tuple[RunData, ...]:
        """The runs that are shown."""
        return self._data

    def picture(self, view: str = "features", *, epoch: int | None = None, plane: Plane = "circle") -> bytes:
        """A view as PNG, drawn by `nclib.figures`.

        Args:
            view: `metrics`, `features`, `matrices`, `pairs` or `margins`.
            epoch: of a checkpoint; each run shows its last one up to it. None: the last of each run.
            plane: of the features: `circle`, `principal` or three classes.

        Raises:
            StageError: there is nothing to show.
            ValueError: there is no such view or plane, or no run has a checkpoint of this epoch.
        """
        display = view_of(self._data, view, epoch=epoch, plane=plane)
        if display is None:
            raise StageError(self._message or "; ".join(p for data in self._data for p in data.problems))
        file = io.BytesIO()
        display.plot().figure_.savefig(file, format="png", dpi=PICTURE_DPI)
        plt.close(display.figure_)  # or a notebook would show it, too
        return file.getvalue()

    def save_html(self, path: str | Path) -> Path:
        """Write one file with every run and seed of the study, to be opened from disk, with all interaction.

        Raises:
            StageError: there is no run, or the file cannot be written.
        """
        study = self.choice["study"]
        if not self._data:
            raise StageError(self._message)
        choices, files = _choices(self._outputs / study), {}
        for _, run, seed in choices:
            _, files[f"{run}/{seed}"], shared = self._load(study, run, seed)
            files |= shared
        shown = {**self.shown, "catalog": {study: choices}, "runs": [], "files": {}}
        book = pack(shown, {name: np.frombuffer(file, np.uint8) for name, file in files.items()})
        parts = {"title": html.escape(f"{study} - neural collapse"), "css": self._css, "esm": self._esm}
        parts["book"] = base64.b64encode(gzip.compress(book, 6, mtime=0)).decode()
        text = (HERE / "page.html").read_text(encoding="utf-8").format(**parts)
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return Path(path)

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The live view where there is a kernel, an image everywhere else."""
        data, metadata = super()._repr_mimebundle_(**options)
        if any(run.geometry is not None for run in self._data):
            data = {**data, "image/png": base64.b64encode(self.picture()).decode()}
        return data, metadata

    def _read(self, study: str, run: str, seed: int) -> tuple[RunData, bytes, dict[str, bytes]]:
        data = load_run(self._outputs / study, run, seed)
        return data, *run_payload(data)

    def _chosen(self, change: Mapping[str, Any]) -> None:
        if change["new"].get("read") != change["old"].get("read"):  # a training may have gone on
            self._load.cache_clear()
        self._message = ""
        self._show()

    def _show(self) -> None:
        """Send what is chosen; a failure is sent in words, since an exception here would reach nobody."""
        study = self.choice.get("study", "")
        catalog = {name: _choices(self._outputs / name) for name in studies(self._outputs)}
        known = [(run, seed) for _, run, seed in catalog.get(study, ())]
        chosen = [(run, seed) for run, seed in self.choice.get("runs") or () if (run, seed) in known]
        chosen = chosen or _first_choice(catalog.get(study, []))
        loaded, message = [], self._message
        try:
            loaded = [self._load(study, run, seed) for run, seed in chosen]
        except Exception as error:
            message = f"{study} cannot be shown: {type(error).__name__}: {error}"
        self._data = tuple(data for data, *_ in loaded)
        self._message = message if loaded or message else _nothing(self._outputs / study)
        self.shown = {
            "study": study,
            "chosen": chosen,
            "read": self.choice.get("read", 0),
            "catalog": catalog,
            "message": self._message,
            "controls": (HERE / "explorer.html").read_text(encoding="utf-8"),
            "runs": [payload for _, payload, _ in loaded],
            "files": {name: file for *_, files in loaded for name, file in files.items()},
        }


def _choices(study: Path) -> list[tuple[str, str, int]]:
    """Label, run and seed of all that can be chosen."""
    names = labels(study)
    return [(f"{names[run]}, seed {seed}", run, seed) for run, seeds in runs(study).items() for seed in seeds]


def _first_choice(choices: list[tuple[str, str, int]], run: str = "", seed: int | None = None) -> list[tuple[str, int]]:
    """The first run and seed that fit, and beside it the first of another run, or of another seed."""
    known = [(name, other) for _, name, other in choices]
    fitting = [which for which in known if run in ("", which[0]) and seed in (None, which[1])]
    if known and not fitting:
        has = ", ".join(f"{name} with seed {other}" for name, other in known)
        raise ParameterError(f"run, seed: there is no run '{run}' with seed {seed}, but {has}")
    others = [which for which in known if which[0] != fitting[0][0]] + [which for which in known if which != fitting[0]]
    return [*fitting[:1], *others[:1]]


def _nothing(study: Path) -> str:
    how = f"make reproduce STUDY=params/{study.name}.yaml"
    return f"{study} holds no training run yet. Run the study first, e.g. {how}."
