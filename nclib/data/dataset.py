"""The data set of a study: built from its parameters, kept as one safetensors file, read back by the later stages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from nclib.data import sources
from nclib.data.compose import Counts, MultiLabelData, as_single_label, compose, pair_group_counts
from nclib.data.sources.base import SourceImages, stream
from nclib.study.files import StageError
from nclib.study.tensors import load_tensors, save_tensors

FILE = "data.safetensors"
STAGE = "01_dataset"

# Mean and deviation a channel of values in [0, 1], as usual for these sources.
NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "mnist": ((0.1307,), (0.3081,)),
}


@dataclass(frozen=True)
class Splits:
    """Training and test images of one data set.

    Args:
        train: training images.
        test: test images, from other source images than `train`.
        mean: to subtract from values in [0, 1], one number a channel.
        std: to divide by after that, one number a channel.
        class_names: name of each class.
        meta: what the data set was built from, as JSON values.
    """

    train: MultiLabelData
    test: MultiLabelData
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    meta: Mapping[str, Any]

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
        header = {"class_names": self.class_names, "mean": self.mean, "std": self.std, "meta": dict(self.meta)}
        save_tensors(path, tensors, header)


def build(
    *,
    source: str,
    name: str = "data",
    root: str | Path | None = None,
    layout: str | None = None,
    train_counts: Mapping[int, int] | None = None,
    test_counts: Mapping[int, int] | None = None,
    pair_groups: Sequence[int] = (),
    sample_size: int | None = None,
    random_labels: bool = False,
    image_size: int | None = None,
    test_fraction: float = 0.2,
    normalization: str = "unit",
    seed: int = 0,
) -> Splits:
    """Build the training and test images of a study; the fields are those of its `dataset` section.

    Test images come from test sources only: where a source has no split of its own, its classes are split before
    anything is composed. Each draw
    (split, training, test, labels) has a stream of its own, so that a change of one leaves the others as they are.

    Args:
        source: `digits`, `mnist`, `cifar10`, `svhn` or `image_folder`.
        name: of the data set; an `image_folder` without `root` is looked for under this name in the data root.
        root: folder of the source's files; None means `$NCLIB_DATA_ROOT`, else `data/`.
        layout: how several images become one (`mnist`, `cifar`, `grid`); None keeps the source's own images.
        train_counts: training images for each label set, by multiplicity.
        test_counts: likewise for the test images.
        pair_groups: training images of each pair, one number for each of the equal consecutive groups of pairs;
            instead of `train_counts[2]`.
        sample_size: training images a class, drawn at random (svhn: the first ones of each label set, at most so
            many); None keeps all.
        random_labels: give the training images balanced random labels, permuted once; the test images keep theirs.
        image_size: side the source images are resized to [pixels]; None keeps their size.
        test_fraction: share of each class that goes to the test, for sources without a split of their own.
        normalization: `unit` (values in [0, 1]), `imagenet`, `cifar10`, `mnist`, or `dataset` (mean and deviation of
            the training images).
        seed: of all draws.

    Returns:
        Both splits.

    Raises:
        ValueError: a field does not fit the source; the message names it.
        SourceError: the source's files are missing or damaged.

    >>> splits = build(source="digits", layout="mnist", train_counts={1: 5, 2: 2}, test_counts={1: 2}, seed=1)
    >>> len(splits.train), len(splits.test), tuple(splits.train.images.shape[1:])
    (140, 20, (1, 16, 16))
    """
    if source == "image_folder" and root is None:
        root = sources.data_root() / name
    options = {"root": root, "image_size": image_size, "test_fraction": test_fraction, "seed": seed}
    raw = {
        train: sources.load(source, train=train, sample_size=sample_size if train else None, **options)
        for train in (True, False)
    }
    if raw[True].class_names != raw[False].class_names:
        raise ValueError(
            f"Expected the same classes in both splits of {source}, but got {raw[True].class_names} for training "
            f"and {raw[False].class_names} for the test."
        )
    if layout is None:
        train = as_single_label(
            _vary_labels(raw[True], sample_size=sample_size, random_labels=random_labels, seed=seed)
        )
        test = as_single_label(raw[False])
    else:
        if sample_size is not None or random_labels:
            raise ValueError(f"Expected sample_size and random_labels without a layout, but got layout {layout!r}.")
        counts: dict[int, int | Mapping[tuple[int, ...], int]] = dict(train_counts or {})
        if pair_groups:
            if 2 in counts:
                raise ValueError("Expected train_counts without a number for pairs (key 2) beside pair_groups.")
            counts[2] = pair_group_counts(raw[True].num_classes, pair_groups)
        train = _composed(raw[True], counts, layout, stream(seed, "compose train"), "train_counts")
        test = _composed(raw[False], dict(test_counts or {}), layout, stream(seed, "compose test"), "test_counts")
    mean, std = _normalization(normalization, train.images)
    meta = {"source": source, "name": name, "layout": layout, "normalization": normalization, "seed": seed}
    return Splits(train, test, mean, std, train.class_names, meta)


def _composed(
    source: SourceImages, counts: Counts, layout: str, generator: torch.Generator, field: str
) -> MultiLabelData:
    try:
        return compose(source, counts=counts, layout=layout, generator=generator)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error


def _vary_labels(source: SourceImages, *, sample_size: int | None, random_labels: bool, seed: int) -> SourceImages:
    """Training images with fewer samples a class or with random labels, where asked."""
    if source.is_multi_label:
        if random_labels:
            raise ValueError("Expected random_labels only for single-label sources, but this one is multi-label.")
        return source  # `sample_size` was heeded before its images were decoded
    if sample_size is not None:
        source = source.select(_sample(source, sample_size, stream(seed, "sample")))
    if random_labels:
        order = torch.randperm(len(source), generator=stream(seed, "random labels"))
        source = SourceImages(source.images, order % source.num_classes, source.class_names, source.index)
    return source


def _sample(source: SourceImages, size: int, generator: torch.Generator) -> Int64[Tensor, " m"]:
    """`size` rows of each class, drawn without replacement, ascending."""
    kept = []
    for label, name in enumerate(source.class_names):
        rows = (source.labels == label).nonzero().squeeze(1)
        if not 1 <= size <= len(rows):
            raise ValueError(
                f"Expected sample_size between 1 and {len(rows)}, the images of class {name!r}, but got {size}."
            )
        kept.append(rows[torch.randperm(len(rows), generator=generator)[:size]])
    return torch.cat(kept).sort().values


def _normalization(name: str, images: UInt8[Tensor, "n c h w"]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    channels = images.shape[1]
    if name == "unit":
        return (0.0,) * channels, (1.0,) * channels
    if name == "dataset":
        return _mean_and_std(images)
    if name not in NORMALIZATIONS:
        known = ", ".join(["unit", *NORMALIZATIONS, "dataset"])
        raise ValueError(f"Expected normalization to be one of {known}, but got {name!r}.")
    mean, std = NORMALIZATIONS[name]
    if len(mean) != channels:
        raise ValueError(f"Expected images of {len(mean)} channels for normalization {name!r}, but got {channels}.")
    return mean, std


def _mean_and_std(images: UInt8[Tensor, "n c h w"]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Exact mean and deviation a channel, from the counts of the 256 values."""
    values = torch.arange(256, dtype=torch.float64) / 255
    moments = []
    for channel in range(images.shape[1]):
        shares = images[:, channel].flatten().bincount(minlength=256).double() / images[:, channel].numel()
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

    Args:
        path: the file.

    Returns:
        Both splits.

    Raises:
        StageError: the file is missing, damaged or no data set; the message names it and the stage to run.
    """
    tensors, header = load_tensors(path, stage=STAGE)
    try:
        names = tuple(str(name) for name in header["class_names"])
        mean, std = (tuple(float(value) for value in header[key]) for key in ("mean", "std"))
        meta = dict(header["meta"])
        train, test = (_checked_split(tensors, split, names, len(mean)) for split in ("train", "test"))
        if len(std) != len(mean) or train.images.shape[1:] != test.images.shape[1:]:
            raise ValueError("mean, std and the images of both splits do not fit together")
    except (KeyError, TypeError, ValueError) as error:
        raise StageError(
            f"{path} is no data set of stage {STAGE} ({error}): delete it and run stage {STAGE} again."
        ) from error
    return Splits(train, test, mean, std, names, meta)


def _checked_split(tensors: Mapping[str, Tensor], split: str, names: tuple[str, ...], channels: int) -> MultiLabelData:
    images, labels, source_index = (tensors[f"{split}_{part}"] for part in ("images", "labels", "source_index"))
    kinds = [(images, torch.uint8, 4), (labels, torch.uint8, 2), (source_index, torch.int64, 2)]
    if any(tensor.dtype != dtype or tensor.ndim != ndim for tensor, dtype, ndim in kinds):
        raise ValueError(f"the tensors of {split} have other types or shapes than a data set")
    if (
        not len(images) == len(labels) == len(source_index)
        or labels.shape[1] != len(names)
        or images.shape[1] != channels
    ):
        raise ValueError(f"the sizes of the tensors of {split} do not fit together")
    if len(labels) and labels.max() > 1:
        raise ValueError(f"the labels of {split} are not 0 and 1")
    return MultiLabelData(images, labels, source_index, names)
