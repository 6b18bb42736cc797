"""The architectures: names, defaults and limits, and the checks that `build_model` and a study's parameters share.

Nothing here imports torch: a study file is checked before torch is loaded.
"""

from dataclasses import dataclass

HEADS = ("learned", "etf")
STEMS = ("small", "imagenet")


@dataclass(frozen=True)
class Architecture:
    """One network of the papers, as far as it is known before it is built."""

    family: str
    width: int  # default channels of the first stage, or units of an mlp's hidden layers
    features_per_width: int  # natural width of the features, as a multiple of `width`
    stems: tuple[str, ...] = ("small",)
    depths: range = range(0)  # to choose from; none where the name fixes the depth
    depth: int | None = None  # the default
    smallest_image: int = 1  # least height and width [pixels]
    ends_in_relu: bool = True  # features are not negative

    def features(self, width: int | None = None) -> int:
        """Natural width d of the features."""
        return self.features_per_width * (width or self.width)


ARCHITECTURES = {
    "resnet18": Architecture("resnet", 64, 8, STEMS),
    "resnet34": Architecture("resnet", 64, 8, STEMS),
    "resnet50": Architecture("resnet", 64, 32, STEMS),
    "resnet101": Architecture("resnet", 64, 32, STEMS),
    "resnet152": Architecture("resnet", 64, 32, STEMS),
    "wide_resnet50_2": Architecture("resnet", 64, 32, STEMS),
    "vgg11": Architecture("vgg", 64, 8, smallest_image=32),  # five max-pools of 2 leave one position of 32
    "vgg13": Architecture("vgg", 64, 8, smallest_image=32),
    "vgg16": Architecture("vgg", 64, 8, smallest_image=32),
    "vgg19": Architecture("vgg", 64, 8, smallest_image=32),
    "mlp": Architecture("mlp", 512, 1, depths=range(1, 101), depth=6),
    "mlp_norm_last": Architecture("mlp", 512, 1, depths=range(1, 101), depth=6, ends_in_relu=False),
    "wide_resnet": Architecture("resnet", 160, 4, STEMS, depths=range(8, 101, 6), depth=26),
}


def check_depth(arch: str, depth: int | None) -> None:
    """Refuse a depth that `arch` does not come in."""
    depths = ARCHITECTURES[arch].depths
    if depth is None or depth in depths:
        return
    if not depths:
        raise ValueError(f"Expected no depth for arch {arch!r}, whose name fixes it, but got {depth}.")
    few = ", ".join(map(str, depths[:4]))
    raise ValueError(f"Expected depth of arch {arch!r} to be one of {few}, ..., {depths[-1]}, but got {depth}.")


def check_stem(arch: str, stem: str) -> None:
    """Refuse a stem that `arch` does not have."""
    stems = ARCHITECTURES[arch].stems
    if stem not in stems:
        known = " or ".join(repr(name) for name in stems)
        raise ValueError(f"Expected stem of arch {arch!r} to be {known}, but got {stem!r}.")


def check_image_size(arch: str, height: int, width: int) -> None:
    """Refuse images of which `arch` would leave nothing."""
    smallest = ARCHITECTURES[arch].smallest_image
    if min(height, width) < smallest:
        raise ValueError(
            f"Expected images of at least {smallest} x {smallest} pixels for arch {arch!r}, but got "
            f"{height} x {width}: enlarge them (in a study: dataset.image_size) or choose a resnet."
        )


def check_feature_dim(head: str, feature_dim: int, num_classes: int) -> None:
    """Refuse features too narrow for a simplex ETF."""
    if head == "etf" and feature_dim < num_classes - 1:
        raise ValueError(
            f"Expected head 'etf' to have feature_dim >= num_classes - 1 = {num_classes - 1}, but got {feature_dim}."
        )
