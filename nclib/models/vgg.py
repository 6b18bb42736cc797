"""VGG with batch norm, a global average pool and one linear layer, from torchvision's layer lists."""

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from nclib.models.architectures import check_image_size
from nclib.models.resnet import mean_over_positions

_LAYERS = {"vgg16": cfgs["D"], "vgg19": cfgs["E"]}


class VGGBackbone(nn.Module):
    """3 x 3 convolutions with bias, batch norm, ReLU and five max-pools, mean over positions: (b c h w) -> (b d).

    With `feature_dim` the last convolution has that many outputs; the others keep their width.

    Source: the released code of paper 1, with parameters named as there (and in torchvision): `features.0.weight`, ...

    Args:
        arch: "vgg16" or "vgg19".
        in_channels: channels of the images.
        feature_dim: width d of the features, or None for the natural one, 8 times `width`.
        width: channels of the first convolution; all others are in proportion.
    """

    def __init__(self, arch: str, *, in_channels: int, feature_dim: int | None, width: int):
        super().__init__()
        self.arch = arch
        layers = [layer if layer == "M" else layer // 64 * width for layer in _LAYERS[arch]]
        if feature_dim is not None:
            layers[-2] = feature_dim  # the last entry is the last max-pool
        self.features = make_layers(layers, batch_norm=True)
        if in_channels != 3:  # make_layers knows only color images
            self.features[0] = nn.Conv2d(in_channels, layers[0], kernel_size=3, padding=1)
        self.feature_dim = layers[-2]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        check_image_size(self.arch, x.shape[-2], x.shape[-1])
        return mean_over_positions(self.features(x))
