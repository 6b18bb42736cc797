"""The site (`make docs`): guides, executed notebooks, gallery, claims, metrics and API, built offline.

Its source folder is the project's, so that links between files lead where they lead on a code host. Pages made from
results go to `docs/made/`, which git ignores.
"""

import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import latex2mathml.converter  # noqa: E402
import pages  # noqa: E402
from docutils import nodes  # noqa: E402

import nclib  # noqa: E402
from nclib import metrics, models, optim  # noqa: E402

for room in (metrics, models, optim):  # some names are imported on demand: autodoc would not find them
    vars(room).update({name: getattr(room, name) for name in room.__all__})

project = html_title = "nclib"
author = copyright = "the nclib developers"
version = release = nclib.__version__

root_doc = "docs/index"
include_patterns = ["docs/*.md", "docs/made/*", "benchmarks/README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
include_patterns += ["outputs/reference/claims.md", "outputs/reference/*/table.md"]
exclude_patterns = [".*", "nclib", "tests", "notebooks", "data", "docs/_build"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # a study executed them
nb_merge_streams = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"

html_theme = "furo"
html_static_path = ["static", "made/static"]
html_css_files = ["site.css"]
html_extra_path = ["root"]
html_math_renderer = "mathml"


def setup(app):
    """Make the pages before Sphinx reads them; mathematics as MathML, which browsers draw without a script."""
    pages.make(HERE, HERE.parent / os.environ.get("NCLIB_OUTPUTS", "outputs"))
    app.connect("autodoc-process-docstring", as_restructured_text)
    app.add_html_math_renderer("mathml", (math("inline"), None), (math("block"), None))


def as_restructured_text(app, what, name, thing, options, lines):
    """Docstrings quote code in single backquotes, and a bar is a norm."""
    text = re.sub(r"(?<![`\w:])`([^`]+)`(?!`)", r"``\1``", "\n".join(lines))
    parts = re.split(r"(``[^`]+``|^ *>>>[^\n]*$)", text, flags=re.MULTILINE)
    lines[:] = "".join(part if place % 2 else part.replace("|", "\\|") for place, part in enumerate(parts)).split("\n")


def math(display):
    """A renderer of formulas."""

    def render(translator, node):
        formula = latex2mathml.converter.convert(node.astext(), display=display)
        translator.body.append(formula if display == "inline" else f"<div>{formula}</div>")
        raise nodes.SkipNode

    return render
