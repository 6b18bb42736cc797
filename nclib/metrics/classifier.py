"""The last layer, checked against the features that it belongs to."""

from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from nclib.metrics.statistics import CollapseStatistics, check_features, collapse_statistics


@dataclass(frozen=True)
class Classifier:
    """Last layer `z = W h + b` in float64.

    Attributes:
        weight: W.
        bias: b, zeros for a layer without bias.
    """

    weight: Float64[Tensor, "k d"]
    bias: Float64[Tensor, " k"]


def check_classifier(
    weight: Tensor, bias: Tensor | None = None, *, feature_dim: int, num_classes: int | None = None
) -> Classifier:
    """The last layer in float64.

    Raises:
        ValueError: If shapes do not fit or values are not finite.
    """
    fits = weight.ndim == 2 and weight.shape[1] == feature_dim and num_classes in (None, len(weight))
    if not fits or (bias is not None and bias.shape != weight.shape[:1]):
        k = "k" if num_classes is None else num_classes
        shape = None if bias is None else tuple(bias.shape)
        raise ValueError(
            f"Expected weight ({k}, {feature_dim}) and bias ({k},), but got {tuple(weight.shape)} and {shape}."
        )
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    classifier = Classifier(weight.detach().double(), bias.detach().double())
    if not bool(classifier.weight.isfinite().all() & classifier.bias.isfinite().all()):
        raise ValueError("Expected a finite weight and bias, but got NaN or infinity.")
    return classifier


def statistics_and_classifier(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None
) -> tuple[CollapseStatistics, Classifier]:
    """`collapse_statistics` of features and labels, and the last layer that fits them.

    Raises:
        ValueError: As `collapse_statistics` and `check_classifier` do.
    """
    check_features(features, labels)
    classifier = check_classifier(weight, bias, feature_dim=features.shape[1])
    return collapse_statistics(features, labels, num_classes=len(weight)), classifier
