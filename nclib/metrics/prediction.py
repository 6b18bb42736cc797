"""How well the logits name the labels: soft IoU, Jaccard index, subset and top-k accuracy.

All lie in [0, 1], 1 is best, and none waits for the device: labels are not checked, so a training loop can call them.
A sample without labels counts as 0. A class belongs to the top m where fewer than m other classes have a logit at least
as large; so ties count against a prediction and NaN is never right.
"""

import torch
from jaxtyping import Bool, Float, Int64, Integer, Shaped
from torch import Tensor


def soft_iou(logits: Float[Tensor, "n k"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """Mean over samples of the softmax probability on the true labels, `sum_{k in S} softmax(z)_k`; in [0, 1].

    Source: paper 1, which calls it IoU.

    Args:
        logits: Scores (n, k).
        labels: Multi-hot (n, k) or class ids (n,).

    Returns:
        The share, in the dtype of the logits but at least float32.

    >>> soft_iou(torch.zeros(1, 4), torch.tensor([[1, 1, 0, 0]]))
    tensor(0.5000)
    """
    probabilities = torch.softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=1)
    return (probabilities * multi_hot(labels, num_classes=logits.shape[1])).sum(dim=1).mean()


def subset_accuracy(logits: Float[Tensor, "n k"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """Share of samples whose top m classes are exactly their m labels (m known); single-label: top-1 accuracy.

    Args:
        logits: Scores (n, k).
        labels: Multi-hot (n, k) or class ids (n,).

    Returns:
        The share, float32.

    >>> subset_accuracy(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[1, 1, 0]]))
    tensor(1.)
    """
    hits, sizes = _top_m_hits(logits, labels)
    return ((hits == sizes) & (sizes > 0)).float().mean()


def jaccard(logits: Float[Tensor, "n k"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """Mean Jaccard index of the top m classes and the m labels (m known), `hits / (2m - hits)`.

    Args, Returns: as `subset_accuracy`.

    >>> jaccard(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[1, 0, 1]]))
    tensor(0.3333)
    """
    hits, sizes = _top_m_hits(logits, labels)
    return (hits / (2 * sizes - hits).clamp(min=1)).mean()


def top_k_accuracy(logits: Float[Tensor, "n k"], labels: Integer[Tensor, " n"], *, top_k: int = 1) -> Float[Tensor, ""]:
    """Share of samples whose class is among the `top_k` largest logits.

    Args:
        logits: Scores (n, k).
        labels: Class ids (n,).
        top_k: Number of guesses; from k on everything counts as right.

    Returns:
        The share, float32.

    >>> top_k_accuracy(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([1]), top_k=2)
    tensor(1.)
    """
    ranks = label_ranks(logits, labels.long().unsqueeze(1)).squeeze(1)
    return (ranks < top_k).float().mean()


def label_ranks(logits: Float[Tensor, "n k"], slots: Int64[Tensor, "n m"]) -> Int64[Tensor, "n m"]:
    """Number of other classes whose logit is at least as large as that of each given class (NaN counts as larger).

    Args:
        logits: Scores (n, k).
        slots: Class ids (n, m).
    """
    own = logits.gather(1, slots)
    below = [(logits < own[:, slot : slot + 1]).sum(dim=1) for slot in range(slots.shape[1])]
    return logits.shape[1] - 1 - torch.stack(below, dim=1)


def label_scores(
    logits: Float[Tensor, "n k"], ranks: Int64[Tensor, "n m"], slots: Int64[Tensor, "n m"]
) -> list[Tensor]:
    """Soft IoU, Jaccard index and whether the top m are the labels, of each sample.

    Args:
        logits: Scores (n, k).
        ranks: `label_ranks` of the labels.
        slots: Class ids of the labels (n, m), -1 behind the last.
    """
    filled = slots >= 0
    sizes = filled.sum(dim=1)
    hits = ((ranks < sizes.unsqueeze(1)) & filled).sum(dim=1)
    own = logits.gather(1, slots.clamp(min=0)) - logits.logsumexp(dim=1, keepdim=True)
    return [(own.exp() * filled).sum(dim=1), hits.double() / (2 * sizes - hits), hits == sizes]


def multi_hot(labels: Shaped[Tensor, "n *k"], *, num_classes: int) -> Bool[Tensor, "n k"]:
    """Labels as booleans (n, k), from multi-hot labels or class ids."""
    if labels.ndim == 2:
        return labels != 0
    return labels.unsqueeze(1) == torch.arange(num_classes, device=labels.device)


def _top_m_hits(
    logits: Float[Tensor, "n k"], labels: Shaped[Tensor, "n *k"]
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Number of labels among the top m of each sample, and m."""
    member = multi_hot(labels, num_classes=logits.shape[1])
    sizes = member.sum(dim=1)
    if labels.ndim == 1:
        return (label_ranks(logits, labels.long().unsqueeze(1)) == 0).long().squeeze(1), sizes
    # in the top m: above the logit that comes m-th when counted from 0
    ordered = torch.nn.functional.pad(logits.sort(dim=1, descending=True).values, (0, 1), value=-torch.inf)
    best_outside = ordered.gather(1, sizes.unsqueeze(1))
    return ((logits > best_outside) & member).sum(dim=1), sizes
