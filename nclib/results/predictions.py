"""What the theory of unconstrained features predicts for the runs of a study, where it applies."""

import math
from collections.abc import Mapping

from nclib.models.architectures import ARCHITECTURES
from nclib.results.study_results import StudyResults
from nclib.study.parameters import Run
from nclib.theory import predict_training, settings_of_training

LabelSet = tuple[int, ...]
SETTINGS = {"weight_decay", "feature_decay", "batch_size", "feature_decay_mean", "label_mean", "loss"}


def predictions(results: StudyResults) -> dict[str, dict[str, float]]:
    """`predict_run` for every run of a study, to be drawn beside what was measured: name -> run -> value."""
    values: dict[str, dict[str, float]] = {}
    for run, settings in results.resolved.items():
        if not fits_theory(settings):
            continue
        geometry = results.geometry(run, results.seeds[0])
        sets, (K, d) = geometry.label_set_counts(), geometry.weight.shape[1:]
        for name, value in predict_run(settings, sets, num_classes=K, feature_dim=d).items():
            values.setdefault(name, {})[run] = value
    return values


def predict_run(run: Run, sets: Mapping[LabelSet, int], *, num_classes: int, feature_dim: int) -> dict[str, float]:
    """Values at the global minimum of a run's objective; empty where the theory does not apply.

    It applies if the settings fit (`fits_theory`), each multiplicity's label sets all occur equally often, and the
    features have at least K - 1 dimensions. Most networks end in a ReLU; with an ETF head and d >= K the minimum over
    features that are not negative is known.

    Returns `train_loss`, `train_soft_iou`, `train_feature_decay` (as the training log has it: the mean over batches of
    `λ |H_batch|_F²`) and `tag_wise_scale_2`, ... for the training samples of each label set.
    """
    counts, K, d = balanced_counts(sets, num_classes), num_classes, feature_dim
    if counts is None or d < K - 1 or not fits_theory(run):
        return {}
    training, model = run.training, run.model
    settings = training.model_dump(include=SETTINGS) | {"bias": model.bias}
    nonnegative = model.head == "etf" and d >= K and ARCHITECTURES[model.arch].ends_in_relu
    minimum = predict_training(K, counts, **settings, head=model.head, nonnegative=nonnegative)
    squared_norms = sum(n * math.comb(K, m) * minimum.feature_norms[m] ** 2 for m, n in counts.items())
    return {
        "train_loss": minimum.data_loss,
        "train_soft_iou": minimum.soft_iou,
        "train_feature_decay": settings_of_training(K, counts, **settings)["feature_decay"] * squared_norms,
        **{f"tag_wise_scale_{m}": scale for m, scale in minimum.scales.items() if m > 1},
    }


def fits_theory(run: Run) -> bool:
    """Whether a run's settings are those of the theory: cross-entropy or MSE, fixed decays, no augmentation.

    Adam divides the decay by the gradient's scale, so that it is no penalty; without feature decay (or, with a learned
    last layer, without weight decay) there is no minimum.
    """
    training = run.training
    plain_loss = training.loss in ("cross_entropy", "mse")
    decays = training.feature_decay > 0 and (training.weight_decay > 0 or run.model.head == "etf")
    return plain_loss and decays and training.optimizer not in ("adam", "adamw") and not training.augment


def balanced_counts(sets: Mapping[LabelSet, int], num_classes: int) -> dict[int, int] | None:
    """Multiplicity -> training samples of each of its label sets; None if they differ or a set is missing."""
    found: dict[int, list[int]] = {}
    for labels, n in sets.items():
        found.setdefault(len(labels), []).append(n)
    balanced = all(
        len(set(n)) == 1 and len(n) == math.comb(num_classes, m) and m < num_classes for m, n in found.items()
    )
    return {m: n[0] for m, n in found.items()} if balanced else None
