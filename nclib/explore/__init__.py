"""A live view of the collapse over any study in `outputs/`: `Explorer(folder)` in a notebook's last line.

Views (`MetricsView`, `MatricesView`, `FeaturesView`, `PairsView`) turn a `State` into a picture and know nothing of
widgets; `Explorer` puts controls around them.
"""

from nclib.explore.canvas import State
from nclib.explore.cloud import FeaturesView
from nclib.explore.curves import MetricsView
from nclib.explore.explorer import Explorer
from nclib.explore.matrices import MatricesView
from nclib.explore.pairs import PairsView
from nclib.explore.plane import project
from nclib.explore.run_data import RunData, load_run, runs, studies

__all__ = [
    "Explorer",
    "FeaturesView",
    "MatricesView",
    "MetricsView",
    "PairsView",
    "RunData",
    "State",
    "load_run",
    "project",
    "runs",
    "studies",
]
