"""Variability within the classes against the distances between them: the nc1 family.

All look only at the samples with exactly one label.
"""

import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from nclib.metrics.deviations import deviation_blocks, mean_rounding, project, trace_of_rounding
from nclib.metrics.rows import Rows, pair_statistics
from nclib.metrics.statistics import CollapseStatistics, collapse_statistics, working_dtype

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
    return _nc1(features, statistics, statistics.deviations).to(working_dtype(features))


def released_nc1(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """`nc1` with the released `mu_G`: one-label features summed, divided by the number of **all** samples.

    In [0, inf), 0 at collapse. Equals `nc1` on balanced single-label data. With multi-label samples this "global mean"
    is too short: on the paper's MNIST set 0.775 of the true mean.

    Source: paper 1's released code. Args, Returns, Raises: as `nc1`.

    >>> released_nc1(torch.tensor([[1.0], [3.0], [-1.0], [-3.0]]), torch.tensor([0, 0, 1, 1]))
    tensor(0.1250)
    """
    statistics = collapse_statistics(features, labels)
    return _nc1(features, statistics, statistics.released_deviations).to(working_dtype(features))


def separation(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """`tr(SS_W SS_B^+)` of the sums of squares within and between classes; in [0, inf), 0 at collapse.

    `SS_B = sum_k n_k (mu_k - m)(mu_k - m)ᵀ` with the mean m of all one-label samples; `K nc1` where all `n_k` are
    equal. "Law of data separation": it falls by a constant factor from layer to layer.

    Source: He & Su 2023. Args, Returns, Raises: as `nc1`.

    >>> separation(torch.tensor([[1.0], [3.0], [-1.0], [-3.0]]), torch.tensor([0, 0, 1, 1]))
    tensor(0.2500)
    """
    statistics = collapse_statistics(features, labels)
    return _nc1(features, statistics, statistics.weighted_deviations).to(working_dtype(features))


def class_mean_rank(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Int64[Tensor, ""]:
    """Numerical rank of the class means minus `mu_G`, by the cut of `nc1`; K - 1 at collapse where d allows it.

    Source: reported layer by layer by Rangamani et al. 2023. Args, Raises: as `nc1`.

    >>> class_mean_rank(torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, 5.0]]), torch.arange(3))
    tensor(1)
    """
    directions = between_whitening(collapse_statistics(features, labels).deviations)
    return torch.tensor(len(directions), device=features.device)


def _nc1(features: Float[Tensor, "n d"], statistics: CollapseStatistics, deviations: Rows) -> Float64[Tensor, ""]:
    """`nc1` from the class means minus the global mean."""
    directions = between_whitening(deviations)
    rounded = directions.to(working_dtype(features))
    num_classes = statistics.sets.num_classes
    total = torch.zeros((), dtype=torch.float64, device=features.device)
    for rows, ids, block in deviation_blocks(features, statistics, columns=len(rounded)):
        single = (ids < num_classes) & (statistics.sets.of_sample[rows] >= 0)
        squares = project(block, rounded).square_().sum(dim=1)
        total += (squares * single).sum(dtype=torch.float64)
    added = trace_of_rounding(mean_rounding(features, statistics), statistics, directions)
    return (total / statistics.class_counts.sum() - added).clamp(min=0)


def between_whitening(deviations: Rows) -> Float64[Tensor, "r d"]:
    """Rows `A` with `AᵀA = (1/K) Sigma_B^+`, so that `nc1` is the mean of `|A (h - mu_k)|²`; r is the numerical rank.

    `Sigma_B = deviationsᵀ deviations / K`; the eigenproblem has the smaller of k and d rows.
    """
    k, d = deviations.values.shape
    gram = deviations.dense @ deviations.dense.T if k <= d else deviations.moment
    eigenvalues, vectors = torch.linalg.eigh(gram)
    kept = eigenvalues > RANK_RTOL * eigenvalues[-1]
    if not bool(kept.any()):
        raise ValueError("Expected class means that differ, but all are equal: there is no between-class direction.")
    eigenvalues, vectors = eigenvalues[kept].unsqueeze(1), vectors.T[kept]
    if k <= d:
        return vectors / eigenvalues @ deviations.dense
    return vectors / eigenvalues.sqrt()


def whitenings(statistics: CollapseStatistics) -> dict[str, Float64[Tensor, "_ d"]]:
    """`between_whitening` for each metric that is a mean of `|A (h - mu_k)|²`, by its name.

    Without `separation` where all classes have as many samples: it is `K nc1` then.
    """
    found = {
        "nc1": between_whitening(statistics.deviations),
        "released_nc1": between_whitening(statistics.released_deviations),
    }
    if bool((statistics.class_counts != statistics.class_counts[0]).any()):
        found["separation"] = between_whitening(statistics.weighted_deviations)
    return found


def nc1_quotient(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """`tr Sigma_W / tr Sigma_B`, with `Sigma_W` a mean over samples; in [0, inf), 0 at collapse.

    Source: Tirer et al. 2023. Args, Returns, Raises: as `nc1`.

    >>> nc1_quotient(torch.tensor([[1.0], [3.0], [-1.0], [-3.0]]), torch.tensor([0, 0, 1, 1]))
    tensor(0.2500)
    """
    statistics = collapse_statistics(features, labels)
    return _nc1_quotient(statistics, _class_variances(features, statistics)).to(working_dtype(features))


def _nc1_quotient(statistics: CollapseStatistics, class_variances: Float64[Tensor, " k"]) -> Float64[Tensor, ""]:
    """`nc1_quotient` from the variance of each class."""
    counts = statistics.class_counts.double()
    within = (counts @ class_variances) / counts.sum()
    return within / statistics.deviations.norms.square().mean()


def nc1_cdnv(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """Class-distance normalized variance: mean over pairs of classes k < l of `(var_k + var_l) / (2 |mu_k - mu_l|²)`.

    `var_k` is the mean squared distance of a class to its mean (over n_k). In [0, inf), 0 at collapse.

    Source: Galanti et al. 2021. Args, Returns, Raises: as `nc1`.

    >>> nc1_cdnv(torch.tensor([[1.0], [3.0], [-1.0], [-3.0]]), torch.tensor([0, 0, 1, 1]))
    tensor(0.0625)
    """
    statistics = collapse_statistics(features, labels)
    variances = _class_variances(features, statistics)
    return pair_statistics(statistics.deviations, variances).cdnv.to(working_dtype(features))


def _class_variances(features: Float[Tensor, "n d"], statistics: CollapseStatistics) -> Float64[Tensor, " k"]:
    """`var_k`: mean squared distance of the features of a class (one-label samples) to their mean."""
    sums = torch.zeros(len(statistics.sets.counts), dtype=torch.float64, device=features.device)
    for rows, ids, block in deviation_blocks(features, statistics):
        labeled = statistics.sets.of_sample[rows] >= 0
        squares = torch.linalg.vector_norm(block, dim=1).double().square()
        sums += torch.bincount(ids, weights=squares * labeled, minlength=len(sums))
    variances = (sums / statistics.sets.counts)[: statistics.sets.num_classes]
    return (variances - mean_rounding(features, statistics).square().sum(dim=1)).clamp(min=0)
