"""The pages of the site that are made from results: executed notebooks, gallery, metrics, explorer."""

import shutil
from pathlib import Path

import metric_pictures

STUDY = "mlab_digits"
NOTEBOOKS = {  # page -> the executed notebook, in the outputs
    "00_theory": "theory/00_theory.ipynb",
    "01_dataset": f"{STUDY}/datasets/digits/01_dataset.ipynb",
    "02_train": f"{STUDY}/learned/seed0/02_train.ipynb",
    "03_validate": f"{STUDY}/learned/seed0/03_validate.ipynb",
    "04_figures": f"{STUDY}/04_figures.ipynb",
    "05_explore": "explore/05_explore.ipynb",
}


def make(docs: Path, outputs: Path) -> None:
    """Write `docs/made/` afresh.

    Raises:
        SystemExit: a result is missing; the message says which command makes it.
    """
    missing = [str(outputs / place) for place in NOTEBOOKS.values() if not (outputs / place).is_file()]
    if missing:
        raise SystemExit(f"{', '.join(missing)}: not there. `make docs` makes what it needs.")
    made = docs / "made"
    shutil.rmtree(made, ignore_errors=True)
    (made / "static").mkdir(parents=True)
    for page, place in NOTEBOOKS.items():
        shutil.copy(outputs / place, made / f"{page}.ipynb")
    (made / "gallery.md").write_text(gallery(docs.parent / "outputs/reference"))
    metric_pictures.make(docs, made / "pictures")
    from nclib.explore import Explorer

    Explorer(outputs / STUDY).save_html(made / "static/explorer.html")


def gallery(reference: Path) -> str:
    """A section per reference study: its figures with their captions, its table, and the command that makes them."""
    studies = sorted(path for path in reference.iterdir() if path.is_dir())
    parts = [
        "# Gallery",
        "Every figure of the committed results, by study. The command above them draws them again.",
    ]
    for study in studies:
        here = f"../../outputs/reference/{study.name}"
        parts += [f"## {study.name}", f"    make reproduce STUDY=params/{study.name}.yaml"]
        parts.append(f"[The table]({here}/table.md)")
        for figure in sorted(study.glob("*.png")):
            parts += [f"![{figure.stem}]({here}/{figure.name})", figure.with_suffix(".txt").read_text().strip()]
    tables = [f"{study.name} <../../outputs/reference/{study.name}/table>" for study in studies]
    parts.append("\n".join([":::{toctree}", ":hidden:", "", *tables, ":::"]))
    return "\n\n".join(parts) + "\n"
