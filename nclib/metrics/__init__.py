"""Metrics of neural collapse, single-label and multi-label.

`measure` gives every scalar of features, labels and a last layer; each metric is also a function of its own, built of
the same kernels, and class-wise or set-wise arrays come from functions beside them. Features go in as (n, d), labels
as multi-hot (n, k) or class ids (n,).
"""

from typing import TYPE_CHECKING

from nclib.metrics.duality import (
    bias_residual,
    nc3,
    nc3_centered,
    nc3_cosine,
    nc3_distance,
    released_nc3,
    unc3,
    unc3_cosine,
)
from nclib.metrics.label_sets import LabelSets, label_sets
from nclib.metrics.measurement import Measurement, measure, take_measurement
from nclib.metrics.norms import feature_norm, mean_norm, nc5
from nclib.metrics.prediction import jaccard, soft_iou, subset_accuracy, top_k_accuracy
from nclib.metrics.samples import cosine_margin_mean, cosine_margins, nc4, ncc_accuracy, nearest_class_mean
from nclib.metrics.simplex import (
    cosine_gram,
    equiangle_h,
    equiangle_w,
    equinorm_h,
    equinorm_w,
    nc2_h,
    nc2_h_centered,
    nc2_w,
    nc2_w_centered,
    simplex_gram,
)
from nclib.metrics.spectrum import nuclear_over_frobenius
from nclib.metrics.statistics import (
    CollapseStatistics,
    LabelSetMeans,
    class_means,
    collapse_statistics,
    label_set_means,
)
from nclib.metrics.tag_wise import (
    angles_degrees,
    imbalance_ratio,
    tag_wise_angles,
    tag_wise_ratio,
    tag_wise_residual,
    tag_wise_scale,
)
from nclib.metrics.uniformity import (
    gnc2_h,
    gnc2_h_distance,
    gnc2_h_mean,
    gnc2_w,
    gnc2_w_distance,
    gnc2_w_mean,
    margin_one_vs_rest,
)
from nclib.metrics.variability import class_mean_rank, nc1, nc1_cdnv, nc1_quotient, released_nc1, separation

if TYPE_CHECKING:
    from nclib.metrics.streaming import CollapseMetrics

__all__ = [
    "CollapseMetrics",
    "CollapseStatistics",
    "LabelSetMeans",
    "LabelSets",
    "Measurement",
    "angles_degrees",
    "bias_residual",
    "class_mean_rank",
    "class_means",
    "collapse_statistics",
    "cosine_gram",
    "cosine_margin_mean",
    "cosine_margins",
    "equiangle_h",
    "equiangle_w",
    "equinorm_h",
    "equinorm_w",
    "feature_norm",
    "gnc2_h",
    "gnc2_h_distance",
    "gnc2_h_mean",
    "gnc2_w",
    "gnc2_w_distance",
    "gnc2_w_mean",
    "imbalance_ratio",
    "jaccard",
    "label_set_means",
    "label_sets",
    "margin_one_vs_rest",
    "mean_norm",
    "measure",
    "nc1",
    "nc1_cdnv",
    "nc1_quotient",
    "nc2_h",
    "nc2_h_centered",
    "nc2_w",
    "nc2_w_centered",
    "nc3",
    "nc3_centered",
    "nc3_cosine",
    "nc3_distance",
    "nc4",
    "nc5",
    "ncc_accuracy",
    "nearest_class_mean",
    "nuclear_over_frobenius",
    "released_nc1",
    "released_nc3",
    "separation",
    "simplex_gram",
    "soft_iou",
    "subset_accuracy",
    "tag_wise_angles",
    "tag_wise_ratio",
    "tag_wise_residual",
    "tag_wise_scale",
    "take_measurement",
    "top_k_accuracy",
    "unc3",
    "unc3_cosine",
]


def __getattr__(name: str) -> object:
    # on demand: torchmetrics takes four seconds to import and brings matplotlib, which the kernels need not
    if name == "CollapseMetrics":
        from nclib.metrics.streaming import CollapseMetrics

        return CollapseMetrics
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
