"""What the settings of a study decide before anything is trained.

python -m nclib ceiling params/mlab_mnist.yaml
"""

import sys
from itertools import combinations

import torch

from nclib import models
from nclib.data.compose import pair_group_counts
from nclib.models.architectures import ARCHITECTURES
from nclib.results.predictions import predict_run
from nclib.study.parameters import Run
from nclib.study.registry import SOURCES
from nclib.study.study import ParameterError, Study


def main(arguments: list[str] | None = None) -> int:
    """`python -m nclib ceiling STUDY.yaml [RUN ...]`: print the ceilings of its runs, where theory has them."""
    path, *runs = sys.argv[1:] if arguments is None else arguments
    try:
        study = Study.from_file(path).only(runs)
    except ParameterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = {run: ceiling(study.resolve(run)) for run in study.runs}
    shown = ", ".join(f"{run} {value:.3f}" for run, value in found.items() if value is not None)
    if shown:
        print(f"training IoU at the minimum that theory predicts for these decays: {shown}")
    return 0


def ceiling(run: Run) -> float | None:
    """The training IoU at the minimum that theory predicts for a run; None where it predicts none.

    The label sets must follow from the parameters: composed images of a source whose classes are known.
    """
    classes = SOURCES[run.dataset.source].classes
    if run.dataset.layout is None or classes is None:
        return None
    feature_dim = run.model.feature_dim or ARCHITECTURES[run.model.arch].features(run.model.width)
    sets = {s: n for m, n in run.dataset.train_counts.items() for s in combinations(range(classes), m)}
    if run.dataset.pair_groups:
        sets |= pair_group_counts(classes, run.dataset.pair_groups)
    return predict_run(run, sets, num_classes=classes, feature_dim=feature_dim).get("train_soft_iou")


def trainable_parameters(run: Run) -> int | None:
    """The trained numbers of a run's network; None where its number of classes depends on files."""
    source = SOURCES[run.dataset.source]
    if source.classes is None:
        return None
    of_images = {"in_channels": source.channels, "num_classes": source.classes, "image_size": run.dataset.side}
    with torch.device("meta"):
        return models.trainable_parameters(models.build_model(**run.model.model_dump(), **of_images))
