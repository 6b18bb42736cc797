"""Metrics that set each sample against the classifier and the class means: nc4 and the cosine margins.

They use only the samples with exactly one label: of several equally right classes, an argmax picks any.
"""

from jaxtyping import Float, Shaped
from torch import Tensor

from nclib.metrics.classifier import statistics_and_classifier
from nclib.metrics.samples import SampleMeans, sample_means
from nclib.metrics.statistics import working_dtype


def nc4(
    features: Float[Tensor, "n d"],
    labels: Shaped[Tensor, "n *k"],
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """Share of samples whose nearest class mean is **not** the classifier's argmax; in [0, 1], 0 at collapse.

    Source: Papyan et al. 2020.

    Args:
        features: Last-layer features (n, d).
        labels: Multi-hot (n, k) or class ids (n,).
        weight: Classifier (k, d).
        bias: Its bias (k,).

    Returns:
        The share, in the dtype of the features but at least float32.

    Raises:
        ValueError: As `collapse_statistics` does, or if the classifier does not fit.

    >>> import torch
    >>> nc4(torch.eye(2), torch.arange(2), torch.eye(2)), nc4(torch.eye(2), torch.arange(2), -torch.eye(2))
    (tensor(0.), tensor(1.))
    """
    return _sample_means(features, labels, weight, bias).nc4.to(working_dtype(features))


def cosine_margins(
    features: Float[Tensor, "n d"],
    labels: Shaped[Tensor, "n *k"],
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, " u"]:
    """Cosine margin of each sample with one label, in the order of the samples; `K/(K-1)` at exact collapse
    of features with `mu_G = 0`.

    `c_y - max_{j != y} c_j` with `c_j = (z_j - b_j) / (|h - mu_G| |w_j - wbar|)`; below 0 where another is nearer.
    `h` in the logits is not centered, as in the released code, so values beyond 2 are possible.

    Source: paper 2. Args, Raises: as `nc4`.

    Returns:
        Margins (u,) of the samples with one label; `.sort()` gives the curve of the paper.

    >>> import torch
    >>> cosine_margins(torch.tensor([[1.0], [-1.0]]), torch.arange(2), torch.tensor([[1.0], [-1.0]]))
    tensor([2., 2.])
    """
    return _sample_means(features, labels, weight, bias).margins


def cosine_margin_mean(
    features: Float[Tensor, "n d"],
    labels: Shaped[Tensor, "n *k"],
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of `cosine_margins`. Source: paper 2. Args, Raises: as `nc4`."""
    return cosine_margins(features, labels, weight, bias).mean()


def _sample_means(
    features: Float[Tensor, "n d"],
    labels: Shaped[Tensor, "n *k"],
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"] | None,
) -> SampleMeans:
    return sample_means(features, *statistics_and_classifier(features, labels, weight, bias))
