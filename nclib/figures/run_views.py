"""The views of the explorer as figures: one or two runs at one checkpoint."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from nclib.figures.angles import AngleMaps, collapse_angles
from nclib.figures.curves import MetricCurves
from nclib.figures.display import Display
from nclib.figures.feature_plane import FeaturePlane, Plane
from nclib.figures.gram import GramMatrices
from nclib.figures.margins import MarginDistribution
from nclib.figures.panels import panel
from nclib.figures.style import RunStyles
from nclib.results.geometry import Geometry
from nclib.results.metrics_table import measured_labels, of_metric

VIEWS = ("metrics", "features", "matrices", "pairs", "margins")


def draw_view(
    view: str,
    geometries: Mapping[str, Geometry],
    metrics: Mapping[str, pd.DataFrame],
    *,
    epoch: int | None = None,
    plane: Plane = "circle",
    styles: RunStyles | None = None,
) -> Display | None:
    """A view of some runs, drawn; None if no run has the results.

    Args:
        view: one of `VIEWS`.
        geometries, metrics: run -> what 03_validate stored.
        epoch: of a checkpoint; each run shows its last one up to it. None: its last one.
        plane: of the features.
        styles: of the runs; None: chosen for those shown.

    Raises:
        ValueError: there is no such view or plane, or no run has a checkpoint of this epoch.
    """
    if view not in VIEWS:
        raise ValueError(f"Expected a view of {', '.join(VIEWS)}, but got {view!r}.")
    known = sorted({e for g in geometries.values() for e in g.epochs.tolist()})
    if epoch not in (None, *known):
        raise ValueError(f"Expected an epoch of {', '.join(map(str, known))}, but got {epoch!r}.")
    if view == "metrics":
        tables = [table.assign(run=run, seed=0) for run, table in metrics.items()]
        return _curves(pd.concat(tables), styles).plot() if tables else None
    if not geometries:
        return None
    layers = {}
    for run, g in geometries.items():
        epochs = g.epochs.numpy()
        e = len(epochs) - 1 if epoch is None else max(int(np.searchsorted(epochs, epoch, side="right")) - 1, 0)
        layers[f"{run}, epoch {epochs[e]}"] = (g, e)
    if view == "features":
        return FeaturePlane(layers, plane).plot()
    if view == "matrices":
        return GramMatrices({run: (g.gram_features[e], g.gram_weight[e]) for run, (g, e) in layers.items()}).plot()
    if view == "pairs":
        return AngleMaps({run: collapse_angles(g, e) for run, (g, e) in layers.items()}).plot()
    styles = (styles or RunStyles.from_runs(geometries)).renamed(dict(zip(layers, geometries, strict=True)))
    margins = {run: g.margins[e : e + 1].numpy() for run, (g, e) in layers.items()}
    return MarginDistribution(margins, max(len(g.class_names) for g in geometries.values()), styles=styles).plot()


def _curves(table: pd.DataFrame, styles: RunStyles | None) -> MetricCurves:
    """NC1 to NC3, tag-wise ratios or NC4, and the score."""
    several = measured_labels(table, "tag_wise_ratio")
    panels = [panel(name) for name in ("nc1", "nc2_w_centered", "nc2_h_centered", "nc3_centered")]
    panels += [panel("tag_wise_ratio", labels=m) for m in several] or [panel("nc4")]
    panels.append(panel("soft_iou" if several else "top1"))
    values = [
        of_metric(table, shown.metric, labels=shown.labels)[["run", "seed", "epoch", "value"]].assign(panel=place)
        for place, shown in enumerate(panels)
    ]
    return MetricCurves(pd.concat(values, ignore_index=True), panels, styles=styles)
