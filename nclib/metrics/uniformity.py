"""Geometry also where K > d + 1 forbids a simplex ETF: hyperspherical uniformity (gnc2) and the one-vs-rest margin.

The vectors are those of `simplex`: rows of the classifier (`..._w`) or class means (`..._h`).
"""

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from nclib.metrics.rows import TILE, centered, pair_statistics
from nclib.metrics.simplex import _means, check_rows, unit_rows
from nclib.metrics.statistics import working_dtype

MAX_MARGIN_CLASSES = 32
"""Classes up to which `measure` includes `margin_one_vs_rest`: at d = 512 it is 4 ms then, 0.3 s at 100 classes."""


def gnc2_w(weight: Float[Tensor, "k d"]) -> Float[Tensor, ""]:
    """Variance over pairs k < l of `log(1/|u_k - u_l|)`, `u_k` the unit rows of the centered weight; in [0, inf).

    Hyperspherical uniformity: 0 at collapse, also where K > d + 1 forbids a simplex ETF. Divides by the number of
    pairs; NaN where two directions coincide.

    Source: Liu et al. 2023; Wu & Papyan 2024. Args, Returns, Raises: as `nc2_w`.

    >>> gnc2_w(torch.eye(4)).round(decimals=5)
    tensor(0.)
    """
    return pair_statistics(centered(check_rows(weight))).gnc2.to(working_dtype(weight))


def gnc2_w_mean(weight: Float[Tensor, "k d"]) -> Float[Tensor, ""]:
    """Mean of what `gnc2_w` takes the variance of; smallest where the rows are spread best.

    `-log(2K/(K-1)) / 2` for a simplex ETF.

    Source: as `gnc2_w`. Args, Returns, Raises: as `nc2_w`.

    >>> gnc2_w_mean(torch.tensor([[1.0], [-1.0]]))
    tensor(-0.6931)
    """
    return pair_statistics(centered(check_rows(weight))).gnc2_mean.to(working_dtype(weight))


def gnc2_w_distance(weight: Float[Tensor, "k d"]) -> Float[Tensor, ""]:
    """Variance over pairs of `|u_k - u_l|`, as `gnc2_w` without the logarithm; in [0, 1], 0 at collapse.

    Source: as `gnc2_w`. Args, Returns, Raises: as `nc2_w`.

    >>> gnc2_w_distance(torch.eye(4)).round(decimals=5)
    tensor(0.)
    """
    return pair_statistics(centered(check_rows(weight))).gnc2_distance.to(working_dtype(weight))


def gnc2_h(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """`gnc2_w` of the centered class means. Args, Returns, Raises: as `nc1`.

    >>> gnc2_h(torch.eye(4), torch.arange(4)).round(decimals=5)
    tensor(0.)
    """
    return gnc2_w(_means(features, labels)).to(working_dtype(features))


def gnc2_h_mean(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """`gnc2_w_mean` of the centered class means. Args, Returns, Raises: as `nc1`.

    >>> gnc2_h_mean(torch.tensor([[3.0], [1.0]]), torch.arange(2))
    tensor(-0.6931)
    """
    return gnc2_w_mean(_means(features, labels)).to(working_dtype(features))


def gnc2_h_distance(features: Float[Tensor, "n d"], labels: Shaped[Tensor, "n *k"]) -> Float[Tensor, ""]:
    """`gnc2_w_distance` of the centered class means. Args, Returns, Raises: as `nc1`.

    >>> gnc2_h_distance(torch.eye(4), torch.arange(4)).round(decimals=5)
    tensor(0.)
    """
    return gnc2_w_distance(_means(features, labels)).to(working_dtype(features))


def margin_one_vs_rest(weight: Float[Tensor, "k d"]) -> Float[Tensor, ""]:
    """Least distance of a unit row `w_k/|w_k|`, W **not** centered, to the convex hull of the others; in [0, 2].

    Largest at collapse for K > d + 1 (softmax codes); `K/(K-1)` for a simplex ETF. One quadratic program for each
    class whose bound leaves it open, on the CPU.

    Source: Jiang et al. 2023. Args, Returns, Raises: as `nc2_w`.

    >>> margin_one_vs_rest(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, -4.0]]))
    tensor(1.)
    """
    from scipy.optimize import nnls  # on demand: a fifth of a second

    unit = unit_rows(check_rows(weight).detach().double())
    best = torch.inf if bool(unit.isfinite().all()) else torch.nan
    points = torch.linalg.qr(unit.T, mode="r")[1].T.cpu().numpy()
    # seen along w_k the hull begins at the nearest row: a bound, exact for a simplex ETF
    blocks = torch.arange(len(unit), device=unit.device).unsqueeze(1).split(TILE)
    nearest = [(unit[rows.squeeze(1)] @ unit.T).scatter_(1, rows, -1).amax(dim=1) for rows in blocks]
    bounds = 1 - torch.cat(nearest).cpu()
    for k in bounds.argsort().tolist():
        if not bounds[k] < best:
            break
        rest = np.delete(points, k, axis=0) - points[k]
        # least |Σ a_j r_j|² + (1 - Σ a_j)² over a >= 0, which on every ray grows with the distance of the hull's point
        system = np.vstack([rest.T, np.ones(len(rest))])
        shares, _ = nnls(system, np.eye(len(system))[-1], maxiter=30 * len(rest))
        best = min(best, float(np.linalg.norm(shares @ rest) / shares.sum()))
    return torch.as_tensor(best, dtype=working_dtype(weight), device=weight.device)
