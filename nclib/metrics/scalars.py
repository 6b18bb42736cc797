"""Scalars by their plain keys, from statistics that either two passes over stored features or a stream has gathered."""

from jaxtyping import Float64
from torch import Tensor

from nclib.metrics import tag_wise
from nclib.metrics.classifier import Classifier
from nclib.metrics.collapse import (
    duality_distance,
    equiangle_w,
    equinorm_w,
    mean_cdnv,
    mean_logit_norm,
    nc2_w,
    nc2_w_centered,
    variance_quotient,
)
from nclib.metrics.geometry import centered
from nclib.metrics.released import released_deviations
from nclib.metrics.statistics import CollapseStatistics


def mean_scalars(
    statistics: CollapseStatistics, class_variances: Float64[Tensor, " k"]
) -> dict[str, Float64[Tensor, ""]]:
    """Metrics of the class means and variances alone."""
    means = statistics.class_means
    return {
        "nc1_quotient": variance_quotient(statistics, class_variances),
        "nc1_cdnv": mean_cdnv(statistics, class_variances),
        "nc2_h": nc2_w(means),
        "nc2_h_centered": nc2_w_centered(means),
        "equinorm_h": equinorm_w(means),
        "equiangle_h": equiangle_w(means),
        "released_nc2_h": nc2_w(means),
    }


def classifier_scalars(statistics: CollapseStatistics, classifier: Classifier) -> dict[str, Float64[Tensor, ""]]:
    """Metrics of the last layer, and of it against the class means."""
    weight = classifier.weight
    deviations = statistics.centered_class_means
    return {
        "nc2_w": nc2_w(weight),
        "nc2_w_centered": nc2_w_centered(weight),
        "nc3": duality_distance(weight, deviations),
        "nc3_centered": duality_distance(centered(weight), deviations),
        "equinorm_w": equinorm_w(weight),
        "equiangle_w": equiangle_w(weight),
        "bias_residual": mean_logit_norm(statistics.global_mean, classifier),
        "released_nc2_w": nc2_w(weight),
        "released_nc3": duality_distance(weight, released_deviations(statistics)),
    }


def tag_wise_scalars(statistics: CollapseStatistics) -> dict[tuple[str, int], Float64[Tensor, ""]]:
    """Tag-wise metrics by name and multiplicity m >= 2; no ratio where it would average too many pairs of sets."""
    values = {}
    for m in statistics.sets.multiplicity.unique().tolist():
        if m == 1:
            continue
        angles = tag_wise.set_angles(statistics, m)
        values["tag_wise_angle_mean", m] = angles.mean()
        values["tag_wise_angle_max", m] = angles.max()
        if tag_wise.has_countable_pairs(statistics.sets, m):
            values["tag_wise_ratio", m] = tag_wise.angle_ratio(statistics, m)
        values["tag_wise_scale", m], values["tag_wise_residual", m] = tag_wise.scale_and_residual(statistics, m)
    return values
