"""Figures as files: vector PDF (text stays text) and PNG; the same figure gives the same bytes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from nclib.study.files import atomic_path

PNG_DPI = 200
METADATA = {"pdf": {"CreationDate": None}, "png": {"Software": None}}  # neither file holds a time


def files(**figures: Figure) -> dict[str, Callable[[Path], None]]:
    """What `Stage.save` writes of some figures: a function for each of `NAME.pdf` and `NAME.png`."""
    return {f"{name}.{kind}": partial(write, figure) for name, figure in figures.items() for kind in METADATA}


def write(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all; the suffix of `path` is `.pdf` or `.png`.

    Raises:
        StageError: the file cannot be written.
    """
    kind = path.suffix.removeprefix(".")
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the layout is found: finding it again for each file doubles the time
    with mpl.rc_context({"pdf.fonttype": 42, "savefig.bbox": None}), atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=PNG_DPI, metadata=METADATA[kind])


def save(figure: Figure, folder: str | Path, name: str) -> list[Path]:
    """Write `FOLDER/NAME.pdf` and `FOLDER/NAME.png`; see `write`."""
    paths = [Path(folder) / f"{name}.{kind}" for kind in METADATA]
    for path in paths:
        write(figure, path)
    return paths
