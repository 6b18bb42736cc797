"""`build_model`: one door to every network of the papers."""

import math
from contextlib import nullcontext
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nclib.heads import ETFHead
from nclib.models.architectures import (
    ARCHITECTURES,
    HEADS,
    check_depth,
    check_feature_dim,
    check_image_size,
    check_stem,
)
from nclib.models.mlp import MLPBackbone
from nclib.models.resnet import resnet_backbone
from nclib.models.vgg import VGGBackbone


class Classifier(nn.Module):
    """A backbone and a last layer; `forward(x)` returns `(logits, features)`, in float32 also under autocast.

    Collapse means that differences between features become small against the features: bfloat16 with its 8 bits would
    hide it and add its own noise to the loss, while the last layer costs next to nothing. So only the backbone runs
    under autocast.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b d"]]:
        features = self.backbone(x)
        device_type = features.device.type
        # The meta device, on which shapes are tried out, knows no autocast.
        with nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False):
            features = features.to(torch.promote_types(features.dtype, torch.float32))
            return self.head(features), features


def build_model(
    arch: str,
    *,
    in_channels: int,
    num_classes: int,
    head: str = "learned",
    feature_dim: int | None = None,
    width: int | None = None,
    depth: int | None = None,
    stem: str = "small",
    bias: bool = True,
    image_size: int | tuple[int, int] | None = None,
    generator: torch.Generator | None = None,
) -> Classifier:
    """A network of the papers, on the CPU in float32, initialized as their released code does it.

    ResNets: convolutions normal with variance 2 / fan-out, batch norm 1 and 0. VGG and MLP: PyTorch's layer
    defaults, uniform within 1 / sqrt(fan-in). The last layer of each: PyTorch's default; the bias of an ETF head, too.

    `feature_dim` is the width d of the features that the last layer sees. None is the network's natural width
    (512 in ResNet-18 and VGG, 2048 in ResNet-50, `width` in an mlp); a number makes the last block or convolution d
    wide and leaves the rest. It also gives the last block of a ResNet a 1 x 1 convolution on its shortcut, whatever the
    number, as the released `--fixdim` does: with 512 features ResNet-18 (3 channels) then has 11,437,130 trainable
    parameters, not 11,173,962.

    Source: released code of both papers. Deviation: at d = K - 1 the ETF is a true one, in the coordinates of its
    span; there the K x K one is cut after d columns.

    Args:
        arch: one of `ARCHITECTURES`.
        in_channels: channels of the images.
        num_classes: number of classes K.
        head: "learned" for a linear layer, "etf" for a fixed simplex ETF with a trained bias.
        feature_dim: width d of the features; at least K - 1 for an ETF.
        width: channels of the first stage, or units of an mlp's hidden layers; None for the papers'.
        depth: hidden layers of an mlp, or depth 6 n + 2 of a wide_resnet; None for the papers'. The others' names fix
            it.
        stem: "small" (3 x 3, stride 1) or "imagenet" (7 x 7, stride 2, max-pool), for the ResNets.
        bias: whether the last layer has a bias.
        image_size: height and width (or both in one number) of the images in pixels; an mlp needs it, a VGG checks it.
        generator: CPU generator of the initial values; None for PyTorch's global one. Layers are made without values
            and filled from the generator, so that with one the global random state is neither used nor moved.

    Returns:
        A `Classifier` with `.backbone` and `.head`, in training mode. Under `torch.device("meta")` it has
        shapes only.

    >>> generator = torch.Generator().manual_seed(0)
    >>> model = build_model("resnet18", in_channels=1, num_classes=10, width=8, generator=generator)
    >>> logits, features = model(torch.zeros(2, 1, 16, 16))
    >>> logits.shape, features.shape
    (torch.Size([2, 10]), torch.Size([2, 64]))
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"Expected arch to be one of {', '.join(ARCHITECTURES)}, but got {arch!r}.")
    if head not in HEADS:
        raise ValueError(f"Expected head to be one of {', '.join(HEADS)}, but got {head!r}.")
    if num_classes < 2:
        raise ValueError(f"Expected num_classes to be at least 2, but got {num_classes}.")
    check_stem(arch, stem)
    check_depth(arch, depth)
    for name, value in {"in_channels": in_channels, "feature_dim": feature_dim, "width": width}.items():
        if value is not None and value < 1:
            raise ValueError(f"Expected {name} to be at least 1, but got {value}.")
    known = ARCHITECTURES[arch]
    device = torch.get_default_device()
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if size is not None:
        check_image_size(arch, *size)
    options = {"feature_dim": feature_dim, "width": width or known.width}
    with torch.device("meta"):
        if known.family == "resnet":
            backbone = resnet_backbone(arch, in_channels=in_channels, depth=depth or known.depth, stem=stem, **options)
        elif known.family == "vgg":
            backbone = VGGBackbone(arch, in_channels=in_channels, **options)
        elif size is None:
            raise ValueError(f"Expected image_size for arch {arch!r}, whose first layer sees all pixels, but got None.")
        else:
            options |= {"depth": depth or known.depth, "norm_last": not known.ends_in_relu}
            backbone = MLPBackbone(in_channels * math.prod(size), **options)
    check_feature_dim(head, backbone.feature_dim, num_classes)
    if device.type == "meta":
        return Classifier(backbone, _head(head, backbone.feature_dim, num_classes, bias=bias))
    # Filled on the CPU, wherever it will live: one seed is one network on every device.
    with torch.device("cpu"):
        last_layer = _head(head, backbone.feature_dim, num_classes, bias=bias)
        model = Classifier(backbone.to_empty(device="cpu"), last_layer)
        _initialize(model, residual=known.family == "resnet", generator=generator)
    return model.to(device)


def trainable_parameters(model: nn.Module) -> int:
    """Number of parameters that an optimizer may move (an ETF head's weight is not one of them)."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _head(head: str, feature_dim: int, num_classes: int, *, bias: bool) -> nn.Module:
    if head == "etf":
        return ETFHead(feature_dim, num_classes, bias=bias)
    with torch.device("meta"):
        linear = nn.Linear(feature_dim, num_classes, bias=bias)
    return linear.to_empty(device=torch.get_default_device())


@torch.no_grad()
def _initialize(model: Classifier, *, residual: bool, generator: torch.Generator | None) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_parameters()  # ones and zeros: nothing random
        elif isinstance(module, nn.Conv2d) and residual:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
            _uniform_bias(module.bias, fan_in=module.weight[0].numel(), generator=generator)
    if not isinstance(model.head, nn.Linear):
        bias, fan_in = cast(Tensor | None, model.head.bias), cast(int, model.backbone.feature_dim)
        _uniform_bias(bias, fan_in=fan_in, generator=generator)


def _uniform_bias(bias: Tensor | None, *, fan_in: int, generator: torch.Generator | None) -> None:
    if bias is not None:
        nn.init.uniform_(bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=generator)
