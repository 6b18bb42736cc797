"""Stochastic damped L-BFGS: quasi-Newton steps that stay descent directions on noisy and non-convex losses."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nclib.optim.lbfgs import add_decay, flatten_groups
from nclib.optim.names import HISTORY_SIZE


class SdLBFGS(torch.optim.Optimizer):
    """x <- x - lr H g, where H is the damped L-BFGS inverse Hessian of the last `history_size` steps.

    A step evaluates the closure twice on its batch, at the old and the new x, so that y = g(x_new) - g(x_old) holds
    no noise from a change of batch. With s = x_new - x_old the next step starts from H_0 = I / gamma and remembers
    the pair (s, ybar):

    - gamma = max(yᵀy / sᵀy, delta), and delta where sᵀy <= 0
    - ybar = theta y + (1 - theta) gamma s
    - theta = 0.75 gamma sᵀs / (gamma sᵀs - sᵀy) where sᵀy < 0.25 gamma sᵀs, else 1

    so that sᵀybar >= 0.25 gamma sᵀs > 0: H stays positive definite whatever the curvature.
    The first step takes gamma = delta. Everything stays on the device: a step waits for no result.

    Source: Wang, Ma, Goldfarb and Liu, Stochastic quasi-Newton methods for nonconvex stochastic optimization, SIAM J.
    Optim. 27 (2017), section 3, SdLBFGS. Paper 2's released optimizer of that name differs: gamma is 1, the direction
    is scaled to unit length (steps are lr long, the first min(1, 1/|g|_1) lr), and y is the difference of the gradients
    of two successive batches. A pair without curvature (s = 0) has no part in H. Groups may have their own
    `weight_decay`.
    """

    def __init__(
        self,
        param_groups: Sequence[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float = 0.0,
        history_size: int = HISTORY_SIZE,
        delta: float = 1.0,
    ):
        if lr < 0 or delta <= 0 or history_size < 1:
            raise ValueError(
                f"Expected lr >= 0, delta > 0 and history_size >= 1, but got {lr}, {delta} and {history_size}."
            )
        parameters, decays = flatten_groups(param_groups, weight_decay)
        super().__init__(parameters, {"lr": lr, "history_size": history_size, "delta": delta})
        self.param_groups[0]["weight_decay"] = decays

    @torch.no_grad()
    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, closure: Callable[[], Float[Tensor, ""]]
    ) -> Float[Tensor, ""]:
        """One step on one batch; returns the decayed loss at its start."""
        group = self.param_groups[0]
        parameters, decays = group["params"], group["weight_decay"]

        def evaluate() -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                loss = closure()
            loss = add_decay(loss, parameters, decays)
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            return loss, torch.cat([gradient.reshape(-1) for gradient in gradients])

        loss, gradient = evaluate()
        # Under the first parameter, as in PyTorch's L-BFGS, so that loading casts it to that one's dtype and device.
        state = self.state[parameters[0]]
        pairs = state.setdefault("pairs", [])
        last_gamma = state.setdefault("gamma", gradient.new_full((), group["delta"]))
        move = -group["lr"] * inverse_hessian_product(gradient, pairs, last_gamma)
        for parameter, part in zip(parameters, move.split([p.numel() for p in parameters]), strict=True):
            parameter.add_(part.view_as(parameter))
        _, new_gradient = evaluate()
        ybar, rho, gamma = damped_pair(move, new_gradient - gradient, delta=group["delta"])
        pairs.append([move, ybar, rho])
        del pairs[: -group["history_size"]]
        state["gamma"] = torch.where(rho > 0, gamma, last_gamma)
        return loss


def damped_pair(
    s: Float[Tensor, " n"], y: Float[Tensor, " n"], *, delta: float
) -> tuple[Float[Tensor, " n"], Float[Tensor, ""], Float[Tensor, ""]]:
    """`(ybar, rho, gamma)` of a step s and its gradient difference y; rho is 1 / sᵀybar, or 0 without curvature."""
    sy, ss = s.dot(y), s.dot(s)
    ratio = y.dot(y) / sy
    gamma = torch.where((sy > 0) & ratio.isfinite(), ratio, delta).clamp(min=delta)
    curvature = gamma * ss
    theta = torch.where(sy < 0.25 * curvature, 0.75 * curvature / (curvature - sy), 1.0)
    ybar = theta * y + (1 - theta) * gamma * s
    sybar = s.dot(ybar)
    return ybar, torch.where(sybar > 0, 1 / sybar, 0.0), gamma


def inverse_hessian_product(
    gradient: Float[Tensor, " n"], pairs: Sequence[list[Tensor]], gamma: Float[Tensor, ""]
) -> Float[Tensor, " n"]:
    """H g by the two-loop recursion over the pairs `[s, ybar, rho]`, the oldest first."""
    product, weights = gradient.clone(), []
    for s, y, rho in reversed(pairs):
        weights.append(rho * s.dot(product))
        product -= weights[-1] * y
    product /= gamma
    for (s, y, rho), weight in zip(pairs, reversed(weights), strict=True):
        product += (weight - rho * y.dot(product)) * s
    return product
