"""The site (`make docs`): guides, executed notebooks, gallery, claims and API, built offline.

It shows what is there: committed files, and the finished default study and theory notebook in `outputs/`, which
`make docs` sees to. Pages made from these go to `docs/made/`, which git ignores.
"""

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import latex2mathml.converter
import nclib
import pages

project = "nclib"
author = "the nclib developers"
copyright = author
version = release = nclib.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # they were executed by the study
nb_merge_streams = True
nitpicky = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True

html_theme = "furo"
html_title = "nclib"
html_static_path = ["static"]
html_math_renderer = "mathml"


def setup(app):
    """Make the pages before Sphinx reads them; mathematics as MathML, which browsers draw without a script."""
    pages.make(Path(app.srcdir), Path(os.environ.get("NCLIB_OUTPUTS", "outputs")))
    app.add_html_math_renderer("mathml", (_mathml("inline"), None), (_mathml("block"), None))


def _mathml(display):
    def render(translator, node):
        translator.body.append(latex2mathml.converter.convert(node.astext(), display=display))
        if display == "block":
            translator.body.append("\n")
        from docutils.nodes import SkipNode

        raise SkipNode

    return render
