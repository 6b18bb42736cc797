"""Multilayer perceptron with batch norm on flattened images."""

from jaxtyping import Float
from torch import Tensor, nn


class MLPBackbone(nn.Module):
    """`depth` times linear, batch norm, ReLU on the flattened image: (b c h w) -> (b d).

    Source: paper 2, section on the validity of the unconstrained-feature model; layers in the order of the
    released code of its predecessor (Zhu et al. 2021), whose parameter names are kept.
    """

    def __init__(self, inputs: int, *, width: int, depth: int, feature_dim: int | None):
        super().__init__()
        widths = [width] * (depth - 1) + [width if feature_dim is None else feature_dim]
        layers = []
        for fan_in, fan_out in zip([inputs, *widths[:-1]], widths, strict=True):
            layers += [nn.Linear(fan_in, fan_out), nn.BatchNorm1d(fan_out), nn.ReLU(inplace=True)]
        self.inputs = inputs
        self.layers = nn.Sequential(*layers)
        self.feature_dim = widths[-1]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        flat = x.flatten(1)
        if flat.shape[1] != self.inputs:
            raise ValueError(
                f"Expected images with channels x height x width = {self.inputs} for this mlp, "
                f"but got {flat.shape[1]} of shape {tuple(x.shape[1:])}."
            )
        return self.layers(flat)
