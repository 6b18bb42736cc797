"""How well the logits name the labels: soft IoU, Jaccard index, subset and top-k accuracy.

All lie in [0, 1], 1 is best, and none waits for the device: shapes are checked, labels are not, so a training loop can
call them. Samples without labels are left out, as in `measure`; without any labeled sample the value is NaN. A class
belongs to the top m where fewer than m other classes have a logit at least as large; so ties count against a
prediction and NaN is never right. Predicted label sets have scores of their own in `nclib.decode`.
"""

import torch
from jaxtyping import Bool, Float, Float64, Int64, Integer, Shaped
from torch import Tensor

from nclib.metrics.statistics import working_dtype

SCORE_NAMES = ("soft_iou", "jaccard", "subset_accuracy", "top1", "top5")
MAX_COMPARED = 8
"""Labels per sample up to which their ranks are counted one by one; for more, a sort of the logits is faster."""


def soft_iou(logits: Float[Tensor, "n k"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """Mean over samples of the softmax probability on the true labels, `sum_{k in S} softmax(z)_k`; in [0, 1].

    Source: paper 1, which calls it IoU.

    Args:
        logits: Scores (n, k).
        labels: Multi-hot (n, k) or class ids (n,).

    Returns:
        The share, in the dtype of the logits but at least float32.

    Raises:
        ValueError: If shapes do not fit, or the logits are not of a floating dtype.

    >>> soft_iou(torch.zeros(1, 4), torch.tensor([[1, 1, 0, 0]]))
    tensor(0.5000)
    """
    slots, labeled = _checked_slots(logits, labels)
    return mean_of_labeled(_soft_iou(logits.to(working_dtype(logits)), slots), labeled)


def _soft_iou(logits: Float[Tensor, "n k"], slots: Int64[Tensor, "n m"]) -> Float[Tensor, " n"]:
    """Of each sample."""
    own = logits.gather(1, slots.clamp(min=0)) - logits.logsumexp(dim=1, keepdim=True)
    return own.exp().where(slots >= 0, 0).sum(dim=1)


def subset_accuracy(logits: Float[Tensor, "n k"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """Share of samples whose top m classes are exactly their m labels (m known); single-label: top-1 accuracy.

    Args, Raises: as `soft_iou`. Returns float32.

    >>> subset_accuracy(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[1, 1, 0]]))
    tensor(1.)
    """
    slots, labeled = _checked_slots(logits, labels)
    hits, sizes = _hits(label_ranks(logits, slots), slots)
    return mean_of_labeled((hits == sizes).float(), labeled)


def jaccard(logits: Float[Tensor, "n k"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """Mean Jaccard index of the top m classes and the m labels (m known), `hits / (2m - hits)`.

    Args, Returns, Raises: as `subset_accuracy`.

    >>> jaccard(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[1, 0, 1]]))
    tensor(0.3333)
    """
    slots, labeled = _checked_slots(logits, labels)
    return mean_of_labeled(_jaccard(*_hits(label_ranks(logits, slots), slots)), labeled).float()


def _jaccard(hits: Int64[Tensor, " n"], sizes: Int64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """Of each sample."""
    return hits.double() / (2 * sizes - hits)


def top_k_accuracy(logits: Float[Tensor, "n k"], labels: Integer[Tensor, " n"], *, top_k: int = 1) -> Float[Tensor, ""]:
    """Share of samples whose class is among the `top_k` largest logits; in [0, 1], float32.

    Args, Raises: as `soft_iou`; the labels are class ids (n,), -1 where there is none.

    >>> top_k_accuracy(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([1]), top_k=2)
    tensor(1.)
    """
    if labels.ndim != 1:
        raise ValueError(f"Expected class ids (n,), but got {tuple(labels.shape)}.")
    slots, labeled = _checked_slots(logits, labels)
    return mean_of_labeled((label_ranks(logits, slots) < top_k).float().squeeze(1), labeled)


def score_sums(
    logits: Float[Tensor, "n k"],
    slots: Int64[Tensor, "n m"],
    *,
    labeled: Bool[Tensor, " n"],
    single: Bool[Tensor, " n"],
) -> Float64[Tensor, "2 q"]:
    """Sums of the scores in `SCORE_NAMES`, and below them how many samples they are of.

    `slots` are the class ids of the labels, -1 in slots without one; `labeled` have labels, `single` exactly one.
    """
    ranks = label_ranks(logits, slots)
    hits, sizes = _hits(ranks, slots)
    of_labeled = masked_sums([_soft_iou(logits, slots), _jaccard(hits, sizes), hits == sizes], labeled)
    of_single = masked_sums([ranks[:, 0] < 1, ranks[:, 0] < 5], single)
    counts = torch.stack(3 * [labeled.sum()] + 2 * [single.sum()])
    return torch.stack([torch.cat([of_labeled, of_single]), counts.double()])


def mean_scores(sums: Float64[Tensor, "2 q"]) -> dict[str, Float64[Tensor, ""]]:
    """Means from `score_sums` by name, of those that have samples."""
    return {name: total / count for name, total, count in zip(SCORE_NAMES, *sums, strict=True) if count > 0}


def masked_sums(columns: list[Tensor], mask: Bool[Tensor, " n"]) -> Float64[Tensor, " q"]:
    """Sum of each column in float64, over the samples in the mask."""
    return torch.stack([column.double().where(mask, 0) for column in columns]).sum(dim=1)


def label_ranks(logits: Float[Tensor, "n k"], slots: Int64[Tensor, "n m"]) -> Int64[Tensor, "n m"]:
    """Number of other classes whose logit is at least as large as that of each given class (NaN counts as larger)."""
    own = logits.gather(1, slots.clamp(min=0))
    if slots.shape[1] <= MAX_COMPARED:
        below = torch.stack([(logits < column.unsqueeze(1)).sum(dim=1) for column in own.unbind(dim=1)], dim=1)
    else:
        ordered = logits.where(~logits.isnan(), torch.inf).sort(dim=1).values
        below = torch.searchsorted(ordered, own.where(~own.isnan(), -torch.inf))
    return logits.shape[1] - 1 - below


def _hits(ranks: Int64[Tensor, "n m"], slots: Int64[Tensor, "n m"]) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """How many of the m labels of each sample are among its top m classes, and m."""
    filled = slots >= 0
    sizes = filled.sum(dim=1)
    return ((ranks < sizes.unsqueeze(1)) & filled).sum(dim=1), sizes


def multi_hot(labels: Shaped[Tensor, "n *k"], *, num_classes: int) -> Bool[Tensor, "n k"]:
    """Labels as booleans (n, k), from multi-hot labels or class ids."""
    if labels.ndim == 2:
        return labels != 0
    return labels.unsqueeze(1) == torch.arange(num_classes, device=labels.device)


def mean_of_labeled(values: Float[Tensor, " n"], labeled: Bool[Tensor, " n"]) -> Float[Tensor, ""]:
    """Mean over the samples that have labels, NaN where none has."""
    return values.where(labeled, 0).sum() / labeled.sum()


def check_logits(logits: Tensor, labels: Tensor, *, num_classes: int | None = None) -> None:
    """Refuse logits of another shape or dtype, which costs no wait for the device."""
    if labels.ndim not in (1, 2):
        raise ValueError(f"Expected labels that are multi-hot (n, k) or class ids (n,), but got {tuple(labels.shape)}.")
    n, k = len(labels), labels.shape[1] if labels.ndim == 2 else num_classes
    if logits.ndim != 2 or len(logits) != n or k not in (None, logits.shape[1]):
        raise ValueError(f"Expected logits ({n}, {'k' if k is None else k}), but got {tuple(logits.shape)}.")
    if not logits.is_floating_point():
        raise ValueError(
            f"Expected logits of a floating dtype, but got {logits.dtype}: "
            "predicted label sets are scored by nclib.decode.set_jaccard and set_subset_accuracy."
        )


def check_not_nan(sums: Float64[Tensor, "2 q"]) -> None:
    """Refuse NaN logits: they show in `score_sums`, which costs less than to look at each of them."""
    if bool(sums.isnan().any()):
        raise ValueError("Expected logits without NaN or positive infinity, but got some.")


def _checked_slots(logits: Tensor, labels: Tensor) -> tuple[Int64[Tensor, "n m"], Bool[Tensor, " n"]]:
    """The class ids of the labels, -1 in slots without one (one slot for class ids, k else), and who has any."""
    check_logits(logits, labels)
    if labels.ndim == 1:
        slots = labels.long().unsqueeze(1)
    else:
        slots = torch.where(labels != 0, torch.arange(labels.shape[1], device=labels.device), -1)
    return slots, (slots >= 0).any(dim=1)
