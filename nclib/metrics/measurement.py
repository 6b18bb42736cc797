"""All metrics of one set of features at once: the two passes are done once, whatever is asked for after."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from nclib.metrics import tag_wise
from nclib.metrics.classifier_metrics import check_classifier
from nclib.metrics.collapse import (
    between_whitening,
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
from nclib.metrics.samples import Classifier, SampleMeans, sample_means
from nclib.metrics.spectrum import nuclear_ratios
from nclib.metrics.statistics import CollapseStatistics, collapse_statistics


@dataclass(frozen=True)
class Measurement:
    """The geometry of some features and their classifier: scalars by `scalars()`, arrays from the parts.

    Attributes:
        statistics: Class and label-set means, counts, label sets.
        classifier: The last layer.
        samples: Means over samples, class variances, cosine margins.
        nuclear_ratios: Nuclear over Frobenius norm of each class.
    """

    statistics: CollapseStatistics
    classifier: Classifier
    samples: SampleMeans
    nuclear_ratios: Float64[Tensor, " k"]

    def scalars(self) -> dict[str, float]:
        """Every scalar metric, by its plain key; see `measure`."""
        values = self._collapse() | self._samples() | self._tag_wise() | self._released()
        return {name: float(value) for name, value in values.items()}

    def _collapse(self) -> dict[str, Tensor]:
        means, weight = self.statistics.class_means, self.classifier.weight
        deviations = self.statistics.centered_class_means
        return {
            "nc1": self.samples.within_traces[0],
            "nc1_quotient": variance_quotient(self.statistics, self.samples.class_variances),
            "nc1_cdnv": mean_cdnv(self.statistics, self.samples.class_variances),
            "nc2_w": nc2_w(weight),
            "nc2_h": nc2_w(means),
            "nc2_w_centered": nc2_w_centered(weight),
            "nc2_h_centered": nc2_w_centered(means),
            "nc3": duality_distance(weight, deviations),
            "nc3_centered": duality_distance(centered(weight), deviations),
            "equinorm_w": equinorm_w(weight),
            "equinorm_h": equinorm_w(means),
            "equiangle_w": equiangle_w(weight),
            "equiangle_h": equiangle_w(means),
            "bias_residual": mean_logit_norm(self.statistics.global_mean, weight, self.classifier.bias),
            "nuclear_over_frobenius": self.nuclear_ratios.mean(),
        }

    def _samples(self) -> dict[str, Tensor]:
        samples = self.samples
        return {
            "nc4": samples.nc4,
            "cosine_margin_mean": samples.margins.double().mean(),
            "soft_iou": samples.soft_iou,
            "jaccard": samples.jaccard,
            "subset_accuracy": samples.subset_accuracy,
            "top1": samples.top1,
            "top5": samples.top5,
        }

    def _tag_wise(self) -> dict[str, Tensor]:
        values = {}
        sizes = self.statistics.sets.multiplicity.unique().tolist()
        for m in [size for size in sizes if size > 1]:
            angles = tag_wise.set_angles(self.statistics, m)
            scale, residual = tag_wise.scale_and_residual(self.statistics, m)
            values[f"tag_wise_angle_mean_{m}"] = angles.mean()
            values[f"tag_wise_angle_max_{m}"] = angles.max()
            if tag_wise.has_countable_pairs(self.statistics.sets, m):
                values[f"tag_wise_ratio_{m}"] = tag_wise.angle_ratio(self.statistics, m)
            values[f"tag_wise_scale_{m}"] = scale
            values[f"tag_wise_residual_{m}"] = residual
        return values

    def _released(self) -> dict[str, Tensor]:
        means, weight = self.statistics.class_means, self.classifier.weight
        return {
            "released_nc1": self.samples.within_traces[1],
            "released_nc2_w": nc2_w(weight),
            "released_nc2_h": nc2_w(means),
            "released_nc3": duality_distance(weight, released_deviations(self.statistics)),
        }


def take_measurement(
    features: Float[Tensor, "n d"],
    labels: Shaped[Tensor, "n *k"],
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"] | None = None,
    *,
    logits: Float[Tensor, "n k"] | None = None,
) -> Measurement:
    """Two passes over the features, kept for scalars and arrays alike. Args, Raises: as `measure`."""
    classifier = check_classifier(features, weight, bias, logits)
    statistics = collapse_statistics(features, labels, num_classes=len(weight))
    whitenings = [
        between_whitening(statistics.centered_class_means),
        between_whitening(released_deviations(statistics)),
    ]
    return Measurement(
        statistics,
        classifier,
        sample_means(features, statistics, classifier, whitenings=whitenings),
        nuclear_ratios(features, statistics.sets),
    )


@torch.no_grad()
def measure(
    features: Float[Tensor, "n d"],
    labels: Shaped[Tensor, "n *k"],
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"] | None = None,
    *,
    logits: Float[Tensor, "n k"] | None = None,
) -> dict[str, float]:
    """Every scalar metric of features, labels and a last layer, by plain keys.

    The keys are the names of the functions of this package; `tag_wise_..._m` for each multiplicity m >= 2 that occurs,
    and `released_...` for what the released code of paper 1 computes. Accuracies and other shares lie in [0, 1].
    `tag_wise_ratio_m` is left out where it would average more than `tag_wise.MAX_PAIRS` pairs of sets. A value is NaN
    where it has no meaning, such as angles of a weight of zeros.

    Args:
        features: Last-layer features (n, d), float16 to float64; computed in float32 (float64 for float64), sums
            over samples in float64.
        labels: Multi-hot (n, k) of zeros and ones, or class ids (n,); samples without labels are left out.
        weight: Classifier (k, d), k >= 2.
        bias: Its bias (k,).
        logits: Logits (n, k) of the model, where they are not `W h + b`.

    Returns:
        Name to value.

    Raises:
        ValueError: If shapes do not fit, labels are invalid, a class has no sample that carries it alone, all
            class means are equal, or values are not finite.

    >>> values = measure(torch.eye(3), torch.arange(3), torch.eye(3))
    >>> values["nc1"], round(values["nc2_h_centered"], 6), values["top1"]
    (0.0, 0.0, 1.0)
    """
    return take_measurement(features, labels, weight, bias, logits=logits).scalars()
