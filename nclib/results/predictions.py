"""What the theory of unconstrained features predicts for the runs of a study, where it applies."""

import math
from collections.abc import Mapping
from functools import lru_cache
from itertools import product
from typing import Any

import pandas as pd

from nclib.metrics import nc2_w_centered
from nclib.models.architectures import ARCHITECTURES
from nclib.results.study_results import StudyResults
from nclib.study.parameters import Run
from nclib.theory import CertifiedMinimum, predict_training, settings_of_training

LabelSet = tuple[int, ...]
BALANCED = 1e-4  # distances from an ETF that are smaller are rounding
SETTINGS = {"weight_decay", "feature_decay", "batch_size", "feature_decay_mean", "label_mean", "loss"}


@lru_cache(maxsize=1)
def minima(results: StudyResults) -> dict[str, CertifiedMinimum]:
    """`predict_geometry` for the runs of a study that have one."""
    found = {}
    for run, settings in results.resolved.items():
        if fits_theory(settings):
            geometry = results.geometry(run, results.seeds[0])
            sets, (K, d) = geometry.label_set_counts(), geometry.weight.shape[1:]
            found[run] = predict_geometry(settings, sets, num_classes=K, feature_dim=d)
    return {run: minimum for run, minimum in found.items() if minimum is not None}


def predictions(results: StudyResults) -> dict[str, dict[str, float]]:
    """Values at the minima of a study's runs, to be drawn beside what was measured: name -> run -> value.

    `train_loss`, `train_soft_iou`, `train_feature_decay` (as the training log has it: the mean over batches of `λ
    |H_batch|_F²`) and `tag_wise_scale_2`, ... for the training samples of each label set; `nc2_w_centered` and
    `nc2_h_centered` where the counts are not balanced, so that the minimum is no simplex ETF.
    """
    values: dict[str, dict[str, float]] = {}
    for run, minimum in minima(results).items():
        for name, value in values_at(minimum, results.resolved[run]).items():
            values.setdefault(name, {})[run] = value
    return values


def distances(results: StudyResults) -> pd.DataFrame:
    """How far classifier and class means of each last checkpoint are from their minimum's, as NC2 is from an ETF.

    Columns `run`, `seed`, `train_to_minimum_w` and `train_to_minimum_h`; in [0, 2], NaN where theory predicts none.
    """
    rows = []
    for run, seed in product(results.runs, results.seeds):
        to_w = to_h = math.nan
        if (minimum := minima(results).get(run)) is not None:
            geometry = results.geometry(run, seed)
            to_w = minimum.distance_of_classifier(geometry.weight[-1]).item()
            to_h = minimum.distance_of_means(geometry.class_means[-1]).item()
        rows.append({"run": run, "seed": seed, "train_to_minimum_w": to_w, "train_to_minimum_h": to_h})
    return pd.DataFrame(rows)


def values_at(minimum: CertifiedMinimum, run: Run) -> dict[str, float]:
    """The values of `predictions` of one run."""
    counts = {(number,): n for number, n in enumerate(minimum.counts.tolist())}
    decay = settings_of_training(len(counts), counts, **_settings(run))["feature_decay"]
    off = {"nc2_w_centered": nc2_w_centered(minimum.weight), "nc2_h_centered": nc2_w_centered(minimum.class_means)}
    return {
        "train_loss": minimum.data_loss,
        "train_soft_iou": minimum.soft_iou,
        "train_feature_decay": decay * (minimum.counts.double() @ minimum.features.square().sum(1)).item(),
        **{f"tag_wise_scale_{m}": scale for m, scale in minimum.scales.items() if m > 1},
        **{name: distance.item() for name, distance in off.items() if distance > BALANCED},
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
