"""The parameters of one run: typed and frozen sections, whose defaults are the settings of the first paper.

`nclib.study.study` reads them from a study file. Anything that is not a field, of the wrong type or out of range is
refused there, with its path (`training.lr`), what was expected and what came. Names and what is known of them stand in
`nclib.study.registry`, `nclib.models.architectures` and `nclib.optim`.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from nclib.models.architectures import (
    ARCHITECTURES,
    HEADS,
    STEMS,
    check_depth,
    check_feature_dim,
    check_image_size,
    check_stem,
)
from nclib.optim.names import DECAY_MODES, HISTORY_SIZE, MOMENTUM, OPTIMIZERS
from nclib.optim.schedule import DROP, MIN_LR_RATIO, SCHEDULES, STEP_SIZE, check_milestones
from nclib.study.folders import data_root
from nclib.study.registry import (
    LAYOUTS,
    LOSSES,
    NORMALIZATIONS,
    PUBLISHED_MOMENTS,
    SMALLEST_SIDE,
    SOURCES,
    TEST_FRACTION,
    check_multiplicities,
    check_pair_groups,
)

NAME = r"^[A-Za-z0-9][A-Za-z0-9._=+-]*$"


class FieldError(ValueError):
    """A field that does not fit the others: its path from the section where this is raised, and why."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(why)
        self.path = tuple(path.split("."))


@contextmanager
def field_at_fault(path: str) -> Iterator[None]:
    """Names the field whose check failed."""
    try:
        yield
    except ValueError as error:
        raise FieldError(path, str(error)) from error


def as_number(value: Any) -> Any:
    """Turn `1e-3`, which YAML 1.1 (and papermill's `-f`) reads as text, into a float."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value


def _integer_keys(value: Any) -> Any:
    """papermill and JSON turn a mapping's integer keys into text."""
    if isinstance(value, Mapping):
        return {int(k) if isinstance(k, str) and k.isdigit() else k: v for k, v in value.items()}
    return value


def as_tuple(value: Any) -> Any:
    """YAML and JSON have lists only."""
    return tuple(value) if isinstance(value, list) else value


def _as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


Real = Annotated[float, BeforeValidator(as_number), Field(allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=NAME, max_length=100)]
Label = Annotated[str, Field(pattern=r"^\S.*$", max_length=100)]
Counts = Annotated[dict[int, Annotated[int, Field(ge=1, le=10**7)]], BeforeValidator(_integer_keys)]
Integers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(as_tuple)]


def distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse a seed given twice: the same training would count as two."""
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"expected different seeds, but got {list(seeds)}")
    return seeds


Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=2**31)], ...],
    BeforeValidator(as_tuple),
    Field(min_length=1),
    AfterValidator(distinct),
]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Dataset(Section):
    """The images and their labels (stage 01_dataset)."""

    name: Name = "data"  # folder of the data set in the study's outputs
    source: Literal[tuple(SOURCES)] = "digits"
    # Folder of the source's files, from the data root; None: the data root (image_folder: `name`)
    root: Annotated[str, BeforeValidator(_as_text)] | None = None
    # How several images become one; None: the source's own images, one label each (svhn: its own)
    layout: Literal[tuple(LAYOUTS)] | None = None
    train_counts: Counts = {}  # training images per label set, by its number of labels
    test_counts: Counts = {}  # test images per label set, by its number of labels
    pair_groups: Integers = ()  # imbalance: training images per pair, one number for each equal group of pairs
    # Training images per class, the first of each (svhn: at most, per label set); None: all
    sample_size: Annotated[int, Field(ge=1)] | None = None
    class_counts: Integers = ()  # training images of each class, the first of each: a long tail
    random_labels: bool = False  # permute the labels of both splits once (balanced)
    image_size: Annotated[int, Field(ge=SMALLEST_SIDE, le=1024)] | None = None  # resize to this side [pixels]
    # Share of each class kept for the test, where the source has no split of its own
    test_fraction: Annotated[Real, Field(gt=0, lt=1)] = TEST_FRACTION
    # image_folder: which of each class are for the test; "last": in the order of file names
    split: Literal["random", "last"] = "random"
    test_folder: str | None = None  # image_folder: that of the test images, where there are several (val and test)
    # "unit": values in [0, 1]; else subtract each channel's mean, divide by its deviation
    normalization: Literal[NORMALIZATIONS] = "unit"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0  # of the composition, one for all training seeds

    @property
    def source_folder(self) -> Path:
        """The folder of the source's files."""
        return data_root(self.root or (self.name if self.source == "image_folder" else None))

    @property
    def side(self) -> int | None:
        """Side of the images that the network sees [pixels]; None: it depends on the files."""
        side = self.image_size or SOURCES[self.source].side
        return 2 * side if side and self.layout else side

    @model_validator(mode="after")
    def _fields_fit(self) -> "Dataset":
        source = SOURCES[self.source]
        if self.layout is not None:
            self._check_composition(self.layout)
        for field in ("train_counts", "test_counts", "pair_groups"):
            if self.layout is None and getattr(self, field):
                raise FieldError(field, f"it needs a layout ({', '.join(LAYOUTS)})")
        for field, default in {"test_folder": None, "split": "random"}.items():
            if getattr(self, field) != default and field not in source.options:
                raise FieldError(field, "it is for source 'image_folder'")
        for field in ("random_labels", "class_counts"):
            if source.is_multi_label and getattr(self, field):
                raise FieldError(field, f"it is for single-label data: the images of {self.source} have several labels")
        if self.class_counts and (self.sample_size or min(self.class_counts) < 1):
            raise FieldError("class_counts", "numbers of at least 1, without sample_size")
        moments = PUBLISHED_MOMENTS.get(self.normalization)
        if moments and len(moments[0]) != source.channels:
            raise FieldError(
                "normalization",
                f"'{self.normalization}' is for {len(moments[0])} channels, but '{self.source}' has {source.channels}",
            )
        return self

    def _check_composition(self, layout: str) -> None:
        source = SOURCES[self.source]
        if source.is_multi_label:
            raise FieldError("layout", f"the images of {self.source} have several labels already")
        for field in ("sample_size", "class_counts", "random_labels"):
            if getattr(self, field):
                raise FieldError(field, "it is for single-label data: it cannot go with a layout")
        for field, example in (("train_counts", "{1: 3100, 2: 200}"), ("test_counts", "{1: 800, 2: 50}")):
            counts = getattr(self, field)
            if 1 not in counts:  # the class means come from them
                raise FieldError(field, f"layout '{layout}' needs images with one label (key 1), e.g. {example}")
            with field_at_fault(field):
                check_multiplicities(counts, layout, source.classes)
        if self.pair_groups:
            if 2 in self.train_counts:
                raise FieldError("pair_groups", "it gives the numbers of pairs: take key 2 out of train_counts")
            with field_at_fault("pair_groups"):
                check_pair_groups(self.pair_groups, source.classes)


class Model(Section):
    """The network (built by `nclib.models.build_model`)."""

    arch: Literal[tuple(ARCHITECTURES)] = "resnet18"  # backbone
    # Channels of the first stage (mlp: units of each hidden layer); None: the architecture's own
    width: Annotated[int, Field(ge=1, le=4096)] | None = None
    depth: int | None = None  # hidden layers of an mlp; 6 n + 2 of a wide_resnet; None: its own
    head: Literal[HEADS] = "learned"  # last layer: trained, or fixed to a simplex ETF
    # Width d of the last-layer features, as the released --fixdim; None: the architecture's own
    feature_dim: Annotated[int, Field(ge=1, le=65536)] | None = None
    stem: Literal[STEMS] = "small"  # 3x3 stride 1, or 7x7 stride 2 with max-pool
    bias: bool = True  # in the last layer


class Training(Section):
    """How the network is trained (stage 02_train)."""

    # Single-label loss under pick-all-label; rescaled_mse, binary_cross_entropy: of multi-hot targets
    loss: Literal[tuple(LOSSES)] = "cross_entropy"
    label_mean: bool = True  # pick-all-label as the mean over a sample's labels; False: their sum
    mse_k: Annotated[Real, Field(gt=0)] = 1.0  # rescaled MSE: weight k of the true class
    mse_M: Annotated[Real, Field(gt=0)] = 1.0  # rescaled MSE: target M of the true class
    smoothing: Annotated[Real, Field(ge=0, lt=1)] = 0.1  # label smoothing: mass spread over all classes
    gamma: Annotated[Real, Field(ge=0)] = 2.0  # focal loss: exponent
    optimizer: Literal[OPTIMIZERS] = "sgd"
    lr: Annotated[Real, Field(gt=0, le=1e3)] = 0.1  # learning rate at the start
    momentum: Annotated[Real, Field(ge=0, lt=1)] = MOMENTUM  # of SGD
    history_size: Annotated[int, Field(ge=1, le=1000)] = HISTORY_SIZE  # L-BFGS: remembered steps
    weight_decay: Annotated[Real, Field(ge=0)] = 5e-4  # gradient of 1/2 wd |p|^2, as in torch
    # Weight decay on all parameters, or on the last layer only (beside feature_decay)
    decay_on: Literal[DECAY_MODES] = "parameters"
    feature_decay: Annotated[Real, Field(ge=0)] = 1e-3  # lambda_H of lambda_H |H_batch|_F^2
    feature_decay_mean: bool = False  # divide the feature decay by the batch size (released: no)
    batch_size: Annotated[int, Field(ge=2, le=10**6)] = 128  # samples per step
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 200  # passes over the training data
    schedule: Literal[SCHEDULES] = "cosine"  # learning rate by epoch
    min_lr_ratio: Annotated[Real, Field(ge=0, le=1)] = MIN_LR_RATIO  # cosine: last over first learning rate
    step_size: Annotated[int, Field(ge=1)] = STEP_SIZE  # step: epochs between two drops
    milestones: Integers = ()  # multistep: epochs of the drops
    lr_drop: Annotated[Real, Field(gt=0, le=1)] = DROP  # step, multistep: factor of a drop
    augment: bool = False  # random crop (padding 4 pixels) and horizontal flip
    checkpoint_every: Annotated[int, Field(ge=1)] = 20  # epochs between two kept checkpoints
    device: Literal["auto", "cpu", "cuda"] = "auto"  # "auto": the GPU if there is one
    # Of the backbone (head, loss, metrics: float32); "auto": bfloat16 on hardware that computes in it, but for L-BFGS
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"  # torch.compile; "auto": where it pays


class Validation(Section):
    """What is measured at each checkpoint (stage 03_validate)."""

    batch_size: Annotated[int, Field(ge=1, le=10**6)] = 512  # samples per forward pass
    # Training features kept at each checkpoint for the explorer (spread over the label sets)
    feature_sample: Annotated[int, Field(ge=0, le=100_000)] = 600
    device: Literal["auto", "cpu", "cuda"] = "auto"  # "auto": the GPU if there is one


SECTIONS = ("dataset", "model", "training", "validation")


class Run(Section):
    """One run of a study, overrides merged in: all that its stages need to know."""

    study: Name
    run: Name
    label: Label = Field(default_factory=lambda given: given["run"], description="its name in figures and tables")
    dataset: Dataset
    model: Model
    training: Training
    validation: Validation
    seeds: Seeds

    @model_validator(mode="after")
    def _model_fits(self, info: Any) -> "Run":  # pydantic's ValidationInfo, which beartype cannot check
        built = info.context or {}  # what only the data set itself can say
        model, side = self.model, self.dataset.side or built.get("side")
        classes = SOURCES[self.dataset.source].classes or built.get("classes")
        with field_at_fault("model.depth"):
            check_depth(model.arch, model.depth)
        with field_at_fault("model.stem"):
            check_stem(model.arch, model.stem)
        if side:
            with field_at_fault("model.arch"):
                check_image_size(model.arch, side, side)
        if classes:
            with field_at_fault("model.feature_dim"):
                features = model.feature_dim or ARCHITECTURES[model.arch].features(model.width)
                check_feature_dim(model.head, features, classes)
        return self

    @model_validator(mode="after")
    def _training_fits(self) -> "Run":
        training = self.training
        for loss, known in LOSSES.items():
            for field in known.options:
                changed = getattr(training, field) != Training.model_fields[field].default
                if changed and training.loss != loss:
                    raise FieldError(f"training.{field}", f"it is for loss '{loss}', but the loss is '{training.loss}'")
        if LOSSES[training.loss].is_multi_hot and not training.label_mean:
            raise FieldError("training.label_mean", f"loss '{training.loss}' has multi-hot targets, no sum over labels")
        if training.schedule == "multistep":
            with field_at_fault("training.milestones"):
                check_milestones(training.milestones)
        return self


class Smoke(Section):
    """Overrides for a quick try of the whole study."""

    dataset: dict[str, Any] = {}
    model: dict[str, Any] = {}
    training: dict[str, Any] = {}
    validation: dict[str, Any] = {}
    seeds: Seeds = (0,)
    runs: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] | None = None  # names of the runs kept; None: all
