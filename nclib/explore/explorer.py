"""The widget: Python chooses runs and sends them as arrays, `explorer.js` draws them and answers the reader."""

import base64
import gzip
import html
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import anywidget
import matplotlib.pyplot as plt
import numpy as np
import traitlets
from matplotlib.figure import Figure
from PIL import Image

from nclib.explore.outputs import RunData, load_run, runs, studies
from nclib.explore.payload import color_maps, pack, run_payload
from nclib.figures.feature_plane import Plane
from nclib.figures.run_views import VIEWS, draw_view
from nclib.study.files import StageError, atomic_path
from nclib.study.study import ParameterError

HERE = Path(__file__).parent
KEPT_VIEWS = ("features",)  # in an executed notebook; the others take up to seconds to draw
PICTURE_DPI = 130
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{css}</style></head>
<body class="nc-page"><main id="explorer"></main>
<script type="text/plain" id="book">{book}</script>
<script type="module">
{esm}
openBook(document.getElementById("explorer"), document.getElementById("book").textContent);
</script></body></html>
"""


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
        self._outputs, self._data = folder.parent, ()
        self._message, name = "", folder.name
        known = studies(self._outputs)
        if name not in known:
            self._message = _nothing(folder)
            name = known[0] if known else name
            run, seed = "", None
        self._load = lru_cache(maxsize=4)(self._read)
        self.choice = {"study": name, "runs": _first_choice(runs(self._outputs / name), name, run, seed), "read": 0}
        self._show()
        self.observe(self._chosen, "choice")

    @property
    def runs(self) -> tuple[RunData, ...]:
        """The runs that are shown."""
        return self._data

    def picture(self, *views: str, epoch: int | None = None, plane: Plane = "circle") -> bytes:
        """Views one below the other as PNG, drawn by `nclib.figures`.

        Args:
            views: `metrics`, `features`, `matrices`, `pairs`, `margins`; none means all.
            epoch: of a checkpoint; None: the last of each run.
            plane: of the features: `circle`, `principal` or three classes.

        Raises:
            StageError: there is nothing to show.
            ValueError: no view is called so, no run has a checkpoint of this epoch, or there is no such plane.
        """
        for view in views:
            if view not in VIEWS:
                raise ValueError(f"Expected a view of {', '.join(VIEWS)}, but got {view!r}.")
        epochs = sorted({int(e) for data in self._data if data.geometry for e in data.geometry.epochs})
        if epoch is not None and epoch not in epochs:
            raise ValueError(f"Expected an epoch of {', '.join(map(str, epochs))}, but got {epoch!r}.")
        tables = {data.label: data.metrics for data in self._data if data.metrics is not None}
        known = {data.label: data.geometry for data in self._data if data.geometry is not None}
        displays = (draw_view(view, known, tables, epoch=epoch, plane=plane) for view in views or VIEWS)
        pages = [_pixels(display.figure_) for display in displays if display is not None]
        if not pages:
            raise StageError(self._message or "; ".join(p for data in self._data for p in data.problems))
        paper = Image.new("RGB", (max(p.width for p in pages), sum(p.height for p in pages)), "white")
        top = 0
        for page in pages:
            paper.paste(page, (0, top))
            top += page.height
        file = io.BytesIO()
        paper.save(file, "png")
        return file.getvalue()

    def save_html(self, path: str | Path) -> Path:
        """Write one file with every run and seed of the study, to be opened from disk, with all interaction.

        Raises:
            StageError: there is no run, or the file cannot be written.
        """
        study = self.choice["study"]
        if not self._data:
            raise StageError(self._message)
        found = runs(self._outputs / study)
        books = {f"{run}/{seed}": self._load(study, run, seed)[1] for run in found for seed in found[run]}
        catalog = {study: {run: list(seeds) for run, seeds in found.items()}}
        shown = {**self.shown, "catalog": catalog, "runs": []}
        book = pack({"shown": shown}, {name: np.frombuffer(book, np.uint8) for name, book in books.items()})
        text = PAGE.format(
            title=html.escape(f"{study} - neural collapse"),
            css=(HERE / "explorer.css").read_text(encoding="utf-8"),
            esm=(HERE / "explorer.js").read_text(encoding="utf-8"),
            book=base64.b64encode(gzip.compress(book, 6, mtime=0)).decode(),
        )
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return Path(path)

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The live view where there is a kernel, an image everywhere else."""
        bundle = super()._repr_mimebundle_(**options)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        if any(run.geometry is not None for run in self._data):
            data = {**data, "image/png": base64.b64encode(self.picture(*KEPT_VIEWS)).decode()}
        return data, metadata

    def _read(self, study: str, run: str, seed: int) -> tuple[RunData, bytes]:
        data = load_run(self._outputs / study, run, seed)
        return data, run_payload(data)

    def _chosen(self, change: Mapping[str, Any]) -> None:
        if change["new"].get("read") != change["old"].get("read"):  # a training may have gone on
            self._load.cache_clear()
        self._message = ""
        self._show()

    def _show(self) -> None:
        """Send what is chosen; a failure is sent in words, since an exception here would reach nobody."""
        study = self.choice.get("study", "")
        names = studies(self._outputs)
        catalog = {name: {run: list(seeds) for run, seeds in runs(self._outputs / name).items()} for name in names}
        found = catalog.get(study, {})
        chosen = [(run, seed) for run, seed in self.choice.get("runs") or () if seed in found.get(run, ())]
        if found and not chosen:
            chosen = _first_choice(found, study)
        loaded, message = [], self._message
        try:
            loaded = [self._load(study, run, seed) for run, seed in chosen]
        except Exception as error:
            message = f"{study} cannot be shown: {type(error).__name__}: {error}"
        self._data = tuple(data for data, _ in loaded)
        if not loaded and not message:
            message = _nothing(self._outputs / study)
        self._message = message
        self.shown = {
            "study": study,
            "chosen": [list(which) for which in chosen],
            "read": self.choice.get("read", 0),
            "catalog": catalog,
            "maps": color_maps(),
            "message": message,
            "runs": [payload for _, payload in loaded],
        }


def _first_choice(
    found: Mapping[str, Sequence[int]], study: str, run: str = "", seed: int | None = None
) -> list[tuple[str, int]]:
    """A run, and beside it the first other one, or another seed of it.

    Raises:
        ParameterError: there is no such run or seed.
    """
    if not found:
        return []
    if run and run not in found:
        raise ParameterError(f"run: study '{study}' has no run '{run}'; it has {', '.join(found)}")
    run = run or next(iter(found))
    if seed is not None and seed not in found[run]:
        has = ", ".join(map(str, found[run]))
        raise ParameterError(f"seed: run '{run}' of study '{study}' has no seed {seed!r}; it has {has}")
    first = (run, found[run][0] if seed is None else seed)
    others = [(name, seeds[0]) for name, seeds in found.items() if name != run]
    others += [(run, other) for other in found[run] if other != first[1]]
    return [first, *others[:1]]


def _nothing(study: Path) -> str:
    how = f"make reproduce STUDY=params/{study.name}.yaml"
    return f"{study} holds no training run yet. Run the study first, e.g. {how}."


def _pixels(figure: Figure) -> Image.Image:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=PICTURE_DPI)
    plt.close(figure)  # or a notebook would show it, too
    return Image.open(file).convert("RGB")
