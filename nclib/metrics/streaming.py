"""Streaming metrics: collapse of features that come in batches and are not stored."""

import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor
from torchmetrics import Metric

from nclib.metrics.label_sets import LabelSets, label_sets
from nclib.metrics.measurement import classifier_values, mean_values
from nclib.metrics.norms import feature_norms
from nclib.metrics.prediction import SCORE_NAMES, check_logits, check_not_nan, mean_scores, score_sums
from nclib.metrics.statistics import (
    CollapseStatistics,
    check_features,
    check_last_layer,
    check_single_labels,
    row_blocks,
    set_means,
    working_dtype,
)
from nclib.metrics.tag_wise import tag_wise_rows
from nclib.metrics.variability import whitenings


class CollapseMetrics(Metric):
    """Collapse metrics over batches of any size, synchronized across ranks: as `measure`, without storing features.

    Keeps in float64 the mean and count of each label set seen, and of the samples with one label the sum of
    `(h - mu_k)(h - mu_k)ᵀ` (d x d) and the squares `|h - mu_k|²` of each class. Batches and ranks are merged by the
    parallel formula of Chan et al. (1979), a sum of squares, so that spreads far below the means keep their digits.
    What needs another look at each sample once the means are known, or the features of each class, has no key here:
    `nc4`, `ncc_accuracy`, `cosine_margin_mean` and `nuclear_over_frobenius`.

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
        self._add_sum("norm_sum")
        self._add_sum("scores", 2, len(SCORE_NAMES))
        for name in ("set_members", "set_counts", "set_means"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self._start_sets()

    def _add_sum(self, name: str, *shape: int) -> None:
        self.add_state(name, default=torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def _start_sets(self) -> None:
        # no rows rather than no tensors, so that a rank without samples fits the others in a synchronization
        self.set_members = [torch.zeros(0, self.num_classes, dtype=torch.uint8, device=self.device)]
        self.set_counts = [torch.zeros(0, dtype=torch.int64, device=self.device)]
        self.set_means = [torch.zeros(0, self.feature_dim, dtype=torch.float64, device=self.device)]

    def reset(self) -> None:
        super().reset()
        self._start_sets()

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
        means = set_means(features, sets)
        self._add_deviations(features, sets, means)
        self.set_members.append(sets.members.to(torch.uint8))
        self.set_counts.append(sets.counts)
        self.set_means.append(means)
        self._merge_sets()

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
        values["class_mean_rank"] = within.new_tensor(len(directions["nc1"]))
        values["feature_norm"] = self.norm_sum / statistics.class_counts.sum()
        values |= mean_values(statistics, self.class_squares / statistics.class_counts)
        if weight is not None:
            last_layer = check_last_layer(weight, bias, feature_dim=self.feature_dim, num_classes=self.num_classes)
            values |= classifier_values(statistics, *last_layer)
        values |= {f"{name}_{m}": value for name, m, value in tag_wise_rows(statistics)}
        return values | mean_scores(self.scores)

    def _statistics(self) -> CollapseStatistics:
        # after a synchronization every rank's sets stand one behind the other
        self._merge_sets()
        members, counts, means = self.set_members[0] > 0, self.set_counts[0], self.set_means[0]
        if len(counts) == 0:
            raise ValueError("Expected an update with labeled samples before compute, but there was none.")
        sets = LabelSets(counts.new_empty(0), members, counts)
        check_single_labels(sets)
        if not bool(means.isfinite().all() & self.scatter.isfinite().all()):
            raise ValueError("Expected finite features, but a batch had NaN or infinity.")
        return CollapseStatistics(sets, means)

    def _merge_sets(self) -> None:
        """One row for each label set, however many batches and ranks brought it.

        What the means of its rows differ from their common mean goes into the squared deviations.
        """
        members, counts, means = (
            torch.cat(rows) if isinstance(rows, list) else rows
            for rows in (self.set_members, self.set_counts, self.set_means)
        )
        if len(counts) > 0:
            sets = label_sets(members)
            ids = sets.of_sample
            members, merged_counts = sets.members.to(torch.uint8), torch.zeros_like(sets.counts)
            merged_counts.index_add_(0, ids, counts)
            # about one of the rows: a large common offset would cost digits
            anchors = means.new_empty(len(sets.counts), self.feature_dim).index_copy_(0, ids, means)
            sums = torch.zeros_like(anchors).index_add_(0, ids, (means - anchors[ids]) * counts.unsqueeze(1))
            merged_means = anchors + sums / merged_counts.unsqueeze(1)
            moved = (sets.multiplicity[ids] == 1) & (counts < merged_counts[ids])
            deviations = (means - merged_means[ids]) * counts.double().sqrt().unsqueeze(1)
            self._add_squares(deviations[moved], sets.slots[ids[moved], 0])
            counts, means = merged_counts, merged_means
        self.set_members, self.set_counts, self.set_means = [members], [counts], [means]

    def _add_deviations(self, features: Float[Tensor, "n d"], sets: LabelSets, means: Float64[Tensor, "s d"]) -> None:
        for rows in row_blocks(features):
            ids = sets.of_sample[rows][sets.is_single[rows]]
            block = features[rows][sets.is_single[rows]].double()
            self.norm_sum += feature_norms(block).sum()
            self._add_squares(block - means[ids], sets.slots[ids, 0])

    def _add_squares(self, deviations: Float64[Tensor, "b d"], classes: Int64[Tensor, " b"]) -> None:
        self.scatter.addmm_(deviations.T, deviations)
        self.class_squares += torch.bincount(
            classes, weights=deviations.square().sum(dim=1), minlength=self.num_classes
        )

    def _add_scores(self, logits: Float[Tensor, "n k"], sets: LabelSets) -> None:
        ids = sets.of_sample.clamp(min=0)
        labeled = sets.of_sample >= 0
        sums = score_sums(logits.to(working_dtype(logits)), sets.slots[ids], labeled=labeled, single=sets.is_single)
        check_not_nan(sums)
        self.scores += sums


def _trace(whitening: Float64[Tensor, "r d"], within: Float64[Tensor, "d d"]) -> Float64[Tensor, ""]:
    return ((whitening @ within) * whitening).sum()
