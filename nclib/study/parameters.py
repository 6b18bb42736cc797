"""The parameters of one run: typed and frozen sections, whose defaults are the settings of the first paper.

`nclib.study.study` reads them from a study file. Anything that is not a field, of the wrong type or out of range is
refused there, with its path (`training.lr`), what was expected and what came.
"""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

NAME = r"^[A-Za-z0-9][A-Za-z0-9._=+-]*$"


class Images(NamedTuple):
    """What is known of a source's images before they are read; None: it depends on the files."""

    classes: int | None
    channels: int
    side: int | None  # pixels


SOURCES = {
    "digits": Images(10, 1, 8),
    "mnist": Images(10, 1, 28),
    "cifar10": Images(10, 3, 32),
    "svhn": Images(9, 3, 32),
    "image_folder": Images(None, 3, None),
}
NORMALIZED_CHANNELS = {"imagenet": 3, "cifar10": 3, "mnist": 1}
SMALLEST_VGG_IMAGE = 32  # pixels
WIDTHS = {  # of each architecture: channels of its first stage (mlp: units), and features for each of them
    "resnet18": (64, 8),
    "resnet34": (64, 8),
    "resnet50": (64, 32),
    "vgg16": (64, 8),
    "vgg19": (64, 8),
    "mlp": (512, 1),
    "wide_resnet": (160, 4),
}
FIELDS_OF_LOSSES = {"mse_k": "rescaled_mse", "mse_M": "rescaled_mse", "smoothing": "label_smoothing", "gamma": "focal"}


class Misfit(ValueError):
    """A field that does not fit the others: its path from the section where this is raised, and why."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(why)
        self.path = tuple(path.split("."))


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
    return tuple(value) if isinstance(value, list) else value


Real = Annotated[float, BeforeValidator(as_number), Field(allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=NAME, max_length=100)]
Counts = Annotated[
    dict[Annotated[int, Field(ge=1, le=4)], Annotated[int, Field(ge=1, le=10**7)]],
    BeforeValidator(_integer_keys),
]
Integers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(as_tuple)]


def distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    """Refuses a seed given twice: the same training would count as two."""
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

    name: Name = Field("data", description="folder of the data set in the study's outputs")
    source: Literal["digits", "mnist", "cifar10", "svhn", "image_folder"] = Field("digits", description="source")
    root: str | None = Field(None, description="folder of the source's files; None: $NCLIB_DATA_ROOT or data/")
    layout: Literal["mnist", "cifar", "grid"] | None = Field(
        None,
        description="how several images become one; None: the source's own images, one label each (svhn: its own)",
    )
    train_counts: Counts = Field({}, description="images for each label set, by its number of labels")
    test_counts: Counts = Field({}, description="likewise for the test images")
    pair_groups: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(as_tuple)] = Field(
        (), description="imbalance: training images a pair, one number for each equal group of pairs"
    )
    sample_size: Annotated[int, Field(ge=1)] | None = Field(
        None, description="training images a class (svhn: at most so many a label set); None: all"
    )
    random_labels: bool = Field(False, description="permute the training labels once (balanced)")
    image_size: Annotated[int, Field(ge=4, le=1024)] | None = Field(None, description="resize to this side [pixels]")
    test_fraction: Annotated[Real, Field(gt=0, lt=1)] = Field(
        0.2, description="share of each class kept for the test, where the source has no split of its own"
    )
    normalization: Literal["unit", "imagenet", "cifar10", "mnist", "dataset"] = Field(
        "unit",
        description="'unit': values in [0, 1]; else subtract a mean and divide by a deviation a channel",
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="of the composition, one for all training seeds")

    @property
    def side(self) -> int | None:
        """Side of the images that the network sees [pixels]; None: it depends on the files."""
        side = self.image_size or SOURCES[self.source].side
        return 2 * side if side and self.layout else side

    @model_validator(mode="after")
    def _agrees(self) -> "Dataset":
        if self.layout is not None:
            self._check_composition(self.layout)
        for field in ("train_counts", "test_counts", "pair_groups"):
            if self.layout is None and getattr(self, field):
                raise Misfit(field, "it needs a layout ('mnist', 'cifar' or 'grid')")
        if self.source == "svhn" and self.random_labels:
            raise Misfit("random_labels", "it is for single-label data: the images of svhn have several labels")
        name, channels = self.normalization, SOURCES[self.source].channels
        if NORMALIZED_CHANNELS.get(name, channels) != channels:
            needed = NORMALIZED_CHANNELS[name]
            raise Misfit("normalization", f"'{name}' is for {needed} channels, but '{self.source}' has {channels}")
        return self

    def _check_composition(self, layout: str) -> None:
        if self.source == "svhn":
            raise Misfit("layout", "the images of svhn have several labels already: they cannot be composed")
        for field in ("sample_size", "random_labels"):
            if getattr(self, field):
                raise Misfit(field, "it is for single-label data: it cannot go with a layout")
        for field, example in (("train_counts", "{1: 3100, 2: 200}"), ("test_counts", "{1: 800, 2: 50}")):
            counts = getattr(self, field)
            if 1 not in counts:  # the class means come from them
                raise Misfit(field, f"layout '{layout}' needs images with one label (key 1), e.g. {example}")
            if layout != "grid" and max(counts) > 3:
                raise Misfit(field, f"layout '{layout}' composes at most 3 labels; use 'grid' for 4")
        if self.pair_groups:
            self._check_pair_groups(self.pair_groups)

    def _check_pair_groups(self, groups: tuple[int, ...]) -> None:
        if 2 in self.train_counts:
            raise Misfit("pair_groups", "it says how many images pairs have: take key 2 out of train_counts")
        if len(set(groups)) < len(groups):
            raise Misfit("pair_groups", f"expected different numbers (results name groups by them), but got {groups}")
        classes = SOURCES[self.source].classes
        if classes and math.comb(classes, 2) % len(groups):
            pairs = math.comb(classes, 2)
            raise Misfit("pair_groups", f"it cannot cut the {pairs} pairs into {len(groups)} equal groups")


class Model(Section):
    """The network (built by `nclib.models.build_model`)."""

    arch: Literal["resnet18", "resnet34", "resnet50", "vgg16", "vgg19", "mlp", "wide_resnet"] = Field(
        "resnet18", description="backbone"
    )
    width: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None,
        description="channels of the first stage (mlp: of each hidden layer); None: the architecture's own",
    )
    depth: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="hidden layers of an mlp; 6 n + 2 of a wide_resnet"
    )
    head: Literal["learned", "etf"] = Field("learned", description="last layer: trained, or fixed to a simplex ETF")
    feature_dim: Annotated[int, Field(ge=1, le=65536)] | None = Field(
        None, description="width d of the last-layer features; None: the architecture's own"
    )
    stem: Literal["small", "imagenet"] = Field("small", description="3x3 stride 1, or 7x7 stride 2 with max-pool")
    bias: bool = Field(True, description="a bias in the last layer")


class Training(Section):
    """How the network is trained (stage 02_train)."""

    loss: Literal["cross_entropy", "mse", "rescaled_mse", "label_smoothing", "focal"] = Field(
        "cross_entropy",
        description="single-label loss under the pick-all-label reduction; rescaled_mse: to multi-hot targets",
    )
    label_mean: bool = Field(True, description="pick-all-label as the mean over a sample's labels; False: their sum")
    mse_k: Annotated[Real, Field(gt=0)] = Field(1.0, description="rescaled MSE: weight k of the true class")
    mse_M: Annotated[Real, Field(gt=0)] = Field(1.0, description="rescaled MSE: target M of the true class")
    smoothing: Annotated[Real, Field(ge=0, lt=1)] = Field(
        0.1, description="label smoothing: mass spread over all classes"
    )
    gamma: Annotated[Real, Field(ge=0)] = Field(2.0, description="focal loss: exponent")
    optimizer: Literal["sgd", "adam", "adamw", "lbfgs", "sdlbfgs"] = Field("sgd", description="optimizer")
    lr: Annotated[Real, Field(gt=0, le=1e3)] = Field(0.1, description="learning rate at the start")
    momentum: Annotated[Real, Field(ge=0, lt=1)] = Field(0.9, description="SGD momentum")
    history_size: Annotated[int, Field(ge=1, le=1000)] = Field(10, description="L-BFGS: remembered steps")
    weight_decay: Annotated[Real, Field(ge=0)] = Field(5e-4, description="gradient of 1/2 wd |p|^2, as in torch")
    decay_on: Literal["parameters", "features"] = Field(
        "parameters",
        description="weight decay on all parameters, or on the last layer only (beside feature_decay)",
    )
    feature_decay: Annotated[Real, Field(ge=0)] = Field(1e-3, description="lambda_H of lambda_H |H_batch|_F^2")
    feature_decay_mean: bool = Field(False, description="divide the feature decay by the batch size (released: no)")
    batch_size: Annotated[int, Field(ge=2, le=10**6)] = Field(128, description="samples a step")
    epochs: Annotated[int, Field(ge=1, le=100_000)] = Field(200, description="passes over the training data")
    schedule: Literal["cosine", "step", "multistep", "constant"] = Field("cosine", description="learning rate by epoch")
    min_lr_ratio: Annotated[Real, Field(ge=0, le=1)] = Field(1e-3, description="cosine: last over first learning rate")
    step_size: Annotated[int, Field(ge=1)] = Field(40, description="step: epochs between two drops")
    milestones: Integers = Field((), description="multistep: epochs of the drops")
    lr_drop: Annotated[Real, Field(gt=0, le=1)] = Field(0.1, description="step, multistep: factor of a drop")
    augment: bool = Field(False, description="random crop (padding 4 pixels) and horizontal flip")
    checkpoint_every: Annotated[int, Field(ge=1)] = Field(20, description="epochs between two kept checkpoints")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="'auto': the GPU if there is one")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of the backbone (head, loss and metrics: float32); 'auto': bfloat16 on hardware that computes in "
        "it, but for L-BFGS",
    )
    compile: Literal["auto", "on", "off"] = Field("auto", description="torch.compile; 'auto': where it pays")


class Validation(Section):
    """What is measured at each checkpoint (stage 03_validate)."""

    batch_size: Annotated[int, Field(ge=1, le=10**6)] = Field(512, description="samples a forward pass")
    feature_sample: Annotated[int, Field(ge=0, le=100_000)] = Field(
        600,
        description="training features kept at each checkpoint for the explorer (spread over the label sets)",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="'auto': the GPU if there is one")


SECTIONS = ("dataset", "model", "training", "validation")


class Run(Section):
    """One run of a study, overrides merged in: all that its stages need to know."""

    study: Name
    run: Name
    dataset: Dataset
    model: Model
    training: Training
    validation: Validation
    seeds: Seeds

    @model_validator(mode="after")
    def _model_fits(self) -> "Run":
        arch, depth, side = self.model.arch, self.model.depth, self.dataset.side
        if depth is not None and arch not in ("mlp", "wide_resnet"):
            raise Misfit("model.depth", f"arch '{arch}' has no depth to choose, but got {depth}")
        if depth is not None and arch == "wide_resnet" and (depth < 8 or depth % 6 != 2):
            raise Misfit("model.depth", f"a wide_resnet has depth 8, 14, 20, 26, ... (6 n + 2), but got {depth}")
        if self.model.stem != "small" and "resnet" not in arch:
            raise Misfit("model.stem", f"'{self.model.stem}' is for resnets, but the arch is '{arch}'")
        if arch.startswith("vgg") and side and side < SMALLEST_VGG_IMAGE:
            smallest = f"images of {SMALLEST_VGG_IMAGE} pixels a side or more"
            raise Misfit("model.arch", f"'{arch}' needs {smallest}, but they have {side}: set dataset.image_size")
        width, factor = WIDTHS[arch]
        d = self.model.feature_dim or factor * (self.model.width or width)
        least = (SOURCES[self.dataset.source].classes or 1) - 1
        if self.model.head == "etf" and d < least:
            raise Misfit("model.feature_dim", f"head 'etf' needs feature_dim >= num_classes - 1 = {least}, but got {d}")
        return self

    @model_validator(mode="after")
    def _training_fits(self) -> "Run":
        training, steps = self.training, self.training.milestones
        for field, loss in FIELDS_OF_LOSSES.items():
            changed = getattr(training, field) != Training.model_fields[field].default
            if changed and training.loss != loss:
                raise Misfit(f"training.{field}", f"it is for loss '{loss}', but the loss is '{training.loss}'")
        if training.loss == "rescaled_mse" and not training.label_mean:
            raise Misfit("training.label_mean", "loss 'rescaled_mse' has multi-hot targets, no sum over labels")
        if training.schedule == "multistep" and (not steps or list(steps) != sorted(set(steps))):
            raise Misfit("training.milestones", f"schedule 'multistep' needs increasing epochs, but got {steps}")
        return self


class Smoke(Section):
    """Overrides for a quick try of the whole study."""

    dataset: dict[str, Any] = Field(default_factory=dict)
    model: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    validation: dict[str, Any] = Field(default_factory=dict)
    seeds: Seeds = (0,)
    runs: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] | None = Field(
        None, description="names of the runs kept; None: all"
    )
