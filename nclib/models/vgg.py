"""VGG with batch norm, a global average pool and one linear layer, from torchvision's layer lists."""

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from nclib.models.resnet import mean_over_positions

_LAYERS = {"vgg16": cfgs["D"], "vgg19": cfgs["E"]}
SMALLEST_IMAGE = 32  # five max-pools of 2 leave one position of 32


class VGGBackbone(nn.Module):
    """3 x 3 convolutions with bias, batch norm, ReLU and five max-pools, mean over positions: (b c h w) -> (b
    d), h, w >= 32.

    With `feature_dim` the last convolution has that many outputs; the others keep their width.

    Source: the released code of paper 1, with parameters named as there (and in torchvision):
    `features.0.weight`, ...

    Args:
        arch: "vgg16" or "vgg19".
        in_channels: channels of the images.
        feature_dim: width d of the features, or None for the natural one, 8 times `width`.
        width: channels of the first convolution, or None for the papers' 64; all others are in proportion.
    """

    def __init__(self, arch: str, *, in_channels: int, feature_dim: int | None, width: int | None):
        super().__init__()
        width = 64 if width is None else width
        layers = [layer if layer == "M" else layer // 64 * width for layer in _LAYERS[arch]]
        if feature_dim is not None:
            layers[-2] = feature_dim  # the last entry is the last max-pool
        self.features = make_layers(layers, batch_norm=True)
        if in_channels != 3:  # make_layers knows only color images
            self.features[0] = nn.Conv2d(in_channels, layers[0], kernel_size=3, padding=1)
        self.feature_dim = layers[-2]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        check_image_size(x.shape[-2], x.shape[-1])
        return mean_over_positions(self.features(x))


def check_image_size(height: int, width: int) -> None:
    """Raise a ValueError where five max-pools would leave nothing of the image."""
    if min(height, width) < SMALLEST_IMAGE:
        raise ValueError(
            f"Expected images of at least {SMALLEST_IMAGE} x {SMALLEST_IMAGE} pixels for a VGG, "
            f"which halves them five times, but got {height} x {width}: enlarge the images or choose a resnet."
        )
