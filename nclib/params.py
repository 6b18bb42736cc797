"""The parameters of one run: typed and frozen sections, whose defaults are the settings of the first paper.

`nclib.study` reads them from a study file or from a notebook. Anything that is not a field, of the wrong type or out of
range is refused there, with its path (`training.lr`), what was expected and what came.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

NAME = r"^[A-Za-z0-9][A-Za-z0-9._=+-]*$"
KNOWN_CLASSES = {"digits": 10, "mnist": 10, "cifar10": 10, "svhn": 9}


def as_number(value: Any) -> Any:
    """Turn `1e-3`, which YAML 1.1 (and papermill's `-f`) reads as text, and whole numbers into floats."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return float(value)
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
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], BeforeValidator(as_tuple), Field(min_length=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Dataset(Section):
    """The pictures and their labels (stage 01_dataset)."""

    name: Name = Field("data", description="folder of the data set in the study's outputs")
    source: Literal["digits", "mnist", "cifar10", "svhn", "image_folder"] = Field("digits", description="source")
    root: str | None = Field(None, description="folder of the source's files; None: $NCLIB_DATA_ROOT or data/")
    layout: Literal["mnist", "cifar", "grid"] | None = Field(
        None,
        description="how several pictures become one; None: the source's own pictures, one label each (svhn: its own)",
    )
    train_counts: Counts = Field({}, description="pictures for each label set, by its number of labels")
    test_counts: Counts = Field({}, description="likewise for the test pictures")
    pair_groups: Integers = Field(
        (), description="imbalance: training pictures a pair, one number for each equal group of pairs"
    )
    sample_size: Annotated[int, Field(ge=1)] | None = Field(None, description="training pictures a class; None: all")
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

    @model_validator(mode="after")
    def _composed(self) -> "Dataset":
        composed = self.layout is not None
        if composed and not self.train_counts:
            raise ValueError(f"layout '{self.layout}' needs train_counts, e.g. {{1: 3100, 2: 200}}")
        if composed and not self.test_counts:
            raise ValueError(f"layout '{self.layout}' needs test_counts, e.g. {{1: 800, 2: 50}}")
        for field in ("train_counts", "test_counts", "pair_groups"):
            if not composed and getattr(self, field):
                raise ValueError(f"{field} needs a layout ('mnist', 'cifar' or 'grid')")
        for field in ("sample_size", "random_labels"):
            if composed and getattr(self, field):
                raise ValueError(f"{field} is for single-label data: it cannot go with a layout")
        if composed and 1 not in self.train_counts:
            raise ValueError("train_counts needs pictures with one label (key 1): the class means come from them")
        if composed and self.layout != "grid" and max(*self.train_counts, *self.test_counts) > 3:
            raise ValueError(f"layout '{self.layout}' composes at most 3 labels; use 'grid' for 4")
        return self


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
        "cross_entropy", description="single-label loss under the pick-all-label reduction"
    )
    label_mean: bool = Field(True, description="pick-all-label as the mean over a sample's labels; False: their sum")
    mse_k: Annotated[Real, Field(gt=0)] = Field(1.0, description="rescaled MSE: weight k of the true class")
    mse_M: Annotated[Real, Field(gt=0)] = Field(1.0, description="rescaled MSE: target M of the true class")
    smoothing: Annotated[Real, Field(ge=0, lt=1)] = Field(
        0.1, description="label smoothing: mass spread over all classes"
    )
    gamma: Annotated[Real, Field(ge=0)] = Field(2.0, description="focal loss: exponent")
    optimizer: Literal["sgd", "adam", "adamw", "lbfgs", "sdlbfgs"] = Field("sgd", description="optimiser")
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
        description="of the backbone; 'auto': bfloat16 on GPUs that have it (head, loss and metrics: float32)",
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
    def _fits(self) -> "Run":
        classes = KNOWN_CLASSES.get(self.dataset.source)
        d = self.model.feature_dim
        if classes and self.model.head == "etf" and d is not None and d < classes - 1:
            raise ValueError(
                f"model.feature_dim: head 'etf' needs feature_dim >= num_classes - 1 = {classes - 1}, but got {d}"
            )
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
