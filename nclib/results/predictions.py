"""What the theory of unconstrained features predicts for the runs of a study, where it applies."""

from collections.abc import Mapping
from typing import Any

from nclib.models.architectures import ARCHITECTURES
from nclib.results.study_results import StudyResults
from nclib.study.parameters import Run
from nclib.theory import CertifiedMinimum, predict_training, settings_of_training

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
    """Values at the certified global minimum of a run's objective; empty where `predict_geometry` finds none.

    Returns `train_loss`, `train_soft_iou`, `train_feature_decay` (as the training log has it: the mean over batches of
    `λ |H_batch|_F²`) and `tag_wise_scale_2`, ... for the training samples of each label set.
    """
    minimum = predict_geometry(run, sets, num_classes=num_classes, feature_dim=feature_dim)
    if minimum is None:
        return {}
    decay = settings_of_training(num_classes, sets, **_settings(run))["feature_decay"]
    return {
        "train_loss": minimum.data_loss,
        "train_soft_iou": minimum.soft_iou,
        "train_feature_decay": decay * (minimum.counts.double() @ minimum.features.square().sum(1)).item(),
        **{f"tag_wise_scale_{m}": scale for m, scale in minimum.scales.items() if m > 1},
    }


def predict_geometry(
    run: Run, sets: Mapping[LabelSet, int], *, num_classes: int, feature_dim: int
) -> CertifiedMinimum | None:
    """The certified global minimum of a run's objective, for any counts of its label sets; None where there is none.

    There is one if the settings fit (`fits_theory`) and the features have enough dimensions. Most networks end in a
    ReLU: with an ETF head the minimum is then that over features that are not negative, with a learned one a floor.
    """
    if not fits_theory(run):
        return None
    model = run.model
    nonnegative = model.head == "etf" and ARCHITECTURES[model.arch].ends_in_relu
    head = {"head": model.head, "feature_dim": feature_dim, "nonnegative": nonnegative}
    minimum = predict_training(num_classes, sets, **head, **_settings(run))
    return minimum if minimum.features.shape[1] <= feature_dim else None


def fits_theory(run: Run) -> bool:
    """Whether a run's settings are those of the theory: its losses, fixed decays, no augmentation.

    Adam divides the decay by the gradient's scale, so that it is no penalty; without feature decay (or, with a learned
    last layer, without weight decay) there is no minimum.
    """
    training = run.training
    plain_loss = training.loss in ("cross_entropy", "mse", "binary_cross_entropy")
    decays = training.feature_decay > 0 and (training.weight_decay > 0 or run.model.head == "etf")
    return plain_loss and decays and training.optimizer not in ("adam", "adamw") and not training.augment


def _settings(run: Run) -> dict[str, Any]:
    return run.training.model_dump(include=SETTINGS) | {"bias": run.model.bias}
