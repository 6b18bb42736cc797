"""From the settings of a training run to the theorem's settings and predictions."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch

from nclib.heads import simplex_etf
from nclib.theory.certified import CertifiedMinimum, certified_fixed_head, certified_minimum
from nclib.theory.minimum import GlobalMinimum, fixed_head_minimum, global_minimum

Counts = Mapping[int, int] | Mapping[tuple[int, ...], int]


def settings_of_training(
    num_classes: int,
    counts: Counts,
    *,
    weight_decay: float,
    feature_decay: float,
    batch_size: int,
    feature_decay_mean: bool = False,
    bias: bool = True,
    label_mean: bool = True,
    loss: str = "cross_entropy",
) -> dict[str, Any]:
    """Translate a run's settings into λ_W, λ_H, λ_b of the objective that its last layer and features see.

    An optimizer's `weight_decay` wd adds `wd W` to the gradient, so it is `(wd/2) |W|²`: `λ_W = λ_b =
    wd/2`. The feature decay is a sum over each batch beside a mean loss. An epoch has `ceil(N /
    batch_size)` steps and every sample is in one of them, so the mean step sees `λ_H = feature_decay /
    steps` (about `feature_decay · batch_size / N`); with `feature_decay_mean` it is `feature_decay / N`.

    The predicted value is a floor for the run on its training set without augmentation, since features are the output
    of a network, often of a ReLU, and weight decay acts on all layers. Adam's scaled decay is no penalty of this form.
    docs/theory.md lists where else practice departs from this objective.

    Args:
        num_classes: K.
        counts: samples of **each** label set of m labels by m, or samples by label set (ascending class ids).
        label_mean: as for `Problem`.
        weight_decay: wd as handed to the optimizer.
        feature_decay: λ of `λ |H_batch|_F²`.
        batch_size: samples per step.
        feature_decay_mean: the run divides its feature decay by the batch size.
        bias: the last layer has a bias, and it is decayed like its weight.
        loss: "mse" is the mean over the classes, without rescaling (k = M = 1).

    Returns:
        Keyword arguments for `global_minimum` and `minimize`, or for `certified_minimum`.

    >>> settings = settings_of_training(10, {1: 3100, 2: 200}, weight_decay=5e-4, feature_decay=1e-3, batch_size=128)
    >>> minimum = global_minimum(10, {1: 3100, 2: 200}, **settings)
    >>> print(f"floor {minimum.value:.4f}, C_2 = {minimum.scales[2]:.4f}")
    floor 0.3742, C_2 = 0.7922
    """
    if batch_size < 1:
        raise ValueError(f"Expected batch_size >= 1, but got {batch_size}.")
    samples = sum(n * (1 if isinstance(key, tuple) else math.comb(num_classes, key)) for key, n in counts.items())
    steps = math.ceil(samples / batch_size)
    return {
        "weight_decay": weight_decay / 2,
        "feature_decay": feature_decay / (samples if feature_decay_mean else steps),
        "bias_decay": weight_decay / 2 if bias else math.inf,
        "label_mean": label_mean,
        "loss": loss,
    }


def predict_training(
    num_classes: int,
    counts: Counts,
    *,
    head: Literal["learned", "etf"] = "learned",
    feature_dim: int | None = None,
    nonnegative: bool = False,
    **training: Any,
) -> GlobalMinimum | CertifiedMinimum:
    """What the theory predicts for a run: objective, training loss and IoU, `C_m`, classifier and features.

    Compare `.data_loss` and `.soft_iou` with the training loss and IoU, `.scales[m]` with the measured tag-wise
    scale, and `.value` with loss + feature decay + `(wd/2)(|W|² + |b|²)` (an ETF head: without `|W|²`).
    docs/theory.md lists where practice departs.

    Args:
        num_classes, counts: as for `settings_of_training`. Counts by label set need no balance; the minimum is then a
            certified one.
        head: a trained classifier, or the fixed ETF with unit rows.
        feature_dim: d of an ETF head, for counts by label set; K if not given.
        nonnegative: features end in a ReLU; only for `head="etf"`, with d >= K unless counts are by label set.
        training: `weight_decay`, `feature_decay`, `batch_size` and the others of `settings_of_training`.

    Raises:
        ValueError: where no prediction is possible: without feature decay or (learned head) weight decay, or for
            `nonnegative` with a learned head.

    >>> run = {"weight_decay": 5e-4, "feature_decay": 1e-3, "batch_size": 128}
    >>> balanced = predict_training(10, {1: 100, 2: 20}, **run, head="etf", nonnegative=True)
    >>> print(f"loss {balanced.data_loss:.4f}, IoU {balanced.soft_iou:.4f}, C_2 = {balanced.scales[2]:.4f}")
    loss 1.0685, IoU 0.4776, C_2 = 0.5462
    >>> rare = predict_training(3, {(0,): 100, (1,): 100, (2,): 10, (0, 2): 10}, **run)
    >>> print(f"loss {rare.data_loss:.4f}, IoU {rare.soft_iou:.4f}, C_2 = {rare.scales[2]:.4f}")
    loss 0.0422, IoU 0.9894, C_2 = 0.6969
    """
    if head not in ("learned", "etf"):
        raise ValueError(f"Expected head 'learned' or 'etf', but got {head!r}.")
    if nonnegative and head == "learned":
        raise ValueError(
            "Expected nonnegative only with head 'etf', but got head 'learned': its minimum over features >= 0 "
            "is not known (the unconstrained one is a floor)."
        )
    settings = settings_of_training(num_classes, counts, **training)
    fixed = {name: value for name, value in settings.items() if name != "weight_decay"}
    if all(isinstance(key, tuple) for key in counts):
        label_sets = torch.zeros(len(counts), num_classes, dtype=torch.uint8)
        for row, labels in zip(label_sets, counts, strict=True):
            row[list(labels)] = 1  # pyright: ignore[reportArgumentType]
        numbers = torch.tensor(list(counts.values()))
        if head == "learned":
            return certified_minimum(label_sets, numbers, **settings)
        d = feature_dim or num_classes
        weight = simplex_etf(num_classes, d, rotation=torch.eye(d, dtype=torch.float64))
        return certified_fixed_head(weight, label_sets, numbers, nonnegative=nonnegative, **fixed)
    if head == "learned":
        return global_minimum(num_classes, counts, **settings)  # pyright: ignore[reportArgumentType]
    return fixed_head_minimum(num_classes, counts, nonnegative=nonnegative, **fixed)  # pyright: ignore[reportArgumentType]
