"""The classifier against the class means: self-duality (nc3), and what the bias leaves of the global mean."""

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from nclib.metrics.simplex import centered, simplex_distance
from nclib.metrics.statistics import statistics_and_last_layer, working_dtype


def nc3(
    features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"], weight: Float[Tensor, "k d"]
) -> Float[Tensor, ""]:
    """Self-duality `| W Hbar/|W Hbar|_F - T |_F`, `Hbar` the columns `mu_k - mu_G`, W **not** centered; in [0, 2].

    0 at collapse, where the classifier equals the centered class means up to scale.

    Source: paper 1; its released code differs in `mu_G`, see `released_nc3`. Args, Returns, Raises: as `nc1`, and the
    classifier (k, d).

    >>> nc3(torch.tensor([[3.0], [1.0]]), torch.tensor([0, 1]), torch.tensor([[5.0], [-5.0]]))
    tensor(0.)
    """
    statistics, weight, _ = statistics_and_last_layer(features, labels, weight)
    return _nc3(weight, statistics.centered_class_means).to(working_dtype(features))


def nc3_centered(
    features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"], weight: Float[Tensor, "k d"]
) -> Float[Tensor, ""]:
    """`nc3` with the mean row of W subtracted, too; in [0, 2], 0 at collapse.

    Source: paper 2. Args, Returns, Raises: as `nc3`.

    >>> nc3_centered(torch.tensor([[3.0], [1.0]]), torch.tensor([0, 1]), torch.tensor([[5.0], [1.0]]))
    tensor(0.)
    """
    statistics, weight, _ = statistics_and_last_layer(features, labels, weight)
    return _nc3(centered(weight), statistics.centered_class_means).to(working_dtype(features))


def released_nc3(
    features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"], weight: Float[Tensor, "k d"]
) -> Float[Tensor, ""]:
    """`nc3` with the `mu_G` of `released_nc1`; in [0, 2].

    0 at collapse if `mu_G = 0`, or for balanced single-label data.

    Source: paper 1's released code. Args, Returns, Raises: as `nc3`.

    >>> released_nc3(torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1]), torch.tensor([[5.0], [-5.0]]))
    tensor(0.)
    """
    statistics, weight, _ = statistics_and_last_layer(features, labels, weight)
    return _nc3(weight, statistics.released_class_deviations).to(working_dtype(features))


def _nc3(weight: Float64[Tensor, "k d"], deviations: Float64[Tensor, "k d"]) -> Float64[Tensor, ""]:
    """`nc3` from the class means minus the global mean."""
    return simplex_distance(weight @ deviations.T)


def bias_residual(
    features: Float[Tensor, "n d"],
    labels: Shaped[Tensor, "n *k"],
    weight: Float[Tensor, "k d"],
    bias: Float[Tensor, " k"] | None = None,
) -> Float[Tensor, ""]:
    """`| W mu_G + b |_2`: what the bias leaves of the logits of the global mean; in [0, inf), 0 at collapse.

    Source: paper 2 (its "Wh_b"). Args, Returns, Raises: as `nc3`; without `bias`, 0 stands for it.

    >>> bias_residual(torch.eye(2), torch.arange(2), torch.eye(2), torch.tensor([-0.5, -0.5]))
    tensor(0.)
    """
    statistics, weight, bias = statistics_and_last_layer(features, labels, weight, bias)
    return _bias_residual(statistics.global_mean, weight, bias).to(working_dtype(features))


def _bias_residual(
    global_mean: Float64[Tensor, " d"], weight: Float64[Tensor, "k d"], bias: Float64[Tensor, " k"]
) -> Float64[Tensor, ""]:
    return torch.linalg.vector_norm(weight @ global_mean + bias)
