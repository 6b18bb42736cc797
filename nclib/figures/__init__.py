"""Figures of both papers, as display classes in the manner of scikit-learn: data in, `.plot()` draws.

Each class is made by a constructor `from_...`, drawn with `.plot()`, or with its caption by `.show(study)` in a
notebook, and then has `.figure_` and `.axes_`; `save` writes a figure as vector PDF and PNG. Colors are safe for
color-blind eyes, and every run has a line style and a marker of its own, so that the figures also read in gray print.
"""

from nclib.figures.concept import TagWisePlane
from nclib.figures.contact import ContactSheet
from nclib.figures.counts import CountGeometry
from nclib.figures.curves import (
    CollapseCurves,
    GeometryCurves,
    ImbalanceCurves,
    LossCurves,
    MetricCurves,
    ReleasedCurves,
    ScoreCurves,
    TagWiseCurves,
)
from nclib.figures.gram import GramMatrices
from nclib.figures.heatmap import LabelHeatMap
from nclib.figures.landscape import LossLandscape
from nclib.figures.margins import MarginDistribution
from nclib.figures.panels import Panel, panel
from nclib.figures.predicted import PredictedGeometry
from nclib.figures.samples import SampleGrid
from nclib.figures.save import files, save
from nclib.figures.style import RunStyles, style

__all__ = [
    "CollapseCurves",
    "ContactSheet",
    "CountGeometry",
    "GeometryCurves",
    "GramMatrices",
    "ImbalanceCurves",
    "LabelHeatMap",
    "LossCurves",
    "LossLandscape",
    "MarginDistribution",
    "MetricCurves",
    "Panel",
    "PredictedGeometry",
    "ReleasedCurves",
    "RunStyles",
    "SampleGrid",
    "ScoreCurves",
    "TagWiseCurves",
    "TagWisePlane",
    "files",
    "panel",
    "save",
    "style",
]
