"""Multilayer perceptrons with batch norm on flattened images."""

from jaxtyping import Float
from torch import Tensor, nn


class MLPBackbone(nn.Module):
    """`depth` times linear, batch norm, ReLU on the flattened image: (b c h w) -> (b d).

    With `norm_last` the order is linear, ReLU, batch norm, so that features may be negative.

    Source: paper 2, section on the validity of the unconstrained-feature model, in the order of its predecessor's code
    (Zhu et al. 2021); `norm_last` is the MLP of paper 1's code. Parameter names are those of either.
    """

    def __init__(self, inputs: int, *, width: int, depth: int, feature_dim: int | None, norm_last: bool):
        super().__init__()
        widths = [width] * (depth - 1) + [width if feature_dim is None else feature_dim]
        layers = []
        for fan_in, fan_out in zip([inputs, *widths[:-1]], widths, strict=True):
            linear, norm, relu = nn.Linear(fan_in, fan_out), nn.BatchNorm1d(fan_out), nn.ReLU(inplace=True)
            layers += [nn.Sequential(linear, relu, norm)] if norm_last else [linear, norm, relu]
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
