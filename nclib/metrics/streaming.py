"""Streaming metrics: collapse of features that come in batches and are not stored."""

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor
from torchmetrics import Metric

from nclib.metrics.collapse import between_whitening
from nclib.metrics.label_sets import LabelSets, label_sets
from nclib.metrics.prediction import label_ranks, label_scores
from nclib.metrics.released import released_deviations
from nclib.metrics.scalars import classifier_scalars, mean_scalars, tag_wise_scalars
from nclib.metrics.statistics import (
    CollapseStatistics,
    check_features,
    check_single_labels,
    row_blocks,
    set_means,
    working_dtype,
)

PREDICTION_NAMES = ("soft_iou", "jaccard", "subset_accuracy", "top1", "top5")


class CollapseMetrics(Metric):
    """Collapse metrics over batches of any size, synchronised across ranks: as `measure`, without storing features.

    Keeps sums in float64: of features and counts for each label set seen, and of `h hᵀ` over the samples with one
    label (d x d). float32 features of mean 1e4 and spread 1 lose nothing that shows in 1e-6. What needs another look
    at each sample once the means are known, or the features of each class, has no key here: `nc4`,
    `cosine_margin_mean` and `nuclear_over_frobenius`.

    Calling the metric updates it and returns nothing, since the collapse of a single batch has no meaning.

    Args:
        num_classes: K, at least 2.
        feature_dim: d.
        kwargs: As `torchmetrics.Metric` takes them.

    >>> metric = CollapseMetrics(num_classes=2, feature_dim=1)
    >>> metric.update(torch.tensor([[1.0], [3.0]]), torch.tensor([0, 0]))
    >>> metric.update(torch.tensor([[-1.0], [-3.0]]), torch.tensor([1, 1]))
    >>> metric.compute()["nc1_quotient"]
    tensor(0.2500, dtype=torch.float64)
    """

    full_state_update = False
    is_differentiable = False

    def __init__(self, num_classes: int, feature_dim: int, **kwargs: object) -> None:
        # compute takes the classifier, so its result must not be kept for the next one
        super().__init__(compute_with_cache=False, **kwargs)
        if num_classes < 2 or feature_dim < 1:
            raise ValueError(f"Expected num_classes >= 2 and feature_dim >= 1, but got {num_classes}, {feature_dim}.")
        self.num_classes = num_classes
        self.feature_dim = feature_dim
        self._add_sum("scatter", feature_dim, feature_dim)
        self._add_sum("class_squares", num_classes)
        self._add_sum("prediction_sums", len(PREDICTION_NAMES))
        self._add_sum("prediction_counts", len(PREDICTION_NAMES))
        for name in ("set_members", "set_counts", "set_sums"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def _add_sum(self, name: str, *shape: int) -> None:
        self.add_state(name, default=torch.zeros(*shape, dtype=torch.float64), dist_reduce_fx="sum")

    def forward(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        self.update(*args, **kwargs)
        return {}

    @torch.no_grad()
    def update(
        self,
        features: Float[Tensor, "n d"],
        labels: Shaped[Tensor, "n *k"],
        logits: Float[Tensor, "n k"] | None = None,
    ) -> None:
        """Takes in a batch.

        Args:
            features: Last-layer features (n, d).
            labels: Multi-hot (n, k) or class ids (n,); samples without labels are left out.
            logits: Logits (n, k); without them in any batch there are no accuracies.

        Raises:
            ValueError: If shapes do not fit or labels are invalid.
        """
        check_features(features, labels)
        if features.shape[1] != self.feature_dim:
            raise ValueError(f"Expected features of {self.feature_dim} columns, but got {features.shape[1]}.")
        if labels.ndim == 2 and not bool(labels.any()):
            return
        sets = label_sets(labels, num_classes=self.num_classes)
        sums = set_means(features, sets) * sets.counts.unsqueeze(1)
        self._add_sets(sets.members.to(torch.uint8), sets.counts, sums)
        self._add_squares(features, sets)
        if logits is not None:
            self._add_predictions(logits, sets)

    def compute(
        self, weight: Float[Tensor, "k d"] | None = None, bias: Float[Tensor, " k"] | None = None
    ) -> dict[str, Float64[Tensor, ""]]:
        """The metrics of everything seen since the last reset, on all ranks.

        Args:
            weight: Classifier (k, d); without it there are no metrics of the classifier.
            bias: Its bias (k,).

        Returns:
            Name to value, the names of `measure`.

        Raises:
            ValueError: If a class was never seen alone, or features were not finite.
        """
        statistics = self._statistics()
        counts = statistics.class_counts.double()
        means = statistics.class_means
        within = (self.scatter - (means.T * counts) @ means) / counts.sum()
        variances = (self.class_squares / counts - means.square().sum(dim=1)).clamp(min=0)
        values = {
            "nc1": _trace(between_whitening(statistics.centered_class_means), within),
            "released_nc1": _trace(between_whitening(released_deviations(statistics)), within),
        }
        values |= mean_scalars(statistics, variances) | tag_wise_scalars(statistics)
        if weight is not None:
            weight = weight.detach().double()
            bias = weight.new_zeros(len(weight)) if bias is None else bias.detach().double()
            values |= classifier_scalars(statistics, weight, bias)
        scored = zip(PREDICTION_NAMES, self.prediction_sums, self.prediction_counts, strict=True)
        return values | {name: total / count for name, total, count in scored if count > 0}

    def _statistics(self) -> CollapseStatistics:
        if len(self.set_counts) == 0:
            raise ValueError("Expected an update with labelled samples before compute, but there was none.")
        # after a synchronisation every rank's sets stand one behind the other
        self._merge_sets()
        members, counts = self.set_members[0] > 0, self.set_counts[0]
        sets = LabelSets(counts.new_empty(0), members, counts)
        check_single_labels(sets)
        means = self.set_sums[0] / counts.unsqueeze(1)
        if not bool(means.isfinite().all() & self.scatter.isfinite().all()):
            raise ValueError("Expected finite features, but a batch had NaN or infinity.")
        return CollapseStatistics(sets, means)

    def _add_sets(self, members: Tensor, counts: Tensor, sums: Tensor) -> None:
        self.set_members.append(members)
        self.set_counts.append(counts)
        self.set_sums.append(sums)
        self._merge_sets()

    def _merge_sets(self) -> None:
        """One row for each label set, however many batches and ranks brought it."""
        members, counts, sums = (
            torch.cat(rows) if isinstance(rows, list) else rows
            for rows in (self.set_members, self.set_counts, self.set_sums)
        )
        groups = label_sets(members)
        merged_counts = torch.zeros_like(groups.counts).index_add_(0, groups.of_sample, counts)
        merged_sums = sums.new_zeros(len(groups.counts), self.feature_dim).index_add_(0, groups.of_sample, sums)
        self.set_members = [groups.members.to(torch.uint8)]
        self.set_counts = [merged_counts]
        self.set_sums = [merged_sums]

    def _add_squares(self, features: Float[Tensor, "n d"], sets: LabelSets) -> None:
        single_sets = sets.multiplicity == 1
        single = (sets.of_sample >= 0) & single_sets[sets.of_sample]
        for rows in row_blocks(features):
            block = features[rows][single[rows]].double()
            classes = sets.slots[sets.of_sample[rows][single[rows]], 0]
            self.scatter.addmm_(block.T, block)
            self.class_squares += torch.bincount(classes, weights=block.square().sum(dim=1), minlength=self.num_classes)

    def _add_predictions(self, logits: Float[Tensor, "n k"], sets: LabelSets) -> None:
        labelled = sets.of_sample >= 0
        logits, of_sample = logits[labelled].to(working_dtype(logits)), sets.of_sample[labelled]
        slots = sets.slots[of_sample]
        ranks = label_ranks(logits, slots.clamp(min=0))
        single_ranks = ranks[sets.multiplicity[of_sample] == 1, 0]
        scores = [*label_scores(logits, ranks, slots), single_ranks < 1, single_ranks < 5]
        self.prediction_sums += torch.stack([score.sum(dtype=torch.float64) for score in scores])
        self.prediction_counts += self.prediction_counts.new_tensor([len(score) for score in scores])


def _trace(whitening: Float64[Tensor, "r d"], within: Float64[Tensor, "d d"]) -> Float64[Tensor, ""]:
    return ((whitening @ within) * whitening).sum().clamp(min=0)
