"""The data set of a study: built from its parameters, kept as one safetensors file, read back by the later stages."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from nclib.data import sources
from nclib.data.compose import MultiLabelData, compose, pair_group_counts, uncomposed
from nclib.data.sources.base import SourceImages, stream
from nclib.data.tensors import load_tensors, save_tensors
from nclib.study.files import StageError
from nclib.study.parameters import Dataset
from nclib.study.registry import PUBLISHED_MOMENTS, SOURCES, Moments
from nclib.study.study import Study

FILE = "data.safetensors"
STAGE = "01_dataset"


@dataclass(frozen=True)
class Splits:
    """Training and test images of one data set, made of different source images.

    `mean` is to be subtracted from values in [0, 1], and `std` to divide by after that: one number per channel.
    """

    train: MultiLabelData
    test: MultiLabelData
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    name: str

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def is_multi_label(self) -> bool:
        """Whether any training image has more than one label."""
        return bool(self.train.labels.sum(dim=1).max() > 1)

    def save(self, path: str | Path) -> None:
        """Write both splits as one safetensors file, whole or not at all."""
        tensors = {
            f"{split}_{part}": getattr(getattr(self, split), part)
            for split in ("train", "test")
            for part in ("images", "labels", "source_index")
        }
        header = {"class_names": self.class_names, "mean": self.mean, "std": self.std, "name": self.name}
        save_tensors(path, tensors, header)


def build(**fields: Any) -> Splits:
    """Build the training and test images of a study.

    Test images come from test sources only: where a source has no split of its own, its classes are split before
    anything is composed. Each draw (split, training, test, labels) has a stream of its own, so that a change of one
    leaves the others as they are.

    Args:
        fields: those of a study's `dataset` section, which checks them (`nclib.study.parameters.Dataset`).

    Raises:
        ValueError: a field is not valid or does not fit the source; the message names it.
        SourceError: the source's files are missing or damaged.

    >>> splits = build(source="digits", layout="mnist", train_counts={1: 5, 2: 2}, test_counts={1: 2}, seed=1)
    >>> len(splits.train), len(splits.test), tuple(splits.train.images.shape[1:])
    (140, 20, (1, 16, 16))
    """
    settings = Dataset(**fields)
    train_source, test_source = _sources(settings)
    if settings.sample_size is not None and not train_source.is_multi_label:  # these were sampled when they were read
        train_source = _first_of_each_class(train_source, [settings.sample_size] * train_source.num_classes)
    if settings.class_counts:
        train_source = _first_of_each_class(train_source, settings.class_counts)
    if settings.random_labels:
        train_source = _with_random_labels(train_source, stream(settings.seed, "random labels"))
        test_source = _with_random_labels(test_source, stream(settings.seed, "random test labels"))
    if settings.layout is None:
        train, test = uncomposed(train_source), uncomposed(test_source)
    else:
        counts: dict[int, Any] = dict(settings.train_counts)
        if settings.pair_groups:
            counts[2] = pair_group_counts(train_source.num_classes, settings.pair_groups)
        train, test = (
            compose(source, counts=counts, layout=settings.layout, generator=stream(settings.seed, f"compose {name}"))
            for name, source, counts in (("train", train_source, counts), ("test", test_source, settings.test_counts))
        )
    mean, std = _moments(settings.normalization, train.images)
    return Splits(train, test, mean, std, train.class_names, settings.name)


def check_runs(splits: Splits, study: Study) -> None:
    """Refuse, with a ParameterError, a run of the study whose network cannot have these classes or this image size."""
    for run in study.runs:
        if study.resolve(run).dataset.name == splits.name:
            study.resolve(run, classes=splits.num_classes, side=splits.train.images.shape[-1])


def _sources(settings: Dataset) -> tuple[SourceImages, SourceImages]:
    root = settings.source_folder
    options = {name: getattr(settings, name) for name in {"image_size", *SOURCES[settings.source].options}}
    train = sources.load(settings.source, root=root, train=True, **options)
    options.pop("sample_size", None)
    test = sources.load(settings.source, root=root, train=False, **options)
    if train.class_names != test.class_names:
        raise ValueError(
            f"Expected the same classes in both splits of {settings.source}, but got {train.class_names} for training "
            f"and {test.class_names} for the test."
        )
    return train, test


def _first_of_each_class(source: SourceImages, sizes: Sequence[int]) -> SourceImages:
    """The first images of each class, as the released code takes them; `sizes` says how many of each."""
    if len(sizes) != source.num_classes:
        raise ValueError(f"Expected class_counts of {source.num_classes} classes, but got {len(sizes)} numbers.")
    kept = []
    for label, (name, size) in enumerate(zip(source.class_names, sizes, strict=True)):
        rows = (source.labels == label).nonzero().squeeze(1)
        if size > len(rows):
            raise ValueError(
                f"Expected at most {len(rows)} training images of class {name!r} (sample_size, class_counts), "
                f"but got {size}."
            )
        kept.append(rows[:size])
    return source.select(torch.cat(kept).sort().values)


def _with_random_labels(source: SourceImages, generator: torch.Generator) -> SourceImages:
    """The images with labels that are balanced and have nothing to do with them."""
    return replace(source, labels=torch.randperm(len(source), generator=generator) % source.num_classes)


def _moments(normalization: str, images: UInt8[Tensor, "n c h w"]) -> Moments:
    """Mean and deviation per channel."""
    if normalization == "dataset":
        return _mean_and_std(images)
    channels = images.shape[1]
    return PUBLISHED_MOMENTS.get(normalization, ((0.0,) * channels, (1.0,) * channels))


def _mean_and_std(images: UInt8[Tensor, "n c h w"]) -> Moments:
    """Exact mean and deviation per channel, from the counts of the 256 values."""
    values = torch.arange(256, dtype=torch.float64) / 255
    moments = []
    for channel in range(images.shape[1]):
        # in parts, which are copied: the images of a large set are a gigabyte
        counts = sum(part[:, channel].flatten().bincount(minlength=256) for part in images.split(1000))
        shares = counts.double() / images[:, channel].numel()
        mean = (shares * values).sum()
        moments.append((mean.item(), (shares * (values - mean).square()).sum().sqrt().item()))
    mean, std = zip(*moments, strict=True)
    if min(std) == 0:
        raise ValueError(
            "Expected training images that differ to normalize by 'dataset', but a channel has a single value."
        )
    return mean, std


def load(path: str | Path) -> Splits:
    """Read what `Splits.save` wrote.

    Raises:
        StageError: the file is missing, damaged or no data set; the message names it and the stage to run.
    """
    tensors, header = load_tensors(path, stage=STAGE)
    parts = ("images", "labels", "source_index")
    try:
        names = tuple(header["class_names"])
        train, test = (
            MultiLabelData(*(tensors[f"{split}_{part}"] for part in parts), names) for split in ("train", "test")
        )
        return Splits(train, test, tuple(header["mean"]), tuple(header["std"]), names, header["name"])
    except (KeyError, TypeError, ValueError) as error:
        raise StageError(
            f"{path} is no data set of stage {STAGE} ({error}): delete it and run stage {STAGE} again."
        ) from error
