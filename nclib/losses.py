"""Training losses: pick-all-label reductions of single-label losses, rescaled MSE, binary cross-entropy, feature decay.

A single-label loss is written here as its values for every class: a function from logits `z` (n, k) to the matrix
`l(z_i, j)` (n, k). `pick_all_label` is the one reduction of such a matrix to the loss of label sets.

All of them are safe in a training step on a GPU: only shapes are checked, never values, so that nothing waits for
the device, and float16 and bfloat16 logits are computed in float32.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer, Shaped
from torch import Tensor, nn

ClassLoss = Callable[[Tensor], Tensor]
"""Values of a single-label loss for every class: logits (n, k) to losses (n, k)."""


def cross_entropy(logits: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """Cross-entropy of each class taken as the one label, in [0, inf).

    `l(z, j) = log(sum_i exp z_i) - z_j`; losses (n, k), float32 or wider.

    >>> cross_entropy(torch.zeros(1, 4)).exp()
    tensor([[4., 4., 4., 4.]])
    """
    return -torch.log_softmax(_at_least_float32(logits), dim=1)


def mse(logits: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """Mean squared error to the one-hot vector of each class, in [0, inf); the mean runs over the k outputs.

    `l(z, j) = |z - e_j|² / k`; losses (n, k), float32 or wider.

    >>> mse(torch.tensor([[1.0, 0.0]]))
    tensor([[0., 1.]])
    """
    z = _at_least_float32(logits)
    return (z.square().sum(dim=1, keepdim=True) - 2 * z + 1) / z.shape[1]


def focal(gamma: float | int) -> ClassLoss:
    """Focal loss of each class: cross-entropy that well-classified samples hardly enter; in [0, inf).

    `l(z, j) = (1 - p_j)^gamma (-log p_j)` with `p = softmax(z)`.

    The focusing exponent `gamma` is at least 0; 0 is cross-entropy. For `pick_all_label`.

    Source: Lin et al. 2017, equation 4.

    >>> focal(0.0)(torch.zeros(1, 2)).exp()
    tensor([[2., 2.]])
    """
    if gamma < 0:
        raise ValueError(f"Expected gamma >= 0, but got {gamma}.")

    def focal_of_each_class(logits: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        losses = cross_entropy(logits)
        # 1 - p by expm1, which keeps the gradient of confident samples where 1 - exp(-l) rounds to 0; of certain ones
        # it is 0, whose power has an infinite slope for gamma < 1
        misses = (-torch.expm1(-losses)).clamp(min=torch.finfo(losses.dtype).tiny)
        # a logit of -inf has an infinite loss, whose product would have NaN for a gradient, even where it is masked
        products = misses.pow(gamma) * losses.clamp(max=torch.finfo(losses.dtype).max)
        return products.where(losses.isfinite(), losses)

    return focal_of_each_class


def label_smoothing(smoothing: float | int) -> ClassLoss:
    """Cross-entropy to each one-hot vector mixed with the uniform distribution; in [0, inf).

    `l(z, j) = (1 - s) CE(z, j) + s/k sum_i CE(z, i)` with `s` the smoothing, in [0, 1]. For `pick_all_label`.

    >>> label_smoothing(0.1)(torch.zeros(1, 2)).exp()
    tensor([[2., 2.]])
    """
    if not 0 <= smoothing <= 1:
        raise ValueError(f"Expected smoothing in [0, 1], but got {smoothing}.")

    def smoothed_of_each_class(logits: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        losses = cross_entropy(logits)
        return torch.lerp(losses, losses.mean(dim=1, keepdim=True), smoothing)

    return smoothed_of_each_class


def of_each_class(loss: Callable[[Tensor, Tensor], Tensor]) -> ClassLoss:
    """Lets `pick_all_label` take any loss of `(logits (n, k), class ids (n,))` that returns one value per sample.

    The loss is called once for every class, so a loss written for all classes at once is k times faster.

    >>> from functools import partial
    >>> ce = of_each_class(partial(torch.nn.functional.cross_entropy, reduction="none"))
    >>> torch.equal(ce(torch.eye(3)), cross_entropy(torch.eye(3)))
    True
    """

    def loss_of_each_class(logits: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        z = _at_least_float32(logits)
        ids = torch.arange(z.shape[1], device=z.device)
        losses = [loss(z, ids[j].expand(z.shape[0])) for j in range(z.shape[1])]
        if losses[0].shape != z.shape[:1]:
            raise ValueError(
                f"Expected a loss of one value per sample, shape ({z.shape[0]},), but got {tuple(losses[0].shape)}: "
                "give it reduction='none'."
            )
        return torch.stack(losses, dim=1)

    return loss_of_each_class


def pick_all_label(loss: ClassLoss, *, label_mean: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """Pick-all-label (PAL) reduction of a single-label loss: the loss of a label set adds up those of its labels.

    `L = 1/n sum_i sum_{j in S_i} l(z_i, j)`, with `label_mean` the inner sum divided by `|S_i|`. Always a mean over
    the n samples. One-label data give the single-label loss itself. A sample without labels adds 0 and still counts
    in n.

    Source: paper 1, equation 3; its MNIST and CIFAR-10 code takes the mean over labels, its SVHN code the sum.

    Args:
        loss: Values for every class: `cross_entropy`, `mse`, `focal(2.0)`, `label_smoothing(0.1)`, or
            `of_each_class` of any other.
        label_mean: Divide the sum over a sample's labels by their number.

    Returns:
        A function of logits (n, k) and labels, multi-hot (n, k) of any dtype or class ids (n,), to a scalar.

    Raises:
        ValueError: If `loss` is a torch module such as `nn.CrossEntropyLoss()`, which wants logits and class ids.

    >>> pal = pick_all_label(cross_entropy, label_mean=True)
    >>> pal(torch.zeros(1, 4), torch.tensor([[1, 1, 0, 0]])).exp()
    tensor(4.)
    """
    if isinstance(loss, nn.Module):
        raise ValueError(
            f"Expected a loss of every class, but got the module {type(loss).__name__}: wrap it as "
            f"of_each_class({type(loss).__name__}(reduction='none'))."
        )

    def pal(logits: Float[Tensor, "n k"], labels: Shaped[Tensor, "n k"] | Integer[Tensor, " n"]) -> Float[Tensor, ""]:
        _check_shapes(logits, labels)
        losses = loss(logits)
        if labels.ndim == 1:
            return losses.gather(1, labels.long().unsqueeze(1)).mean()
        picked = labels != 0
        # filled, not multiplied: a logit of -inf on an absent label must not make 0 * inf
        sums = losses.masked_fill(~picked, 0).sum(dim=1)
        if label_mean:
            sums = sums / picked.sum(dim=1).clamp(min=1)
        return sums.mean()

    return pal


def pick_all_label_cross_entropy(
    logits: Float[Tensor, "n k"],
    labels: Shaped[Tensor, "n k"] | Integer[Tensor, " n"],
    *,
    label_mean: bool = False,
) -> Float[Tensor, ""]:
    """Pick-all-label cross-entropy, in [0, inf): one log-softmax, picked at every label; a mean over the samples.

    `L = 1/n sum_i sum_{j in S_i} (log sum_l exp z_il - z_ij)`; see `pick_all_label`.

    Source: paper 1, equation 3.

    Args:
        logits: Scores (n, k).
        labels: Multi-hot (n, k) or class ids (n,).
        label_mean: Divide the sum over a sample's labels by their number.

    Returns:
        The loss, a scalar, float32 or wider.

    >>> pick_all_label_cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3])).exp()
    tensor(4.)
    """
    return pick_all_label(cross_entropy, label_mean=label_mean)(logits, labels)


def rescaled_mse(
    logits: Float[Tensor, "n k"],
    targets: Shaped[Tensor, "n k"] | Integer[Tensor, " n"],
    *,
    k: float | int = 1.0,
    M: float | int = 1.0,
) -> Float[Tensor, ""]:
    """Squared error to `M` times the one-hot (or multi-hot) targets, the true classes weighted by `k`; in [0, inf).

    `L = 1/(n K) sum_ij c_ij (z_ij - M y_ij)²` with `c_ij = k` where `y_ij = 1`, else 1: a mean over samples and
    over the K classes.

    Source: paper 2, its section on rescaled MSE; Hui and Belkin 2020. Returns: as `pick_all_label_cross_entropy`.

    >>> rescaled_mse(torch.zeros(1, 4), torch.tensor([2]), k=3.0, M=2.0)
    tensor(3.)
    """
    z, is_true = _with_mask(logits, targets)
    return torch.where(is_true, k * (z - M).square(), z.square()).mean()


def binary_cross_entropy(
    logits: Float[Tensor, "n k"], targets: Shaped[Tensor, "n k"] | Integer[Tensor, " n"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy of each class for itself against multi-hot targets; in [0, inf).

    `L = 1/(n K) sum_ij softplus(z_ij) - y_ij z_ij`: a mean over samples and over the K classes. No reduction over
    labels: every class, on the label set or off it, adds a term of its own.

    Args, Returns: as `rescaled_mse`.

    >>> binary_cross_entropy(torch.zeros(1, 4), torch.tensor([[1, 1, 0, 0]])).exp()
    tensor(2.)
    """
    z, is_true = _with_mask(logits, targets)
    # softplus(z) - z as softplus(-z): a logit of -inf off the label set must not make 0 * inf; softplus as a
    # logsigmoid, since torch's own is cut at 20, which float64 feels
    return -F.logsigmoid(torch.where(is_true, z, -z)).mean()


def feature_decay(features: Float[Tensor, "n d"], *, weight: float | int, mean: bool = False) -> Float[Tensor, ""]:
    """Weight decay on the features: `weight |H|_F²`, **summed** over the batch; `mean` divides by n. In [0, inf).

    `weight` is the factor `lambda_H`. A scalar, float32 or wider.

    Source: paper 1, equation 4; its released code adds this sum to a loss that is a mean over the batch.

    >>> feature_decay(torch.ones(2, 3), weight=0.5)
    tensor(3.)
    """
    total = weight * _at_least_float32(features).square().sum()
    return total / features.shape[0] if mean else total


def _with_mask(logits: Tensor, targets: Tensor) -> tuple[Float[Tensor, "n k"], Bool[Tensor, "n k"]]:
    """Logits in float32 or wider, and which of them belong to labels."""
    _check_shapes(logits, targets)
    classes = torch.arange(logits.shape[1], device=logits.device)
    return _at_least_float32(logits), targets.unsqueeze(1) == classes if targets.ndim == 1 else targets != 0


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _check_shapes(logits: Tensor, labels: Tensor) -> None:
    fits = labels.shape == logits.shape if labels.ndim == 2 else labels.shape == logits.shape[:1]
    if logits.ndim != 2 or not fits:
        raise ValueError(
            "Expected logits (n, k) and labels that are multi-hot (n, k) or class ids (n,), "
            f"but got {tuple(logits.shape)} and {tuple(labels.shape)}."
        )
