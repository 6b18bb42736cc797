"""L-BFGS with strong Wolfe line search and weight decay as part of what it minimizes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nclib.optim.names import HISTORY_SIZE


class LBFGS(torch.optim.LBFGS):
    """`torch.optim.LBFGS` with strong Wolfe on `closure() + sum over p of 1/2 wd_p |p|²`.

    A line search compares values of the function whose gradients it sees, so the decay must be in both: PyTorch's
    L-BFGS has none of its own. The closure computes the loss without it and its gradients, as for any other
    optimizer.

    `lr` is the first step length that the line search tries; groups may have their own `weight_decay`. A step makes up
    to 20 iterations on one batch.

    Source: paper 2, L-BFGS arm. There each evaluation of the line search also moves batch norm's running statistics;
    `nclib.optim.step` lets the first one alone do so. Gradients are laid out again where needed: those of
    channels_last convolutions, which PyTorch's L-BFGS refuses.
    """

    def __init__(
        self,
        param_groups: Sequence[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float = 0.0,
        history_size: int = HISTORY_SIZE,
    ):
        parameters, decays = flatten_groups(param_groups, weight_decay)
        super().__init__(parameters, lr=lr, history_size=history_size, line_search_fn="strong_wolfe")
        self.param_groups[0]["weight_decay"] = decays  # one per parameter: L-BFGS knows one group only

    def step(self, closure: Callable[[], Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """One step of up to `max_iter` iterations; returns the decayed loss at its start."""
        group = self.param_groups[0]
        return super().step(lambda: add_decay(closure(), group["params"], group["weight_decay"]))


def flatten_groups(
    param_groups: Sequence[dict[str, Any]], weight_decay: float
) -> tuple[list[nn.Parameter], list[float]]:
    """All parameters of the groups, and the weight decay of each."""
    parameters, decays = [], []
    for group in param_groups:
        members = list(group["params"])
        parameters += members
        decays += [group.get("weight_decay", weight_decay)] * len(members)
    return parameters, decays


@torch.no_grad()
def add_decay(
    loss: Float[Tensor, ""], parameters: Sequence[nn.Parameter], decays: Sequence[float]
) -> Float[Tensor, ""]:
    """Add the decay's gradient `wd p` to each `p.grad` and return loss + 1/2 wd |p|², in float64.

    Float64, because the line search subtracts two such sums over millions of squares.
    """
    total = loss.detach().double()
    for parameter, decay in zip(parameters, decays, strict=True):
        if decay:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = gradient.add(parameter, alpha=decay)
            total = total + 0.5 * decay * parameter.square().sum(dtype=torch.float64)
        if parameter.grad is not None:
            parameter.grad = parameter.grad.contiguous()
    return total
