"""What a study can name: sources, layouts, normalizations, losses, and the rules that parameters and builders share.

Nothing here imports torch. Architectures stand in `nclib.models.architectures`, optimizers and schedules in
`nclib.optim`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Source:
    """What is known of a source's images before they are read; None: it depends on the files.

    Args:
        classes: number of classes.
        channels: 1 or 3.
        side: height and width [pixels].
        options: the `dataset` fields that its reader takes.
        is_multi_label: an image may have several labels.
        archives: patterns of the files that it reads, from its folder; for each the archive that they are unpacked from
            and its size [MB], if there is one.
        url: the folder of the archives, where they can be downloaded.
    """

    classes: int | None
    channels: int
    side: int | None
    options: tuple[str, ...] = ()
    is_multi_label: bool = False
    archives: Mapping[str, tuple[str, float | int] | None] = field(default_factory=dict)
    url: str = ""


IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
_MNIST = {"train-images-idx3": 9.9, "train-labels-idx1": 0.1, "t10k-images-idx3": 1.6, "t10k-labels-idx1": 0.1}
SOURCES = {
    "digits": Source(10, 1, 8, options=("test_fraction", "seed")),
    "mnist": Source(
        10,
        1,
        28,
        archives={f"MNIST/raw/{name}-ubyte": (f"MNIST/raw/{name}-ubyte.gz", size) for name, size in _MNIST.items()},
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    "cifar10": Source(
        10,
        3,
        32,
        archives={"cifar-10-batches-*/*_batch*": ("cifar-10-python.tar.gz", 170)},
        url="https://www.cs.toronto.edu/~kriz/",
    ),
    "svhn": Source(
        9,
        3,
        32,
        options=("image_size", "sample_size"),
        is_multi_label=True,
        archives={"svhn/train/*": ("svhn/train.tar.gz", 404), "svhn/test/*": ("svhn/test.tar.gz", 277)},
        url="http://ufldl.stanford.edu/housenumbers/",
    ),
    "image_folder": Source(
        None,
        3,
        None,
        options=("image_size", "test_fraction", "split", "seed", "test_folder"),
        archives={"**/*": None},
    ),
}
TEST_FRACTION = 0.2  # of each class, where a source has no split

LAYOUTS = {"mnist": 3, "cifar": 3, "grid": 4}  # most labels of a composed image
SMALLEST_SIDE = 4  # of a source image that can be shifted [pixels]

Moments = tuple[tuple[float, ...], tuple[float, ...]]

# Mean and deviation per channel of values in [0, 1], as usual for these sources.
PUBLISHED_MOMENTS: dict[str, Moments] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "mnist": ((0.1307,), (0.3081,)),
}
NORMALIZATIONS = ("unit", *PUBLISHED_MOMENTS, "dataset")  # none; published; of the training images


@dataclass(frozen=True)
class Loss:
    """A loss of `nclib.losses`.

    Args:
        options: the `training` fields that this loss alone has, and the arguments they are.
        is_multi_hot: of logits and multi-hot targets; else of one class, for the pick-all-label reduction.
    """

    options: Mapping[str, str] = field(default_factory=dict)
    is_multi_hot: bool = False


LOSSES = {
    "cross_entropy": Loss(),
    "mse": Loss(),
    "rescaled_mse": Loss({"mse_k": "k", "mse_M": "M"}, is_multi_hot=True),
    "binary_cross_entropy": Loss(is_multi_hot=True),
    "label_smoothing": Loss({"smoothing": "smoothing"}),
    "focal": Loss({"gamma": "gamma"}),
}


def check_multiplicities(multiplicities: Iterable[int], layout: str, classes: int | None) -> None:
    """Refuse numbers of labels that an image of this layout, of these classes, cannot have."""
    most = min(LAYOUTS[layout], classes or math.inf)
    for multiplicity in multiplicities:
        if not 1 <= multiplicity <= most:
            of = f" and {classes} classes" if classes else ""
            raise ValueError(
                f"Expected multiplicities between 1 and {most} for layout {layout!r}{of}, but got {multiplicity}."
            )


def check_pair_groups(groups: Sequence[int], classes: int | None) -> None:
    """Refuse groups that cannot be told apart by their numbers, or are not equally large."""
    if min(groups, default=0) < 1 or len(set(groups)) < len(groups):
        raise ValueError(f"Expected pair_groups to be different numbers of at least 1, but got {list(groups)}.")
    pairs = math.comb(classes, 2) if classes else 0
    if pairs % len(groups):
        raise ValueError(
            f"Expected pair_groups to cut the {pairs} pairs of {classes} classes into equal groups, "
            f"but got {len(groups)} groups."
        )
