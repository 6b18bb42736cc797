"""What the theory of unconstrained features predicts for the runs of a study, where it applies."""

import math

from nclib.results.geometry import Geometry
from nclib.results.study_results import StudyResults
from nclib.study.parameters import Run
from nclib.theory import GlobalMinimum, predict_training, settings_of_training


def predictions(results: StudyResults) -> dict[str, dict[str, float]]:
    """Predicted values of a study's runs, to be drawn beside what was measured.

    Args:
        results: of the study.

    Returns:
        `train_loss`, `train_soft_iou`, `train_feature_decay` and `tag_wise_scale_2`, ... -> run -> value; only of runs
        whose settings fit the theory (`prediction`), so often empty.
    """
    values: dict[str, dict[str, float]] = {}
    for run in results.runs:
        resolved = results.resolved[run]
        if not may_predict(resolved):
            continue
        geometry = results.geometry(run, results.seeds[0])
        minimum = prediction(resolved, geometry)
        if minimum is None:
            continue
        values.setdefault(("train_loss", None), {})[run] = minimum.data_loss
        values.setdefault(("train_soft_iou", None), {})[run] = minimum.soft_iou
        values.setdefault(("train_feature_decay", None), {})[run] = _feature_decay(resolved, geometry, minimum)
        for m, scale in minimum.scales.items():
            if m > 1:
                values.setdefault(("tag_wise_scale", m), {})[run] = scale
    return values


def may_predict(run: Run) -> bool:
    """Whether a run's settings are those of the theory: cross-entropy or MSE, fixed decays, no augmentation.

    Adam divides the decay by the gradient's scale, so that it is no penalty; without feature decay (or, with a learned
    last layer, without weight decay) there is no minimum.
    """
    training = run.training
    plain_loss = training.loss in ("cross_entropy", "mse")
    decays = training.feature_decay > 0 and (training.weight_decay > 0 or run.model.head == "etf")
    return plain_loss and decays and training.optimizer not in ("adam", "adamw") and not training.augment


def prediction(run: Run, geometry: Geometry) -> GlobalMinimum | None:
    """The minimum that the theory predicts for one run; None where it does not apply.

    Each multiplicity's label sets must all occur equally often, and the features have at least K - 1 dimensions. All
    networks here end in a ReLU; with an ETF head and d >= K the minimum over features that are not negative is known.

    Args:
        run: its parameters.
        geometry: of the run; its label sets and their counts are used.
    """
    counts, K, d = balanced_counts(geometry), len(geometry.class_names), geometry.weight.shape[-1]
    if counts is None or d < K - 1 or not may_predict(run):
        return None
    return predict_training(
        K,
        counts,
        weight_decay=run.training.weight_decay,
        feature_decay=run.training.feature_decay,
        batch_size=run.training.batch_size,
        head=run.model.head,
        feature_decay_mean=run.training.feature_decay_mean,
        bias=run.model.bias,
        label_mean=run.training.label_mean,
        loss=run.training.loss,
        nonnegative=run.model.head == "etf" and d >= K,
    )


def balanced_counts(geometry: Geometry) -> dict[int, int] | None:
    """Multiplicity -> training samples of each of its label sets; None if they differ or a set is missing."""
    K = len(geometry.class_names)
    sizes = geometry.label_sets.sum(1).tolist()
    found: dict[int, list[int]] = {}
    for m, n in zip(sizes, geometry.counts.tolist(), strict=True):
        found.setdefault(m, []).append(n)
    balanced = all(len(set(n)) == 1 and len(n) == math.comb(K, m) and m < K for m, n in found.items())
    return {m: n[0] for m, n in found.items()} if balanced else None


def _feature_decay(run: Run, geometry: Geometry, minimum: GlobalMinimum) -> float:
    """The feature decay as the training log has it: the mean over batches of `λ |H_batch|_F²`."""
    counts = balanced_counts(geometry) or {}
    K, training = minimum.num_classes, run.training
    decay = settings_of_training(
        K,
        counts,
        weight_decay=training.weight_decay,
        feature_decay=training.feature_decay,
        batch_size=training.batch_size,
        feature_decay_mean=training.feature_decay_mean,
    )["feature_decay"]
    return decay * sum(n * math.comb(K, m) * minimum.feature_norms[m] ** 2 for m, n in counts.items())
