"""The explorer's views without a browser: one or two runs at one checkpoint, as displays of `nclib.figures`."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from nclib.explore.outputs import RunData, labels
from nclib.figures.angles import AngleMaps, collapse_angles
from nclib.figures.curves import COLLAPSE, MetricCurves
from nclib.figures.display import Display
from nclib.figures.feature_plane import FeaturePlane, Plane
from nclib.figures.gram import GramMatrices
from nclib.figures.margins import MarginDistribution
from nclib.figures.panels import panel
from nclib.figures.style import RunStyles
from nclib.results.metrics_table import measured_labels, of_metric

VIEWS = ("metrics", "features", "matrices", "pairs", "margins")


def view_of(runs: Sequence[RunData], view: str, *, epoch: int | None, plane: Plane) -> Display | None:
    """A view of some runs, as `Explorer.picture` describes it; None if no run has the results."""
    if view not in VIEWS:
        raise ValueError(f"Expected a view of {', '.join(VIEWS)}, but got {view!r}.")
    geometries = {run.label: run.geometry for run in runs if run.geometry is not None}
    known = sorted({e for g in geometries.values() for e in g.epochs.tolist()})
    if epoch not in (None, *known):
        raise ValueError(f"Expected an epoch of {', '.join(map(str, known))}, but got {epoch!r}.")
    if view == "metrics":
        tables = [run.metrics.assign(run=run.label, seed=0) for run in runs if run.metrics is not None]
        return _curves(pd.concat(tables), _styles(runs)) if tables else None
    if not geometries:
        return None
    layers = {}
    for name, g in geometries.items():
        epochs = g.epochs.numpy()
        e = len(epochs) - 1 if epoch is None else max(int(np.searchsorted(epochs, epoch, side="right")) - 1, 0)
        layers[f"{name}, epoch {epochs[e]}"] = (g, e)
    if view == "features":
        return FeaturePlane(layers, plane)
    if view == "matrices":
        return GramMatrices({name: (g.gram_features[e], g.gram_weight[e]) for name, (g, e) in layers.items()})
    if view == "pairs":
        return AngleMaps({name: collapse_angles(g, e) for name, (g, e) in layers.items()})
    margins = {name: g.margins[e : e + 1].numpy() for name, (g, e) in layers.items()}
    styles = _styles(runs).renamed(dict(zip(layers, geometries, strict=True)))
    return MarginDistribution(margins, max(len(g.class_names) for g in geometries.values()), styles=styles)


def _styles(runs: Sequence[RunData]) -> RunStyles:
    """The styles that the runs have in their study, unless two seeds of one would look the same."""
    names = {run.label: run.run for run in runs}
    if len(set(names.values())) < len(names):
        return RunStyles.from_runs(list(names))
    return RunStyles.from_runs(labels(runs[0].study)).renamed(names)


def _curves(table: pd.DataFrame, styles: RunStyles) -> MetricCurves:
    """NC1 to NC3, tag-wise ratios or NC4, and the score."""
    several = measured_labels(table, "tag_wise_ratio")
    panels = [panel(name) for name in COLLAPSE]
    panels += [panel("tag_wise_ratio", labels=m) for m in several] or [panel("nc4")]
    panels.append(panel("soft_iou" if several else "top1"))
    values = [of_metric(table, shown.metric, labels=shown.labels).assign(panel=at) for at, shown in enumerate(panels)]
    return MetricCurves(pd.concat(values, ignore_index=True), panels, styles=styles)
