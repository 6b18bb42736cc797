"""From features or logits to label sets: nearest tag-wise average, tuned softmax threshold, top m.

The prediction from the geometry needs no threshold: at collapse the mean feature of a label set is a scaled mean of
its classes' means, so each candidate set has a prototype, and a sample gets the set of its nearest one.
"""

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Integer, Shaped
from torch import Tensor

from nclib.metrics.prediction import check_logits, mean_of_labeled, multi_hot
from nclib.metrics.statistics import CollapseStatistics, collapse_statistics, working_dtype
from nclib.metrics.tag_wise import _tag_wise_fit

MAX_CANDIDATES = 10**6
NUM_THRESHOLDS = 200
DISTANCE_BLOCK = 1 << 22
"""Distances (samples times candidates) computed at a time."""


@dataclass(frozen=True)
class TagAverages:
    """Candidate label sets (multi-hot), and for each the feature `C_m sum_{k in S} mu_k` where it is expected."""

    candidates: Bool[Tensor, "s k"]
    means: Float64[Tensor, "s d"]


def tag_averages(
    features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n k"], *, max_labels: int | None = None
) -> TagAverages:
    """Prototypes `C_m sum_{k in S} mu_k` fitted to training features, the scale `C_m` by least squares for each m.

    Candidates are the label sets of the training data, or with `max_labels` all sets of 1 to so many labels; a
    multiplicity without training samples takes `C_m = 1/m`, the plain mean.

    Source: paper 1, its decoding by the nearest tag-wise average.

    Args:
        features: Training features (n, d).
        labels: Multi-hot (n, k).
        max_labels: Largest candidate sets; without it only sets seen in training.

    Raises:
        ValueError: As `nclib.metrics.collapse_statistics` does, or for more than `MAX_CANDIDATES` candidates.

    >>> h = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.5, 1.5]])
    >>> tag_averages(h, torch.tensor([[1, 0], [0, 1], [1, 1]])).means
    tensor([[2.0000, 0.0000],
            [0.0000, 2.0000],
            [1.5000, 1.5000]], dtype=torch.float64)
    """
    return averages_of_sets(collapse_statistics(features, labels), max_labels=max_labels)


def averages_of_sets(statistics: CollapseStatistics, *, max_labels: int | None = None) -> TagAverages:
    """`tag_averages` from the statistics."""
    sets = statistics.sets
    candidates = sets.members if max_labels is None else _all_sets(sets.num_classes, max_labels).to(sets.members.device)
    means = candidates.double() @ statistics.class_means
    sizes, seen = candidates.sum(dim=1), sets.multiplicity.unique().tolist()
    for size in sizes.unique().tolist():
        means[sizes == size] *= _tag_wise_fit(statistics, size)[0] if size in seen else 1 / size
    return TagAverages(candidates, means)


def nearest_tag_average(features: Float[Tensor, "n d"], prototypes: TagAverages) -> Bool[Tensor, "n k"]:
    """Label set of the nearest prototype (Euclidean), for each sample; no threshold, at least one label.

    The prototypes are `tag_averages` of the training features.

    Source: paper 1, one-nearest-neighbor decoding.

    >>> h = torch.eye(2)
    >>> prototypes = tag_averages(h, torch.eye(2), max_labels=2)
    >>> nearest_tag_average(torch.tensor([[0.6, 0.5]]), prototypes)
    tensor([[True, True]])
    """
    if features.ndim != 2 or features.shape[1] != prototypes.means.shape[1]:
        raise ValueError(f"Expected features (n, {prototypes.means.shape[1]}), but got {tuple(features.shape)}.")
    # centered, so that a common offset takes no digits from |p|² - 2 h p
    center = prototypes.means.mean(dim=0)
    means = prototypes.means - center
    squares = means.square().sum(dim=1)
    rows = max(1, DISTANCE_BLOCK // len(means))
    nearest = [
        torch.addmm(squares, block.double() - center, means.T, alpha=-2).argmin(dim=1) for block in features.split(rows)
    ]
    return prototypes.candidates[torch.cat(nearest)]


def top_m(logits: Float[Tensor, "n k"], m: int | Integer[Tensor, " n"]) -> Bool[Tensor, "n k"]:
    """The m classes with the largest logits of each sample, as a label set; one m for all or one for each sample.

    >>> top_m(torch.tensor([[3.0, 1.0, 2.0]]), 2)
    tensor([[ True, False,  True]])
    """
    order = logits.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(logits.shape[1], device=logits.device).expand_as(order)
    sizes = m.unsqueeze(1) if isinstance(m, Tensor) else m
    return torch.zeros_like(order, dtype=torch.bool).scatter_(1, order, places < sizes)


def threshold_softmax(logits: Float[Tensor, "n k"], threshold: float | int) -> Bool[Tensor, "n k"]:
    """Classes whose softmax probability reaches the threshold, in [0, 1]; the largest one always belongs.

    >>> threshold_softmax(torch.tensor([[2.0, 2.0, 0.0]]), 0.3)
    tensor([[ True,  True, False]])
    """
    probabilities = _softmax(logits)
    return (probabilities >= threshold) | top_m(logits, 1)


def tune_threshold(logits: Float[Tensor, "n k"], labels: Shaped[Tensor, "n *k"]) -> float:
    """Softmax threshold with the best mean Jaccard index on these samples (which should be training samples).

    The candidates are `NUM_THRESHOLDS` quantiles of the probabilities that matter, those above 1e-3; of equally good
    ones the median is taken. For `threshold_softmax`.

    >>> logits = torch.tensor([[4.0, 4.0, 0.0], [9.0, 0.0, 0.0]])
    >>> 0.02 < tune_threshold(logits, torch.tensor([[1, 1, 0], [1, 0, 0]])) < 0.5
    True
    """
    check_logits(logits, labels)
    probabilities = _softmax(logits)
    candidates = _quantiles(probabilities[probabilities > 1e-3].sort().values)
    # sorted once: every threshold predicts the first few classes of a sample, at least one
    order = logits.argsort(dim=1, descending=True, stable=True)
    members = multi_hot(labels, num_classes=logits.shape[1]).gather(1, order)
    ordered, hits = probabilities.gather(1, order), members.cumsum(dim=1)
    sizes, labeled = hits[:, -1], hits[:, -1] > 0
    scores = []
    for candidate in candidates:
        predicted = (ordered >= candidate).sum(dim=1, keepdim=True).clamp(min=1)
        right = hits.gather(1, predicted - 1).squeeze(1)
        scores.append(mean_of_labeled(right / (predicted.squeeze(1) + sizes - right), labeled))
    scores = torch.stack(scores)
    best = candidates[scores == scores.max()]
    return best[len(best) // 2].item()


def set_jaccard(predicted: Bool[Tensor, "n k"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """Mean over samples of `|P ∩ S| / |P ∪ S|`, predicted against true label set; in [0, 1].

    Samples without labels are left out. `nclib.metrics.jaccard` is the same of the top m classes of logits.

    >>> set_jaccard(torch.tensor([[True, True, False]]), torch.tensor([0]))
    tensor(0.5000)
    """
    members = _true_sets(labels, predicted)
    union = (predicted | members).sum(dim=1)
    return mean_of_labeled((predicted & members).sum(dim=1) / union, members.any(dim=1))


def set_subset_accuracy(predicted: Bool[Tensor, "n k"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """Share of samples whose predicted label set is exactly the true one; in [0, 1].

    Samples without labels are left out.

    >>> set_subset_accuracy(torch.tensor([[True, False], [True, True]]), torch.tensor([0, 1]))
    tensor(0.5000)
    """
    members = _true_sets(labels, predicted)
    return mean_of_labeled((predicted == members).all(dim=1).float(), members.any(dim=1))


def _true_sets(labels: Tensor, predicted: Tensor) -> Bool[Tensor, "n k"]:
    fits = labels.shape == (predicted.shape if labels.ndim == 2 else predicted.shape[:1])
    if predicted.ndim != 2 or not fits:
        raise ValueError(
            "Expected predicted label sets (n, k) and labels that are multi-hot (n, k) or class ids (n,), "
            f"but got {tuple(predicted.shape)} and {tuple(labels.shape)}."
        )
    return multi_hot(labels, num_classes=predicted.shape[1])


def _softmax(logits: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    return torch.softmax(logits.to(working_dtype(logits)), dim=1)


def _quantiles(values: Float[Tensor, " q"]) -> Float[Tensor, " t"]:
    """`NUM_THRESHOLDS` of sorted values, evenly spread, each once."""
    # float32 cannot count beyond 2**24
    places = torch.linspace(0, len(values) - 1, NUM_THRESHOLDS, dtype=torch.float64, device=values.device)
    return values[places.round().long()].unique()


def _all_sets(num_classes: int, max_labels: int) -> Bool[Tensor, "s k"]:
    """All sets of 1 to `max_labels` classes."""
    if not 1 <= max_labels <= num_classes:
        raise ValueError(f"Expected max_labels in 1..{num_classes}, but got {max_labels}.")
    sizes = range(1, max_labels + 1)
    candidates = sum(math.comb(num_classes, size) for size in sizes)
    if candidates > MAX_CANDIDATES:
        raise ValueError(
            f"Expected at most {MAX_CANDIDATES:.0e} candidate label sets, but max_labels = {max_labels} of "
            f"{num_classes} classes makes {candidates:.1e}; leave max_labels out to take those seen in training."
        )
    chosen = [torch.tensor(list(itertools.combinations(range(num_classes), size))) for size in sizes]
    rows = [torch.zeros(len(ids), num_classes, dtype=torch.bool).scatter_(1, ids, True) for ids in chosen]
    return torch.cat(rows)
