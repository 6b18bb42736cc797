"""All metrics of one set of features at once: the two passes are done once, whatever is asked for after."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from nclib.metrics.classifier import Classifier, statistics_and_classifier
from nclib.metrics.collapse import between_whitening
from nclib.metrics.prediction import check_logits
from nclib.metrics.released import released_deviations
from nclib.metrics.samples import SampleMeans, sample_means
from nclib.metrics.scalars import classifier_scalars, mean_scalars, tag_wise_scalars
from nclib.metrics.spectrum import nuclear_ratios
from nclib.metrics.statistics import CollapseStatistics


@dataclass(frozen=True)
class Measurement:
    """The geometry of some features and their classifier: scalars by `scalars()`, arrays from the parts.

    Attributes:
        statistics: Class and label-set means, counts, label sets.
        classifier: The last layer.
        samples: Means over samples, class variances, cosine margins.
        nuclear_ratios: Nuclear over Frobenius norm of each class, or None where it was not asked for.
    """

    statistics: CollapseStatistics
    classifier: Classifier
    samples: SampleMeans
    nuclear_ratios: Float64[Tensor, " k"] | None

    def scalars(self) -> dict[str, float]:
        """Every scalar metric, by its plain key; see `measure`."""
        return {metric if m is None else f"{metric}_{m}": value for metric, m, value in self.rows()}

    def rows(self) -> list[tuple[str, int | None, float]]:
        """Every scalar metric as (name, multiplicity, value); the multiplicity is None where a metric has none."""
        samples = self.samples
        values = {
            "nc1": samples.within_traces[0],
            "released_nc1": samples.within_traces[1],
            "nc4": samples.nc4,
            "cosine_margin_mean": samples.margins.double().mean(),
            "soft_iou": samples.soft_iou,
            "jaccard": samples.jaccard,
            "subset_accuracy": samples.subset_accuracy,
            "top1": samples.top1,
            "top5": samples.top5,
        }
        values |= mean_scalars(self.statistics, samples.class_variances)
        values |= classifier_scalars(self.statistics, self.classifier)
        if self.nuclear_ratios is not None:
            values["nuclear_over_frobenius"] = self.nuclear_ratios.mean()
        rows = [(name, None, float(value)) for name, value in values.items()]
        return rows + [(name, m, float(value)) for (name, m), value in tag_wise_scalars(self.statistics).items()]


@torch.no_grad()
def take_measurement(
    features: Float[Tensor, "n d"],
    labels: Shaped[Tensor, "n *k"],
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"] | None = None,
    *,
    logits: Float[Tensor, "n k"] | None = None,
    nuclear_norm: bool = True,
) -> Measurement:
    """Two passes over the features, kept for scalars and arrays alike. Args, Raises: as `measure`."""
    statistics, classifier = statistics_and_classifier(features, labels, weight, bias)
    if logits is not None:
        check_logits(logits, labels, num_classes=len(weight))
    whitenings = [
        between_whitening(statistics.centered_class_means),
        between_whitening(released_deviations(statistics)),
    ]
    return Measurement(
        statistics,
        classifier,
        sample_means(features, statistics, classifier, logits=logits, whitenings=whitenings),
        nuclear_ratios(features, statistics.sets) if nuclear_norm else None,
    )


def measure(
    features: Float[Tensor, "n d"],
    labels: Shaped[Tensor, "n *k"],
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"] | None = None,
    *,
    logits: Float[Tensor, "n k"] | None = None,
    nuclear_norm: bool = True,
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
        nuclear_norm: Include `nuclear_over_frobenius`. All other keys together cost a few reads of the features; it
            needs the singular values of each class, n d min(d, n/k) multiply-adds: at d = 2048 a hundred times more.

    Returns:
        Name to value.

    Raises:
        ValueError: If shapes do not fit, labels are invalid, a class has no sample that carries it alone, all
            class means are equal, or values are not finite.

    >>> values = measure(torch.eye(3), torch.arange(3), torch.eye(3))
    >>> values["nc1"], round(values["nc2_h_centered"], 6), values["top1"]
    (0.0, 0.0, 1.0)
    """
    return take_measurement(features, labels, weight, bias, logits=logits, nuclear_norm=nuclear_norm).scalars()
