"""The pages of the site that are made from results: executed notebooks, gallery, explorer."""

import json
import shutil
from pathlib import Path

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
    """Write `DOCS/made/` afresh.

    Raises:
        SystemExit: a result is missing; the message says which command makes it.
    """
    made = docs / "made"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    for page, place in NOTEBOOKS.items():
        if not (outputs / place).is_file():
            print(f"{outputs / place} is missing: `make docs` makes it"); continue
        shutil.copy(outputs / place, made / f"{page}.ipynb")
    (made / "gallery.md").write_text(gallery(docs.parent / "outputs/reference"))
    explorer(outputs / STUDY, docs / "static/explorer.html")


def gallery(reference: Path) -> str:
    """A section per reference study: its figures with their captions, and the command that makes them."""
    lines = ["# Gallery", ""]
    for study in sorted(reference.iterdir()):
        lines += [f"## {study.name}", "", f"    make reproduce STUDY=params/{study.name}.yaml", ""]
        captions = {p.stem: p.stem for p in study.glob("*.png")}
        for name, caption in captions.items():
            lines += [f":::{{figure}} ../../outputs/reference/{study.name}/{name}.png", "", caption, ":::", ""]
        lines += [f":::{{include}} ../../outputs/reference/{study.name}/table.md", ":heading-offset: 2", ":::", ""]
    return "\n".join(lines)


def explorer(study: Path, page: Path) -> None:
    """The explorer over a study as one page that needs no kernel."""
    from nclib.explore import Explorer

    page.parent.mkdir(exist_ok=True)
    Explorer(study).save_html(page)
