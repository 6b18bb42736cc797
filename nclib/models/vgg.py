"""VGG with batch norm, a global average pool and one linear layer."""

import itertools

from jaxtyping import Float
from torch import Tensor, nn

from nclib.models.architectures import check_image_size
from nclib.models.resnet import mean_over_positions

# Convolutions in each of the five stages between max-pools, and their channels as a multiple of the first's
_CONVOLUTIONS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
_CHANNELS = (1, 2, 4, 8, 8)


class VGGBackbone(nn.Module):
    """3 x 3 convolutions with bias, batch norm, ReLU and five max-pools, mean over positions: (b c h w) -> (b d).

    With `feature_dim` the last convolution has that many outputs; the others keep their width.

    Source: the released code of paper 1, with parameters named as there (and in torchvision): `features.0.weight`, ...
    """

    def __init__(self, arch: str, *, in_channels: int, feature_dim: int | None, width: int):
        super().__init__()
        self.arch = arch
        widths = [
            factor * width for factor, count in zip(_CHANNELS, _CONVOLUTIONS[arch], strict=True) for _ in range(count)
        ]
        if feature_dim is not None:
            widths[-1] = feature_dim
        last_of_stage = set(itertools.accumulate(_CONVOLUTIONS[arch]))
        layers: list[nn.Module] = []
        for number, (channels, out_channels) in enumerate(itertools.pairwise([in_channels, *widths]), 1):
            layers += [nn.Conv2d(channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU(True)]
            layers += [nn.MaxPool2d(2)] if number in last_of_stage else []
        self.features = nn.Sequential(*layers)
        self.feature_dim = widths[-1]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        check_image_size(self.arch, x.shape[-2], x.shape[-1])
        return mean_over_positions(self.features(x))
