"""What the settings and label counts of a study decide before anything is trained.

python -m nclib ceiling params/mlab_mnist.yaml
"""

import csv
from collections import Counter
from itertools import combinations
from pathlib import Path

import torch

from nclib import models
from nclib.data import dataset
from nclib.data.compose import LabelSet, pair_group_counts
from nclib.models.architectures import ARCHITECTURES
from nclib.results.predictions import predict_geometry
from nclib.study.folders import StudyFolder
from nclib.study.parameters import Run
from nclib.study.registry import SOURCES
from nclib.study.study import ParameterError, Study
from nclib.theory import CertifiedMinimum

Labels = tuple[dict[LabelSet, int], tuple[str, ...]]  # samples of each label set, and the names of the classes


def main(arguments: list[str]) -> int:
    """`python -m nclib ceiling STUDY.yaml [RUN ...]`: print the ceilings of its runs, where theory has them."""
    path, *runs = arguments
    study = Study.from_file(path).only(runs)
    built = StudyFolder(Path(path).absolute().parents[1], study.study)  # where `make reproduce` keeps the study's file
    found = {run: ceiling(study.resolve(run), built) for run in study.runs}
    shown = ", ".join(f"{run} {value:.3f}" for run, value in found.items() if value is not None)
    if shown:
        print(f"training IoU at the minimum that theory predicts for these decays: {shown}")
    return 0


def ceiling(run: Run, built: StudyFolder | None = None) -> float | None:
    """The training IoU at the minimum that theory predicts for a run; None where it predicts none."""
    labels = labels_of(run, built)
    minimum = labels and expected_minimum(run, labels)
    return minimum.soft_iou if minimum else None


def expected_minimum(run: Run, labels: Labels) -> CertifiedMinimum | None:
    """What theory predicts for a run on these labels; None where it predicts nothing."""
    feature_dim = run.model.feature_dim or ARCHITECTURES[run.model.arch].features(run.model.width)
    return predict_geometry(run, labels[0], num_classes=len(labels[1]), feature_dim=feature_dim)


def labels_of(run: Run, built: StudyFolder | None = None) -> Labels | None:
    """The training labels of a run, where its parameters decide them or its data set is built; None elsewhere."""
    data, classes = run.dataset, SOURCES[run.dataset.source].classes
    if data.layout and classes:
        sets = {s: n for m, n in data.train_counts.items() for s in combinations(range(classes), m)}
        sets |= pair_group_counts(classes, data.pair_groups) if data.pair_groups else {}
        return sets, tuple(map(str, range(classes)))
    if data.class_counts:
        return {(k,): n for k, n in enumerate(data.class_counts)}, tuple(map(str, range(len(data.class_counts))))
    file = built and built.dataset(data.name) / dataset.FILE
    if file and file.is_file():
        train = dataset.load(file).train
        return train.label_set_counts(), train.class_names
    return None


def read_labels(path: str | Path) -> Labels:
    """Labels from a CSV file with a column `labels`, names joined by `;`, and perhaps a column `count`.

    Without counts a line is one sample. Classes are in alphabetical order.

    Raises:
        ParameterError: the file cannot be read, or a line has no labels or a count below 1.
    """
    found: Counter[tuple[str, ...]] = Counter()
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                names = {name.strip() for name in (row.get("labels") or "").split(";")} - {""}
                count = row.get("count") or "1"
                if not names or not count.strip().isdigit() or int(count) < 1:
                    raise ParameterError(
                        f"{path}, line {number}: expected columns 'labels' (names joined by ;) and 'count' (1 or more, "
                        f"may be left out), but got {dict(row)}"
                    )
                found[tuple(sorted(names))] += int(count)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ParameterError(f"{path}: {error}") from None
    classes = tuple(sorted({name for names in found for name in names}))
    if len(classes) < 2:
        raise ParameterError(f"{path}: expected at least 2 different labels, but got {len(classes)}")
    places = {name: place for place, name in enumerate(classes)}
    return {tuple(places[name] for name in names): n for names, n in found.items()}, classes


def trainable_parameters(run: Run) -> int | None:
    """The trained numbers of a run's network; None where its number of classes depends on files."""
    source = SOURCES[run.dataset.source]
    if source.classes is None:
        return None
    of_images = {"in_channels": source.channels, "num_classes": source.classes, "image_size": run.dataset.side}
    with torch.device("meta"):
        return models.trainable_parameters(models.build_model(**run.model.model_dump(), **of_images))
