"""Collapse of class means and classifier: variability (nc1), simplex geometry (nc2), duality (nc3) and kin.

Functions of `features` and `labels` use only the samples with exactly one label.
"""

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from nclib.metrics.classifier import Classifier, statistics_and_classifier
from nclib.metrics.geometry import angle_deviation, centered, norm_variation, simplex_distance
from nclib.metrics.statistics import CollapseStatistics, collapse_statistics, working_dtype
from nclib.metrics.within import class_variances, within_trace

RANK_RTOL = 1e-12
"""Eigenvalues of the between-class covariance below this share of the largest count as zero."""


def nc1(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """Within-class variability against between-class: `tr(Sigma_W Sigma_B^+) / K`; in [0, inf), 0 at collapse.

    `Sigma_W` is a mean over samples, `Sigma_B` a mean over classes of `(mu_k - mu_G)(mu_k - mu_G)ᵀ`; the pseudo-inverse
    cuts eigenvalues below `RANK_RTOL` of the largest. Needs a K x K eigenproblem (d x d where d < K) and two reads of
    the features; covariances are never formed.

    Source: both papers; paper 1's released code differs in `mu_G`, see `released_nc1`.

    Args:
        features: Last-layer features (n, d).
        labels: Multi-hot (n, k) or class ids (n,).

    Returns:
        The metric, in the dtype of the features but at least float32.

    Raises:
        ValueError: As `collapse_statistics` does.

    >>> h = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> nc1(h, torch.tensor([0, 0, 1, 1])), nc1(h + 5, torch.tensor([0, 0, 1, 1]))
    (tensor(0.), tensor(0.))
    """
    statistics = collapse_statistics(features, labels)
    whitening = between_whitening(statistics.centered_class_means)
    return within_trace(features, statistics, whitening).to(working_dtype(features))


def nc1_quotient(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """`tr Sigma_W / tr Sigma_B`, with `Sigma_W` a mean over samples; in [0, inf), 0 at collapse.

    Source: Tirer et al. 2023. Args, Returns, Raises: as `nc1`.

    >>> nc1_quotient(torch.tensor([[1.0], [3.0], [-1.0], [-3.0]]), torch.tensor([0, 0, 1, 1]))
    tensor(0.2500)
    """
    statistics = collapse_statistics(features, labels)
    variances = class_variances(features, statistics)
    return variance_quotient(statistics, variances).to(working_dtype(features))


def nc1_cdnv(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """Class-distance normalized variance: mean over pairs of classes k < l of `(var_k + var_l) / (2 |mu_k - mu_l|²)`.

    `var_k` is the mean squared distance of a class to its mean (over n_k). In [0, inf), 0 at collapse.

    Source: Galanti et al. 2021. Args, Returns, Raises: as `nc1`.

    >>> nc1_cdnv(torch.tensor([[1.0], [3.0], [-1.0], [-3.0]]), torch.tensor([0, 0, 1, 1]))
    tensor(0.0625)
    """
    statistics = collapse_statistics(features, labels)
    return mean_cdnv(statistics, class_variances(features, statistics)).to(working_dtype(features))


def nc2_w(weight: Float[Tensor, "k d"]) -> Float[Tensor, ""]:
    """`| WWᵀ/|WWᵀ|_F - T |_F`, W **not** centered, as released with paper 1; in [0, 2], 0 for a simplex ETF.

    Source: paper 1.

    Args:
        weight: Classifier (k, d), k >= 2.

    Returns:
        The metric, in the dtype of `weight` but at least float32.

    Raises:
        ValueError: If `weight` is not (k, d) with k >= 2.

    >>> nc2_w(torch.tensor([[1.0], [-1.0]]))
    tensor(0.)
    """
    rows = _rows(weight)
    return simplex_distance(rows @ rows.T).to(working_dtype(weight))


def nc2_w_centered(weight: Float[Tensor, "k d"]) -> Float[Tensor, ""]:
    """`nc2_w` of the weight minus its mean row; in [0, 2], 0 for a simplex ETF.

    Source: paper 2. Args, Returns, Raises: as `nc2_w`.

    >>> nc2_w_centered(torch.tensor([[3.0], [1.0]]))
    tensor(0.)
    """
    rows = centered(_rows(weight))
    return simplex_distance(rows @ rows.T).to(working_dtype(weight))


def nc2_h(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """`nc2_w` of the stacked class means `mu_k`, **not** centered, as released with paper 1; in [0, 2], 0 at collapse.

    Source: paper 1. Args, Returns, Raises: as `nc1`.

    >>> nc2_h(torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]))
    tensor(0.)
    """
    return nc2_w(_means(features, labels)).to(working_dtype(features))


def nc2_h_centered(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """`nc2_w` of the class means minus `mu_G`; in [0, 2], 0 at collapse.

    Source: paper 2. Args, Returns, Raises: as `nc1`.

    >>> nc2_h_centered(torch.tensor([[3.0], [1.0]]), torch.tensor([0, 1]))
    tensor(0.)
    """
    return nc2_w_centered(_means(features, labels)).to(working_dtype(features))


def nc3(
    features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"], weight: Float[Tensor, "k d"]
) -> Float[Tensor, ""]:
    """Self-duality `| W Hbar/|W Hbar|_F - T |_F`, `Hbar` the columns `mu_k - mu_G`, W **not** centered; in [0, 2].

    0 at collapse, where the classifier equals the centered class means up to scale.

    Source: paper 1; its released code differs in `mu_G`, see `released_nc3`.

    Args:
        features: Last-layer features (n, d).
        labels: Multi-hot (n, k) or class ids (n,).
        weight: Classifier (k, d).

    Returns:
        The metric, in the dtype of the features but at least float32.

    Raises:
        ValueError: As `collapse_statistics` does, or if the classifier does not fit.

    >>> nc3(torch.tensor([[3.0], [1.0]]), torch.tensor([0, 1]), torch.tensor([[5.0], [-5.0]]))
    tensor(0.)
    """
    statistics, classifier = statistics_and_classifier(features, labels, weight)
    return duality_distance(classifier.weight, statistics.centered_class_means).to(working_dtype(features))


def nc3_centered(
    features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"], weight: Float[Tensor, "k d"]
) -> Float[Tensor, ""]:
    """`nc3` with the mean row of W subtracted, too; in [0, 2], 0 at collapse.

    Source: paper 2. Args, Returns, Raises: as `nc3`.

    >>> nc3_centered(torch.tensor([[3.0], [1.0]]), torch.tensor([0, 1]), torch.tensor([[5.0], [1.0]]))
    tensor(0.)
    """
    statistics, classifier = statistics_and_classifier(features, labels, weight)
    return duality_distance(centered(classifier.weight), statistics.centered_class_means).to(working_dtype(features))


def equinorm_w(weight: Float[Tensor, "k d"]) -> Float[Tensor, ""]:
    """Coefficient of variation (std over K / mean) of the row norms of the centered weight; in [0, inf), 0 at collapse.

    Source: Papyan et al. 2020. Args, Returns, Raises: as `nc2_w`.

    >>> equinorm_w(torch.eye(4))
    tensor(0.)
    """
    return norm_variation(centered(_rows(weight))).to(working_dtype(weight))


def equinorm_h(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """`equinorm_w` of the centered class means. Args, Returns, Raises: as `nc1`.

    >>> equinorm_h(torch.eye(4), torch.arange(4))
    tensor(0.)
    """
    return equinorm_w(_means(features, labels)).to(working_dtype(features))


def equiangle_w(weight: Float[Tensor, "k d"]) -> Float[Tensor, ""]:
    """Mean over pairs of rows of the centered weight of `|cos + 1/(K-1)|`; in [0, 1 + 1/(K-1)], 0 at collapse.

    Source: Papyan et al. 2020. Args, Returns, Raises: as `nc2_w`.

    >>> equiangle_w(torch.eye(4)).round(decimals=5)
    tensor(0.)
    """
    return angle_deviation(centered(_rows(weight))).to(working_dtype(weight))


def equiangle_h(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """`equiangle_w` of the centered class means. Args, Returns, Raises: as `nc1`.

    >>> equiangle_h(torch.eye(4), torch.arange(4)).round(decimals=5)
    tensor(0.)
    """
    return equiangle_w(_means(features, labels)).to(working_dtype(features))


def bias_residual(
    features: Float[Tensor, "n d"],
    labels: Shaped[Tensor, "n *k"],
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """`| W mu_G + b |_2`: what the bias leaves of the logits of the global mean; in [0, inf), 0 at collapse.

    Source: paper 2 (its "Wh_b"). Args, Returns, Raises: as `nc3`; without `bias`, 0 stands for it.

    >>> bias_residual(torch.eye(2), torch.arange(2), torch.eye(2), torch.tensor([-0.5, -0.5]))
    tensor(0.)
    """
    statistics, classifier = statistics_and_classifier(features, labels, weight, bias)
    return mean_logit_norm(statistics.global_mean, classifier).to(working_dtype(features))


def between_whitening(deviations: Float64[Tensor, "k d"]) -> Float64[Tensor, "r d"]:
    """Rows `A` with `AᵀA = (1/K) Sigma_B^+`, so that `tr(Sigma_W Sigma_B^+) / K` is the mean of `|A (h - mu_k)|²`.

    Args:
        deviations: Class means minus the global mean (k, d); `Sigma_B = deviationsᵀ deviations / K`.

    Returns:
        A (r, d), r the numerical rank; the eigenproblem has the smaller of k and d rows.

    Raises:
        ValueError: If all deviations are 0.
    """
    k, d = deviations.shape
    gram = deviations @ deviations.T if k <= d else deviations.T @ deviations
    eigenvalues, vectors = torch.linalg.eigh(gram)
    kept = eigenvalues > RANK_RTOL * eigenvalues[-1]
    if not bool(kept.any()):
        raise ValueError("Expected class means that differ, but all are equal: there is no between-class direction.")
    eigenvalues, vectors = eigenvalues[kept].unsqueeze(1), vectors.T[kept]
    if k <= d:
        return vectors / eigenvalues @ deviations
    return vectors / eigenvalues.sqrt()


def variance_quotient(statistics: CollapseStatistics, class_variances: Float64[Tensor, " k"]) -> Float64[Tensor, ""]:
    """`nc1_quotient` from the variance of each class."""
    counts = statistics.class_counts.double()
    within = (counts @ class_variances) / counts.sum()
    return within / statistics.centered_class_means.square().sum(dim=1).mean()


def mean_cdnv(statistics: CollapseStatistics, class_variances: Float64[Tensor, " k"]) -> Float64[Tensor, ""]:
    """`nc1_cdnv` from the variance of each class."""
    distances = torch.pdist(statistics.class_means)
    first, second = torch.triu_indices(*2 * [len(class_variances)], offset=1, device=distances.device)
    return ((class_variances[first] + class_variances[second]) / (2 * distances.square())).mean()


def duality_distance(weight: Float64[Tensor, "k d"], centered_means: Float64[Tensor, "k d"]) -> Float64[Tensor, ""]:
    """`nc3` from the weight and the centered class means."""
    return simplex_distance(weight @ centered_means.T)


def mean_logit_norm(mean: Float64[Tensor, " d"], classifier: Classifier) -> Float64[Tensor, ""]:
    """`bias_residual` from the global mean."""
    return torch.linalg.vector_norm(classifier.weight @ mean + classifier.bias)


def _rows(weight: Float[Tensor, "k d"]) -> Float64[Tensor, "k d"]:
    if weight.ndim != 2 or len(weight) < 2:
        raise ValueError(f"Expected a matrix (k, d) with k >= 2, but got shape {tuple(weight.shape)}.")
    return weight.double()  # whose products autocast leaves alone, too


def _means(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float64[Tensor, "k d"]:
    return collapse_statistics(features, labels).class_means
