"""ResNets for small images, parameters named as in torchvision, with a last block as wide as asked for."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut: (b c h w) -> (b o h/stride w/stride).

    With `project` the shortcut is a 1 x 1 convolution with batch norm, without it the input itself.

    Source: He et al. 2016, as in torchvision; `out_channels` other than `width` is the released codes' `fixdim`.
    """

    expansion = 1

    def __init__(self, channels: int, width: int, out_channels: int, stride: int, *, project: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = _projection(channels, out_channels, stride) if project else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o r s"]:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    """As `BasicBlock`, with a 3 x 3 convolution between two of 1 x 1."""

    expansion = 4

    def __init__(self, channels: int, width: int, out_channels: int, stride: int, *, project: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(channels, out_channels, stride) if project else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o r s"]:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


def _projection(channels: int, out_channels: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


_STAGES = {  # block, and blocks per stage
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
    "wide_resnet50_2": (Bottleneck, (3, 4, 6, 3)),
}


class ResNetBackbone(nn.Module):
    """Stem, stages of residual blocks that halve the image, mean over positions: (b c h w) -> (b d).

    The last block alone changes with `feature_dim`: its last convolution gets that many outputs and its shortcut a
    1 x 1 convolution with batch norm, also at the natural width, while the convolutions before keep their width.

    The first stage is `width` channels wide (before expansion), each later one twice as wide as that before. Inside a
    block the convolutions are `widening` times as wide.

    Source: the released code of both papers (its `fixdim`), with parameters named as in torchvision.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, ...],
        *,
        in_channels: int,
        stem_width: int,
        width: int,
        feature_dim: int | None,
        stem: str,
        widening: int = 1,
    ):
        super().__init__()
        small = stem == "small"
        kernel_size, stride, padding = (3, 1, 1) if small else (7, 2, 3)
        self.conv1 = nn.Conv2d(in_channels, stem_width, kernel_size, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.stages = len(blocks)
        channels = stem_width
        for stage, count in enumerate(blocks):
            planes = width * 2**stage
            layers = []
            for index in range(count):
                fixed = feature_dim if stage == len(blocks) - 1 and index == count - 1 else None
                out_channels = planes * block.expansion if fixed is None else fixed
                block_stride = 2 if stage > 0 and index == 0 else 1
                project = fixed is not None or block_stride > 1 or channels != out_channels
                layers.append(block(channels, planes * widening, out_channels, block_stride, project=project))
                channels = out_channels
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.feature_dim = channels

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return mean_over_positions(x)


def mean_over_positions(x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d"]:
    """Global average pool in at least float32: what comes after it measures how small a variance is."""
    return x.mean(dim=(2, 3), dtype=torch.promote_types(x.dtype, torch.float32))


def resnet_backbone(arch: str, *, width: int, depth: int | None, **options: Any) -> ResNetBackbone:
    """A ResNet of torchvision's, whose stem is `width` wide, or "wide_resnet", the Wide ResNet for small images.

    That is the one of Zagoruyko and Komodakis (2016) for CIFAR as paper 2's code has it: depth 26, a stem of 16
    channels, three stages of basic blocks from 16 x 10 channels on, activations after the convolutions.
    "wide_resnet50_2" is their network for ImageNet, in torchvision and both papers' codes: a ResNet-50 with twice the
    channels inside its blocks.
    """
    if arch == "wide_resnet":
        blocks = ((depth - 2) // 6,) * 3  # pyright: ignore[reportOptionalOperand]
        block, stem_width = BasicBlock, 16
    else:
        (block, blocks), stem_width = _STAGES[arch], width
    if arch == "wide_resnet50_2":
        options["widening"] = 2
    return ResNetBackbone(block, blocks, stem_width=stem_width, width=width, **options)
