"""Every sample against the classifier and the class means: nc4, cosine margins, and all that one read can measure.

`nc4`, `ncc_accuracy` and the margins use only the samples with exactly one label: of several equally right classes, an
argmax picks any.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from nclib.metrics.deviations import deviation_blocks, mean_rounding, project, trace_of_rounding
from nclib.metrics.label_sets import LabelSets, label_sets
from nclib.metrics.norms import feature_norms
from nclib.metrics.prediction import (
    SCORE_NAMES,
    check_not_nan,
    masked_sums,
    mean_of_labeled,
    mean_scores,
    score_sums,
)
from nclib.metrics.rows import MAX_TABLE, centered
from nclib.metrics.statistics import (
    CollapseStatistics,
    check_features,
    check_last_layer,
    collapse_statistics,
    row_blocks,
    statistics_and_last_layer,
    working_dtype,
)


def nc4(
    features: Float[Tensor, "n d"],
    labels: Shaped[Tensor, "n *k"],
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"] | None = None,
    *,
    class_means: Float[Tensor, "k d"] | None = None,
) -> Float[Tensor, ""]:
    """Share of samples whose nearest class mean is **not** the classifier's argmax; in [0, 1], 0 at collapse.

    Source: Papyan et al. 2020; on held-out data Wu & Papyan 2024, whose released code leaves out the bias. Args,
    Returns, Raises: as `nc1`, the classifier (k, d) and its bias (k,), and for held-out features the `class_means` of
    the training features: then classes may be absent.

    >>> nc4(torch.eye(2), torch.arange(2), torch.eye(2)), nc4(torch.eye(2), torch.arange(2), -torch.eye(2))
    (tensor(0.), tensor(1.))
    """
    check_features(features, labels)
    weight, bias = check_last_layer(weight, bias, feature_dim=features.shape[1])
    sets, nearest = _nearest_means(features, labels, class_means, num_classes=len(weight))
    dtype = working_dtype(features)
    weight, bias = weight.to(dtype), bias.to(dtype)
    chosen = [
        project(features[rows].detach().to(dtype), weight).add_(bias).argmax(dim=1)
        for rows in row_blocks(features, columns=len(weight))
    ]
    return mean_of_labeled((nearest != torch.cat(chosen)).to(dtype), sets.is_single)


def ncc_accuracy(
    features: Float[Tensor, "n d"],
    labels: Shaped[Tensor, "n *k"],
    *,
    class_means: Float[Tensor, "k d"] | None = None,
) -> Float[Tensor, ""]:
    """Share of samples whose nearest class mean is that of their class; in [0, 1], 1 at collapse.

    Source: Papyan et al. 2020. Args, Returns, Raises: as `nc1`, and `class_means` as for `nc4`.

    >>> ncc_accuracy(torch.tensor([[0.0], [2.0], [3.0], [9.0]]), torch.tensor([0, 0, 1, 1]))
    tensor(0.7500)
    """
    check_features(features, labels)
    num_classes = None if class_means is None else len(class_means)
    sets, nearest = _nearest_means(features, labels, class_means, num_classes=num_classes)
    own = sets.slots[sets.of_sample.clamp(min=0), 0]
    return mean_of_labeled((nearest == own).to(working_dtype(features)), sets.is_single)


def nearest_class_mean(features: Float[Tensor, "n d"], class_means: Float[Tensor, "k d"]) -> Int64[Tensor, " n"]:
    """Class of the nearest mean (Euclidean) for each sample, the first of equally near ones.

    >>> nearest_class_mean(torch.tensor([[0.1], [0.9]]), torch.tensor([[0.0], [1.0]]))
    tensor([0, 1])
    """
    if class_means.ndim != 2 or class_means.shape[1] != features.shape[1]:
        raise ValueError(f"Expected class_means (k, {features.shape[1]}), but got {tuple(class_means.shape)}.")
    dtype = working_dtype(features)
    # about their mean, so that a common offset takes no digits
    center = class_means.detach().mean(dim=0)
    means, center = (class_means.detach() - center).to(dtype), center.to(dtype)
    squares = means.square().sum(dim=1)
    nearest = [
        squares.sub(project(features[rows].detach() - center, means), alpha=2).argmin(dim=1)
        for rows in row_blocks(features, columns=len(means))
    ]
    return torch.cat(nearest)


def _nearest_means(
    features: Tensor, labels: Tensor, class_means: Tensor | None, *, num_classes: int | None
) -> tuple[LabelSets, Int64[Tensor, " n"]]:
    """The label sets, and the nearest of the given class means, or of those of the features."""
    if class_means is None:
        statistics = collapse_statistics(features, labels, num_classes=num_classes)
        return statistics.sets, nearest_class_mean(features, statistics.class_means)
    if len(class_means) != num_classes:
        raise ValueError(f"Expected class_means of {num_classes} classes, but got {len(class_means)}.")
    return label_sets(labels, num_classes=num_classes), nearest_class_mean(features, class_means)


def cosine_margins(
    features: Float[Tensor, "n d"],
    labels: Shaped[Tensor, "n *k"],
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, " u"]:
    """Cosine margin of each sample with one label, in their order; `K/(K-1)` at exact collapse if `mu_G = 0`.

    `c_y - max_{j != y} c_j` with `c_j = (z_j - b_j) / (|h - mu_G| |w_j - wbar|)`; below 0 where another is nearer.
    `h` in the logits is not centered, as in the released code, so values beyond 2 are possible.

    `.sort()` gives the curve of the paper.

    Source: paper 2. Args, Raises: as `nc4`.

    >>> cosine_margins(torch.tensor([[1.0], [-1.0]]), torch.arange(2), torch.tensor([[1.0], [-1.0]]))
    tensor([2., 2.])
    """
    return measure_samples(features, *statistics_and_last_layer(features, labels, weight, bias)).margins


def cosine_margin_mean(
    features: Float[Tensor, "n d"],
    labels: Shaped[Tensor, "n *k"],
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of `cosine_margins`. Source: paper 2. Args, Raises: as `nc4`."""
    return cosine_margins(features, labels, weight, bias).mean()


class SampleMeasures(NamedTuple):
    """What one read of the features gives: means over samples by metric, `var_k` of each class, cosine margins."""

    values: dict[str, Float64[Tensor, ""]]
    class_variances: Float64[Tensor, " k"]
    margins: Float[Tensor, " u"]


def measure_samples(
    features: Float[Tensor, "n d"],
    statistics: CollapseStatistics,
    weight: Float[Tensor, "k d"],
    bias: Float64[Tensor, " k"],
    *,
    logits: Float[Tensor, "n k"] | None = None,
    whitenings: Mapping[str, Float64[Tensor, "_ d"]] = MappingProxyType({}),
) -> SampleMeasures:
    """One read of the features; for each matrix A in `whitenings` also the mean of `|A (h - mu_k)|²`, by its name."""
    dtype, sets, means = working_dtype(features), statistics.sets, statistics.deviations.dense
    class_squares, wide = statistics.deviations.norms.square(), weight.double()

    def set_logits(ids: Int64[Tensor, " b"] | slice) -> Float[Tensor, "b k"]:
        return (statistics.set_means[ids] @ wide.T + bias).to(dtype)

    def class_distances(ids: Int64[Tensor, " b"] | slice) -> Float[Tensor, "b k"]:
        return (class_squares[ids].unsqueeze(1) + class_squares - 2 * means[ids] @ means.T).to(dtype)

    if len(sets.counts) * len(means) <= MAX_TABLE:
        set_logits = set_logits(slice(None)).__getitem__  # pyright: ignore[reportAssignmentType]
        class_distances = class_distances(slice(None)).__getitem__  # pyright: ignore[reportAssignmentType]
    class_squares = class_squares.to(dtype)
    weight_norms = centered(weight).norms.to(dtype)
    parts = [*whitenings.values(), means, weight]
    directions = torch.cat([part.to(dtype) for part in parts])
    squares_of_sets = features.new_zeros(len(sets.counts), dtype=torch.float64)
    single_sums = features.new_zeros(len(whitenings) + 3, dtype=torch.float64)
    scores = features.new_zeros(2, len(SCORE_NAMES), dtype=torch.float64)
    margins = features.new_empty(len(features), dtype=dtype)
    is_single = sets.is_single
    for rows, ids, deviations in deviation_blocks(features, statistics, columns=len(directions)):
        labeled, single = sets.of_sample[rows] >= 0, is_single[rows]
        classes = ids.clamp(max=sets.num_classes - 1)
        norms = feature_norms(features[rows])
        squares = torch.linalg.vector_norm(deviations, dim=1).square_()
        squares_of_sets += torch.bincount(ids, weights=squares.double() * labeled, minlength=len(sets.counts))
        products = project(deviations, directions)
        *projections, mean_products, products = products.split([len(part) for part in parts], dim=1)
        z = products + set_logits(ids) if logits is None else logits[rows].to(dtype)
        # |h - mu_k|² up to a number that is the same for all k; mean_products are (h - mu_y)ᵀ (mu_k - mu_G)
        distances = class_distances(classes).sub_(mean_products, alpha=2)
        traces = [projection.square().sum(dim=1) for projection in projections]
        nearest = distances.argmin(dim=1)
        of_single = [*traces, z.argmax(dim=1) != nearest, nearest == classes, norms]
        single_sums += masked_sums(of_single, single)
        scores += score_sums(z, sets.slots[ids], labeled=labeled, single=single)
        # |h - mu_G|² from the deviation: the two other terms do not cancel near collapse
        column = classes.unsqueeze(1)
        lengths = squares + 2 * mean_products.gather(1, column).squeeze(1) + class_squares[classes]
        margins[rows] = _margins((z - bias.to(dtype)).div_(weight_norms), column) / lengths.clamp(min=0).sqrt()
    check_not_nan(scores)
    *traces, nc4, ncc_accuracy, feature_norm = single_sums / statistics.class_counts.sum()
    rounding = mean_rounding(features, statistics)
    added = [trace_of_rounding(rounding, statistics, matrix) for matrix in whitenings.values()]
    traces = [(trace - more).clamp(min=0) for trace, more in zip(traces, added, strict=True)]
    variances = (squares_of_sets / sets.counts)[: sets.num_classes] - rounding.square().sum(dim=1)
    return SampleMeasures(
        values=dict(zip(whitenings, traces, strict=True))
        | {"nc4": nc4, "ncc_accuracy": ncc_accuracy, "feature_norm": feature_norm}
        | mean_scores(scores),
        class_variances=variances.clamp(min=0),
        margins=margins[is_single],
    )


def _margins(values: Float[Tensor, "b k"], column: Int64[Tensor, "b 1"]) -> Float[Tensor, " b"]:
    """The value in each row's column minus the largest other one, which is overwritten."""
    own = values.gather(1, column).squeeze(1)
    return own - values.scatter_(1, column, -torch.inf).amax(dim=1)
