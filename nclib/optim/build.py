"""Optimisers by name, which parameters decay, and one step function for all of them."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Devices with a fused kernel of SGD and Adam in every PyTorch that this package allows.
_FUSED_DEVICES = ("cuda", "cpu")


def decay_groups(model: nn.Module, *, mode: str = "parameters") -> list[dict[str, Any]]:
    """Parameter groups of a `Classifier` by what decays, for `build_optimizer`; frozen parameters are left
    out.

    - "parameters": one group, all decay.
    - "features": the backbone does not decay, the last layer does. The penalty on the features themselves
      belongs to the loss (`nclib.losses.feature_decay`).

    Source: paper 2, decay on parameters against decay on features and last layer.

    Args:
        model: module with `.backbone` and `.head`.
        mode: "parameters" or "features".

    Returns:
        Groups without empty ones. The one that is not to decay says so; the other takes the weight decay of
        `build_optimizer`.

    Raises:
        ValueError: for another mode.
    """
    if mode == "parameters":
        return [{"params": _trainable(model)}]
    if mode == "features":
        groups = [{"params": _trainable(model.backbone), "weight_decay": 0.0}, {"params": _trainable(model.head)}]
        return [group for group in groups if group["params"]]
    raise ValueError(f"Expected decay mode to be 'parameters' or 'features', but got {mode!r}.")


def build_optimizer(
    name: str,
    model_or_param_groups: nn.Module | Iterable[dict[str, Any]],
    *,
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    fused: bool = True,
) -> torch.optim.Optimizer:
    groups = model_or_param_groups
    groups = decay_groups(groups) if isinstance(groups, nn.Module) else list(groups)
    fused = fused and all(p.device.type in _FUSED_DEVICES for group in groups for p in group["params"])
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused)
    raise ValueError(f"Expected optimiser to be 'sgd', but got {name!r}.")


def step(
    optimizer: torch.optim.Optimizer, closure: Callable[[], Float[Tensor, ""]], *, model: nn.Module
) -> Float[Tensor, ""]:
    loss = closure()
    optimizer.step()
    return loss.detach()


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
