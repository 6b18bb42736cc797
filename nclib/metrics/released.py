"""What the released code of paper 1 computes, beside the corrected metrics: curves that can be set beside the paper's.

It divides the sum of the one-label features by the number of **all** samples to get `mu_G`, so that its "global mean"
is too short wherever multi-label samples exist (on the paper's MNIST set 0.775 of the true mean). That enters `nc1`
and `nc3`; its nc2 is `nc2_w` and `nc2_h`, not centered.
"""

from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from nclib.metrics.classifier import statistics_and_classifier
from nclib.metrics.collapse import between_whitening, duality_distance
from nclib.metrics.statistics import CollapseStatistics, collapse_statistics, working_dtype
from nclib.metrics.within import within_trace


def released_nc1(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """`nc1` with the released `mu_G`: one-label features summed, divided by the number of all samples.

    In [0, inf), 0 at collapse. Equals `nc1` on balanced single-label data.

    Source: paper 1's released code.

    Args:
        features: Last-layer features (n, d).
        labels: Multi-hot (n, k) or class ids (n,).

    Returns:
        The metric, in the dtype of the features but at least float32.

    Raises:
        ValueError: As `collapse_statistics` does.

    >>> import torch
    >>> released_nc1(torch.tensor([[1.0], [3.0], [-1.0], [-3.0]]), torch.tensor([0, 0, 1, 1]))
    tensor(0.1250)
    """
    statistics = collapse_statistics(features, labels)
    whitening = between_whitening(released_deviations(statistics))
    return within_trace(features, statistics, whitening).to(working_dtype(features))


def released_nc3(
    features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"], weight: Float[Tensor, "k d"]
) -> Float[Tensor, ""]:
    """`nc3` with the released `mu_G`; in [0, 2]. 0 at collapse if `mu_G = 0`, or for balanced single-label data.

    Source: paper 1's released code.

    Args:
        features: Last-layer features (n, d).
        labels: Multi-hot (n, k) or class ids (n,).
        weight: Classifier (k, d).

    Returns:
        The metric, in the dtype of the features but at least float32.

    Raises:
        ValueError: As `collapse_statistics` does, or if `weight` does not fit.

    >>> import torch
    >>> released_nc3(torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]), torch.tensor([[5.0], [-5.0]]))
    tensor(0.)
    """
    statistics, classifier = statistics_and_classifier(features, labels, weight)
    return duality_distance(classifier.weight, released_deviations(statistics)).to(working_dtype(features))


def released_deviations(statistics: CollapseStatistics) -> Float64[Tensor, "k d"]:
    """Class means minus the released `mu_G`."""
    return statistics.class_means - statistics.released_global_mean
