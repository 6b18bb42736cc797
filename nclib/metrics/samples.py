"""What the metrics need of every sample, summed up in one read of the features: the second pass in full."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from nclib.metrics.classifier import Classifier
from nclib.metrics.geometry import centered
from nclib.metrics.prediction import check_not_nan, label_scores
from nclib.metrics.projection import project
from nclib.metrics.statistics import CollapseStatistics, working_dtype
from nclib.metrics.within import deviation_blocks, mean_rounding, trace_of_rounding


@dataclass(frozen=True)
class SampleMeans:
    """Means over samples; "single" ones over the samples with one label, the others over all that have labels.

    Attributes:
        class_variances: `var_k`, mean squared distance to the class mean, single.
        within_traces: Mean of `|A (h - mu_k)|²` for each matrix A asked for, single.
        nc4: Share where the classifier's argmax is not the nearest class mean, single.
        top1: Share of labels with the largest logit, single.
        top5: Share of labels among the five largest logits, single.
        soft_iou: Softmax probability of the labels.
        jaccard: Jaccard index of the top m classes and the m labels.
        subset_accuracy: Share where those are the same.
        margins: Cosine margin of each sample with one label, in the order of the samples.
    """

    class_variances: Float64[Tensor, " k"]
    within_traces: Float64[Tensor, " a"]
    nc4: Float64[Tensor, ""]
    top1: Float64[Tensor, ""]
    top5: Float64[Tensor, ""]
    soft_iou: Float64[Tensor, ""]
    jaccard: Float64[Tensor, ""]
    subset_accuracy: Float64[Tensor, ""]
    margins: Float[Tensor, " u"]


class SampleTables:
    """Small tables, a row a class or label set, that turn deviations from set means into logits, distances, margins."""

    def __init__(self, statistics: CollapseStatistics, classifier: Classifier, *, dtype: torch.dtype) -> None:
        means = statistics.centered_class_means
        products = means @ means.T
        squares = products.diagonal()
        self.class_squares = squares.to(dtype)
        self.class_distances = (squares.unsqueeze(1) + squares - 2 * products).to(dtype)
        self.set_logits = (statistics.set_means @ classifier.weight.T + classifier.bias).to(dtype)
        self.weight_norms = torch.linalg.vector_norm(centered(classifier.weight), dim=1).to(dtype)
        self.bias = classifier.bias.to(dtype)

    def disagreement(
        self, logits: Float[Tensor, "b k"], mean_products: Float[Tensor, "b k"], classes: Int64[Tensor, " b"]
    ) -> Bool[Tensor, " b"]:
        """Whether the largest logit is not that of the nearest class mean.

        `mean_products` are `(h - mu_y)ᵀ (mu_k - mu_G)`: the squared distances to the class means, up to a number that
        is the same for all k, are `|mu_y - mu_k|²` minus twice that.
        """
        distances = self.class_distances[classes].sub_(mean_products, alpha=2)
        return logits.argmax(dim=1) != distances.argmin(dim=1)

    def margins(
        self,
        logits: Float[Tensor, "b k"],
        mean_products: Float[Tensor, "b k"],
        squares: Float[Tensor, " b"],
        classes: Int64[Tensor, " b"],
    ) -> Float[Tensor, " b"]:
        """`c_y - max_{j != y} c_j` with `c_j = (z_j - b_j) / (|h - mu_G| |w_j - wbar|)`."""
        column = classes.unsqueeze(1)
        # |h - mu_G|² from the deviation: the two other terms do not cancel near collapse
        lengths = squares + 2 * mean_products.gather(1, column).squeeze(1) + self.class_squares[classes]
        cosines = (logits - self.bias).div_(self.weight_norms)
        own = cosines.gather(1, column).squeeze(1)
        others = cosines.scatter_(1, column, -torch.inf).amax(dim=1)
        return (own - others) / lengths.clamp(min=0).sqrt()


def sample_means(
    features: Float[Tensor, "n d"],
    statistics: CollapseStatistics,
    classifier: Classifier,
    *,
    logits: Float[Tensor, "n k"] | None = None,
    whitenings: Sequence[Float64[Tensor, "_ d"]] = (),
) -> SampleMeans:
    """All of `SampleMeans` in one read of the features.

    Args:
        features: Last-layer features (n, d).
        statistics: Their `collapse_statistics`.
        classifier: Last layer.
        logits: Logits of the model, where they are not `W h + b`.
        whitenings: Matrices A of `within_traces`.

    Returns:
        The means.

    Raises:
        ValueError: If given logits are NaN.
    """
    dtype, sets = working_dtype(features), statistics.sets
    tables = SampleTables(statistics, classifier, dtype=dtype)
    parts = [*whitenings, statistics.centered_class_means, classifier.weight]
    directions = torch.cat(parts).to(dtype)
    squares_of_sets = features.new_zeros(len(sets.counts), dtype=torch.float64)
    single_sums = features.new_zeros(len(whitenings) + 3, dtype=torch.float64)
    labeled_sums = features.new_zeros(3, dtype=torch.float64)
    margins = features.new_full((len(features),), torch.nan, dtype=dtype)
    for rows, ids, deviations in deviation_blocks(features, statistics, columns=len(directions)):
        labeled = sets.of_sample[rows] >= 0
        single = labeled & (ids < sets.num_classes)
        classes = ids.clamp(max=sets.num_classes - 1)
        squares = torch.linalg.vector_norm(deviations, dim=1).square_()
        squares_of_sets += torch.bincount(ids, weights=squares.double() * labeled, minlength=len(sets.counts))
        products = project(deviations, directions)
        *projections, mean_products, products = products.split([len(part) for part in parts], dim=1)
        z = products + tables.set_logits[ids] if logits is None else logits[rows].to(dtype)
        scores = label_scores(z, sets.slots[ids])
        single_values = [projection.square().sum(dim=1) for projection in projections]
        single_values += [tables.disagreement(z, mean_products, classes), scores.rank < 1, scores.rank < 5]
        single_sums += _masked_sums(single_values, single)
        labeled_sums += _masked_sums([scores.soft_iou, scores.jaccard, scores.subset_accuracy], labeled)
        block_margins = tables.margins(z, mean_products, squares, classes)
        margins[rows] = torch.where(single, block_margins, torch.nan)
    check_not_nan(labeled_sums)
    num_single = statistics.class_counts.sum()
    *traces, nc4, top1, top5 = single_sums / num_single
    rounding = mean_rounding(features, statistics)
    added = [trace_of_rounding(rounding, statistics, matrix) for matrix in whitenings]
    traces = [(trace - more).clamp(min=0) for trace, more in zip(traces, added, strict=True)]
    variances = (squares_of_sets / sets.counts)[: sets.num_classes] - rounding.square().sum(dim=1)
    soft_iou, jaccard, subset_accuracy = labeled_sums / sets.counts.sum()
    return SampleMeans(
        class_variances=variances.clamp(min=0),
        within_traces=torch.stack(traces) if traces else single_sums[:0],
        nc4=nc4,
        top1=top1,
        top5=top5,
        soft_iou=soft_iou,
        jaccard=jaccard,
        subset_accuracy=subset_accuracy,
        margins=margins if num_single == len(features) else margins[single_samples(statistics)],
    )


def single_samples(statistics: CollapseStatistics) -> Bool[Tensor, " n"]:
    """Which samples have exactly one label."""
    of_sample = statistics.sets.of_sample
    return (of_sample >= 0) & (of_sample < statistics.sets.num_classes)


def _masked_sums(columns: list[Tensor], mask: Bool[Tensor, " b"]) -> Float64[Tensor, " q"]:
    return torch.stack([column.double().where(mask, 0) for column in columns]).sum(dim=1)
