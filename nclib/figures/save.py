"""Figures as files."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from nclib.study.files import atomic_path

PNG_DPI = 200


def save(figure: Figure, folder: str | Path, name: str) -> list[Path]:
    """Write a figure as vector PDF (text stays text) and PNG, each whole or not at all.

    The same figure gives the same bytes: neither file holds a time.

    Args:
        figure: e.g. the `.figure_` of a display.
        folder: made if missing.
        name: of both files, without suffix.

    Returns:
        The two files.

    Raises:
        StageError: the files cannot be written.
    """
    paths = [Path(folder) / f"{name}.pdf", Path(folder) / f"{name}.png"]
    engine = figure.get_layout_engine()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout is found: finding it again for each file doubles the time
    try:
        with mpl.rc_context({"pdf.fonttype": 42, "savefig.bbox": None}):
            with atomic_path(paths[0]) as temporary:
                figure.savefig(temporary, format="pdf", metadata={"CreationDate": None})
            with atomic_path(paths[1]) as temporary:
                figure.savefig(temporary, format="png", dpi=PNG_DPI, metadata={"Software": None})
    finally:
        figure.set_layout_engine(engine)
    return paths
