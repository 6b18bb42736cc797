"""What the theory of unconstrained features predicts for the runs of a study, where it applies."""

import math

from nclib.results.geometry import Geometry
from nclib.results.study_results import StudyResults
from nclib.study.parameters import Run
from nclib.theory import predict_training, settings_of_training

DECAYS = ("weight_decay", "feature_decay", "batch_size", "feature_decay_mean")


def predictions(results: StudyResults) -> dict[str, dict[str, float]]:
    """Predicted values of a study's runs, to be drawn beside what was measured.

    A run has predictions if its settings fit the theory (`fits_theory`), each multiplicity's label sets all occur
    equally often, and the features have at least K - 1 dimensions. All networks here end in a ReLU; with an ETF head
    and d >= K the minimum over features that are not negative is known.

    Args:
        results: of the study.

    Returns:
        `train_loss`, `train_soft_iou`, `train_feature_decay` (as the training log has it: the mean over batches of
        `λ |H_batch|_F²`) and `tag_wise_scale_2`, ... -> run -> value; often empty.
    """
    values: dict[str, dict[str, float]] = {}
    for run, settings in results.resolved.items():
        if not fits_theory(settings):
            continue
        geometry = results.geometry(run, results.seeds[0])
        counts, K, d = balanced_counts(geometry), len(geometry.class_names), geometry.weight.shape[-1]
        if counts is None or d < K - 1:
            continue
        training, model = settings.training, settings.model
        decays = {name: getattr(training, name) for name in DECAYS}
        minimum = predict_training(
            K,
            counts,
            **decays,
            head=model.head,
            bias=model.bias,
            label_mean=training.label_mean,
            loss=training.loss,
            nonnegative=model.head == "etf" and d >= K,
        )
        squared_norms = sum(n * math.comb(K, m) * minimum.feature_norms[m] ** 2 for m, n in counts.items())
        found = {
            "train_loss": minimum.data_loss,
            "train_soft_iou": minimum.soft_iou,
            "train_feature_decay": settings_of_training(K, counts, **decays)["feature_decay"] * squared_norms,
            **{f"tag_wise_scale_{m}": scale for m, scale in minimum.scales.items() if m > 1},
        }
        for name, value in found.items():
            values.setdefault(name, {})[run] = value
    return values


def fits_theory(run: Run) -> bool:
    """Whether a run's settings are those of the theory: cross-entropy or MSE, fixed decays, no augmentation.

    Adam divides the decay by the gradient's scale, so that it is no penalty; without feature decay (or, with a learned
    last layer, without weight decay) there is no minimum.
    """
    training = run.training
    plain_loss = training.loss in ("cross_entropy", "mse")
    decays = training.feature_decay > 0 and (training.weight_decay > 0 or run.model.head == "etf")
    return plain_loss and decays and training.optimizer not in ("adam", "adamw") and not training.augment


def balanced_counts(geometry: Geometry) -> dict[int, int] | None:
    """Multiplicity -> training samples of each of its label sets; None if they differ or a set is missing."""
    K = len(geometry.class_names)
    sizes = geometry.label_sets.sum(1).tolist()
    found: dict[int, list[int]] = {}
    for m, n in zip(sizes, geometry.counts.tolist(), strict=True):
        found.setdefault(m, []).append(n)
    balanced = all(len(set(n)) == 1 and len(n) == math.comb(K, m) and m < K for m, n in found.items())
    return {m: n[0] for m, n in found.items()} if balanced else None
