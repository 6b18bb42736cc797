"""The classifier against the class means: self-duality (nc3), uniform duality (unc3), the bias and the global mean."""

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from nclib.metrics.rows import Rows, centered, row_products
from nclib.metrics.simplex import simplex_distance
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
    return simplex_distance(Rows(weight), statistics.deviations).to(working_dtype(features))


def nc3_centered(
    features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"], weight: Float[Tensor, "k d"]
) -> Float[Tensor, ""]:
    """`nc3` with the mean row of W subtracted, too; in [0, 2], 0 at collapse.

    Source: paper 2. Args, Returns, Raises: as `nc3`.

    >>> nc3_centered(torch.tensor([[3.0], [1.0]]), torch.tensor([0, 1]), torch.tensor([[5.0], [1.0]]))
    tensor(0.)
    """
    statistics, weight, _ = statistics_and_last_layer(features, labels, weight)
    return simplex_distance(centered(weight), statistics.deviations).to(working_dtype(features))


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
    return simplex_distance(Rows(weight), statistics.released_deviations).to(working_dtype(features))


def nc3_distance(
    features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"], weight: Float[Tensor, "k d"]
) -> Float[Tensor, ""]:
    """`| W/|W|_F - Hbar/|Hbar|_F |_F`, `Hbar` the rows `mu_k - mu_G`, W **not** centered; in [0, 2], 0 at collapse.

    Source: Papyan et al. 2020. Args, Returns, Raises: as `nc3`.

    >>> nc3_distance(torch.tensor([[3.0], [1.0]]), torch.arange(2), torch.tensor([[5.0], [-5.0]]))
    tensor(0.)
    """
    return _of_duality("nc3_distance", features, labels, weight)


def nc3_cosine(
    features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"], weight: Float[Tensor, "k d"]
) -> Float[Tensor, ""]:
    """Mean over classes of the cosine of `w_k`, **not** centered, and `mu_k - mu_G`; in [-1, 1], 1 at collapse.

    Source: Wu & Papyan 2024. Args, Returns, Raises: as `nc3`.

    >>> nc3_cosine(torch.tensor([[3.0], [1.0]]), torch.arange(2), torch.tensor([[5.0], [-2.0]]))
    tensor(1.)
    """
    return _of_duality("nc3_cosine", features, labels, weight)


def unc3(
    features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"], weight: Float[Tensor, "k d"]
) -> Float[Tensor, ""]:
    """Uniform duality: variance over the K classes (divided by K - 1) of `<w_k, mu_k - mu_G>`, W **not** centered.

    In [0, inf), 0 at collapse, also where K > d + 1.

    Source: Wu & Papyan 2024. Args, Returns, Raises: as `nc3`.

    >>> unc3(torch.tensor([[3.0], [1.0]]), torch.arange(2), torch.tensor([[5.0], [-1.0]]))
    tensor(8.)
    """
    return _of_duality("unc3", features, labels, weight)


def unc3_cosine(
    features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"], weight: Float[Tensor, "k d"]
) -> Float[Tensor, ""]:
    """`unc3` of the cosines that `nc3_cosine` is the mean of; in [0, 2], 0 at collapse.

    Source: Wu & Papyan 2024. Args, Returns, Raises: as `nc3`.

    >>> unc3_cosine(torch.tensor([[3.0], [1.0]]), torch.arange(2), torch.tensor([[5.0], [-1.0]]))
    tensor(0.)
    """
    return _of_duality("unc3_cosine", features, labels, weight)


def _of_duality(name: str, features: Tensor, labels: Tensor, weight: Tensor) -> Float[Tensor, ""]:
    statistics, weight, _ = statistics_and_last_layer(features, labels, weight)
    return duality_values(Rows(weight), statistics.deviations)[name].to(working_dtype(features))


def duality_values(weight: Rows, deviations: Rows) -> dict[str, Float64[Tensor, ""]]:
    """What compares each class's row of the weight with its own mean alone."""
    products = row_products(weight, deviations)
    cosines = products / (weight.norms * deviations.norms)
    w, h = (rows.scaled(1 / torch.linalg.vector_norm(rows.norms)) for rows in (weight, deviations))
    return {
        "nc3_distance": w.map(lambda x, y: (x - y).square().sum(dim=1), h).sum().sqrt(),
        "nc3_cosine": cosines.mean(),
        "unc3": products.var(),
        "unc3_cosine": cosines.var(),
    }


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
    return _bias_residual(statistics.global_mean, Rows(weight), bias).to(working_dtype(features))


def _bias_residual(
    global_mean: Float64[Tensor, " d"], weight: Rows, bias: Float64[Tensor, " k"]
) -> Float64[Tensor, ""]:
    return torch.linalg.vector_norm(weight.map(lambda block: block @ global_mean) + bias)
