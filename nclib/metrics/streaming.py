"""Streaming metrics: collapse of features that come in batches and are not stored."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor
from torchmetrics import Metric

from nclib.metrics.label_sets import LabelSets, group_labels, label_sets
from nclib.metrics.measurement import classifier_values, mean_values
from nclib.metrics.norms import feature_norms
from nclib.metrics.prediction import SCORE_NAMES, check_logits, check_not_nan, mean_scores, score_sums
from nclib.metrics.statistics import (
    CollapseStatistics,
    check_classes,
    check_features,
    check_last_layer,
    check_single_labels,
    row_blocks,
    set_means,
    working_dtype,
)
from nclib.metrics.tag_wise import tag_wise_rows
from nclib.metrics.variability import whitenings

SET_STATES = ("set_sizes", "set_classes", "set_counts", "set_means")


class CollapseMetrics(Metric):
    """Collapse metrics over batches of any size, synchronized across ranks: as `measure`, without storing features.

    Keeps in float64 the mean and count of each label set seen, and of the samples with one label the sum of
    `(h - mu_k)(h - mu_k)ᵀ` (d x d) and the squares `|h - mu_k|²` of each class: K d + d² numbers for single labels. A
    batch moves the means in place, and the sums grow by the products of its deviations from the means before and after
    (Welford 1962), so that spreads far below the means keep their digits. No K x K matrix is formed.
    What needs another look at each sample once the means are known, or the features of each class, has no key here:
    `nc4`, `ncc_accuracy`, `cosine_margin_mean` and `nuclear_over_frobenius`.

    Calling the metric updates it and returns nothing, since the collapse of a single batch has no meaning.

    Args:
        num_classes: K, at least 2.
        feature_dim: d.
        classes: "all", or "present" to leave out at the end those without samples, as `measure` does; only the scores
            of `logits` are over all columns.
        kwargs: As `torchmetrics.Metric` takes them.

    >>> metric = CollapseMetrics(num_classes=2, feature_dim=1)
    >>> metric.update(torch.tensor([[1.0], [3.0]]), torch.tensor([0, 0]))
    >>> metric.update(torch.tensor([[-1.0], [-3.0]]), torch.tensor([1, 1]))
    >>> metric.compute()["nc1_quotient"]
    tensor(0.2500, dtype=torch.float64)
    """

    scatter: Tensor
    class_squares: Tensor
    norm_sum: Tensor
    scores: Tensor
    full_state_update = False
    is_differentiable = False

    def __init__(self, num_classes: int, feature_dim: int, *, classes: str = "all", **kwargs: object) -> None:
        # compute takes the classifier, so its result must not be kept for the next one
        super().__init__(compute_with_cache=False, **kwargs)
        if num_classes < 2 or feature_dim < 1:
            raise ValueError(f"Expected num_classes >= 2 and feature_dim >= 1, but got {num_classes}, {feature_dim}.")
        check_classes(classes)
        self.classes = classes
        self.num_classes = num_classes
        self.feature_dim = feature_dim
        self._add_sum("scatter", feature_dim, feature_dim)
        self._add_sum("class_squares", num_classes)
        self._add_sum("norm_sum")
        self._add_sum("scores", 2, len(SCORE_NAMES))
        for name in SET_STATES:
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self._start_sets()

    def _add_sum(self, name: str, *shape: int) -> None:
        self.add_state(name, default=torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def _start_sets(self) -> None:
        # no rows rather than no tensors, so that a rank without samples fits the others in a synchronization
        integers = torch.zeros(0, dtype=torch.int64, device=self.device)
        means = torch.zeros(0, self.feature_dim, dtype=torch.float64, device=self.device)
        self.set_sizes, self.set_classes, self.set_counts, self.set_means = [integers], [integers], [integers], [means]

    def reset(self) -> None:
        super().reset()
        self._start_sets()

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        self.update(*args, **kwargs)
        return {}

    @torch.no_grad()
    def update(
        self,
        features: Float[Tensor, "n d"],
        labels: Shaped[Tensor, "n *k"],
        logits: Float[Tensor, "n k"] | None = None,
    ) -> None:
        """Takes in a batch, or nothing if it raises. Args: as `measure`; without logits there are no accuracies."""
        check_features(features, labels)
        if features.shape[1] != self.feature_dim:
            raise ValueError(f"Expected features of {self.feature_dim} columns, but got {features.shape[1]}.")
        if logits is not None:
            check_logits(logits, labels, num_classes=self.num_classes)
        if labels.ndim == 2 and not bool(labels.any()):
            return
        sets = label_sets(labels, num_classes=self.num_classes)
        if logits is not None:
            self._add_scores(logits, sets)
        self._unite_sets()
        before, after = self._enter_sets(sets.multiplicity, sets.classes, sets.counts, set_means(features, sets))
        for rows in row_blocks(features):
            rows = torch.arange(rows.start, rows.stop, device=features.device)[sets.is_single[rows]]
            ids, block = sets.of_sample[rows], features[rows].double()
            self.norm_sum += feature_norms(block).sum()
            self._add_products(block - before[ids], block - after[ids], sets.slots[ids, 0])

    def compute(
        self, weight: Float[Tensor, "k d"] | None = None, bias: Float[Tensor, " k"] | None = None
    ) -> dict[str, Float64[Tensor, ""]]:
        """The metrics of everything seen since the last reset, on all ranks, by the names of `measure`.

        Raises:
            ValueError: If a class was never seen alone, features were not finite, or the classifier does not fit.
        """
        statistics = self._statistics()
        within = self.scatter / statistics.class_counts.sum()
        directions = whitenings(statistics)
        values = {name: _trace(whitening, within) for name, whitening in directions.items()}
        values.setdefault("separation", statistics.sets.num_classes * values["nc1"])
        values["class_mean_rank"] = within.new_tensor(len(directions["nc1"]))
        values["feature_norm"] = self.norm_sum / statistics.class_counts.sum()
        (class_squares,) = statistics.sets.rows_of_kept(self.class_squares)
        values |= mean_values(statistics, (class_squares / statistics.class_counts).clamp(min=0))
        if weight is not None:
            last_layer = check_last_layer(weight, bias, feature_dim=self.feature_dim, num_classes=self.num_classes)
            values |= classifier_values(statistics, *statistics.sets.rows_of_kept(*last_layer))
        values |= {f"{name}_{m}": value for name, m, value in tag_wise_rows(statistics)}
        return values | mean_scores(self.scores)

    def _statistics(self) -> CollapseStatistics:
        self._unite_sets()
        sizes, classes, counts, means = (getattr(self, name)[0] for name in SET_STATES)
        if len(counts) == 0:
            raise ValueError("Expected an update with labeled samples before compute, but there was none.")
        # as the rows of the state stand in the order of the sets, each once
        sets = replace(group_labels(sizes, classes, num_classes=self.num_classes), counts=counts)
        sets = sets.present() if self.classes == "present" else sets
        check_single_labels(sets)
        if not bool((means.sum() + self.scatter.sum()).isfinite()):
            raise ValueError("Expected finite features, but a batch had NaN or infinity.")
        return CollapseStatistics(sets, means)

    def _unite_sets(self) -> None:
        """One row for each label set, where a synchronization or `merge_state` joined those of several metrics."""
        states = [getattr(self, name) for name in SET_STATES]
        if isinstance(states[0], list) and len(states[0]) == 1:
            return
        sizes, classes, counts, means = (torch.cat(rows) if isinstance(rows, list) else rows for rows in states)
        self._start_sets()
        before, after = self._enter_sets(sizes, classes, counts, means)
        single = sizes == 1
        weighted = (means - before)[single] * counts[single].unsqueeze(1)
        self._add_products(weighted, (means - after)[single], classes[(sizes.cumsum(0) - sizes)[single]])

    def _enter_sets(
        self,
        sizes: Int64[Tensor, " b"],
        classes: Int64[Tensor, " e"],
        counts: Int64[Tensor, " b"],
        means: Float64[Tensor, "b d"],
    ) -> tuple[Float64[Tensor, "b d"], Float64[Tensor, "b d"]]:
        """Move the means of the state by those of further samples; for each of these the mean before and after.

        A label set that was not there before has one of the given means as the mean before.
        """
        old_sizes, old_classes, old_counts, old_means = (getattr(self, name)[0] for name in SET_STATES)
        sets = group_labels(
            torch.cat([old_sizes, sizes]), torch.cat([old_classes, classes]), num_classes=self.num_classes
        )
        old, new = sets.of_sample.split([len(old_sizes), len(sizes)])
        all_counts = torch.zeros_like(sets.counts).index_copy_(0, old, old_counts).index_add_(0, new, counts)
        if len(sets.counts) > len(old):
            all_means = means.new_empty(len(sets.counts), self.feature_dim)
            old_means = all_means.index_copy_(0, new, means).index_copy_(0, old, old_means)
        self.set_sizes, self.set_classes, self.set_counts = [sets.multiplicity], [sets.classes], [all_counts]
        self.set_means = [old_means]
        before = old_means[new]
        moved, place = new.unique(return_inverse=True)
        shifts = means.new_zeros(len(moved), self.feature_dim)
        shifts.index_add_(0, place, (means - before).mul_(counts.unsqueeze(1)))
        old_means.index_add_(0, moved, shifts.div_(all_counts[moved].unsqueeze(1)))
        return before, old_means[new]

    def _add_products(
        self, before: Float64[Tensor, "b d"], after: Float64[Tensor, "b d"], classes: Int64[Tensor, " b"]
    ) -> None:
        """Enter the deviations from the means before and after, whose products are what the squares grow by."""
        self.scatter.addmm_(before.T, after)
        self.class_squares.index_add_(0, classes, (before * after).sum(dim=1))

    def _add_scores(self, logits: Float[Tensor, "n k"], sets: LabelSets) -> None:
        ids = sets.of_sample.clamp(min=0)
        labeled = sets.of_sample >= 0
        sums = score_sums(logits.to(working_dtype(logits)), sets.slots[ids], labeled=labeled, single=sets.is_single)
        check_not_nan(sums)
        self.scores += sums


def _trace(whitening: Float64[Tensor, "r d"], within: Float64[Tensor, "d d"]) -> Float64[Tensor, ""]:
    return ((whitening @ within) * whitening).sum().clamp(min=0)
