"""Optimizers by name, which parameters decay, and one step function for all of them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nclib.optim.lbfgs import LBFGS
from nclib.optim.names import DECAY_MODES, HISTORY_SIZE, MOMENTUM, OPTIMIZERS, SECOND_ORDER
from nclib.optim.sdlbfgs import SdLBFGS

# Devices with a fused kernel of SGD and Adam in every PyTorch that this package allows.
_FUSED_DEVICES = ("cuda", "cpu")
_CLASSES = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "lbfgs": LBFGS,
    "sdlbfgs": SdLBFGS,
}


def decay_groups(model: nn.Module, *, mode: str = "parameters") -> list[dict[str, Any]]:
    """Parameter groups of a `Classifier` by what decays, for `build_optimizer`; frozen parameters are left out.

    - "parameters": one group, all decay.
    - "features": the backbone does not decay, the last layer does. The penalty on the features themselves
      belongs to the loss (`nclib.losses.feature_decay`).

    The group that does not decay has a weight decay of 0; the other takes that of `build_optimizer`.

    Source: paper 2, decay on parameters against decay on features and last layer.
    """
    if mode not in DECAY_MODES:
        raise ValueError(f"Expected decay mode to be one of {', '.join(DECAY_MODES)}, but got {mode!r}.")
    if mode == "parameters":
        return [{"params": _trainable(model)}]
    backbone, head = cast(nn.Module, model.backbone), cast(nn.Module, model.head)
    groups = [{"params": _trainable(backbone), "weight_decay": 0.0}, {"params": _trainable(head)}]
    return [group for group in groups if group["params"]]


def build_optimizer(
    name: str,
    model_or_param_groups: nn.Module | Iterable[dict[str, Any]],
    *,
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = MOMENTUM,
    history_size: int = HISTORY_SIZE,
) -> torch.optim.Optimizer:
    """The papers' optimizers; every one has a state dict of tensors, numbers, lists, dicts and None.

    Weight decay is the gradient of 1/2 wd |p|² in all but "adamw", where it is decoupled (p <- p - lr wd p).

    Source: released code of both papers; "lbfgs" as in paper 2, where it decays in the closure and searches by
    strong Wolfe.

    Args:
        name: one of `OPTIMIZERS`.
        model_or_param_groups: a module, whose trainable parameters all decay, or groups such as `decay_groups` makes.
        lr, weight_decay: of groups without their own.
        momentum: of "sgd", without Nesterov.
        history_size: pairs that "lbfgs" and "sdlbfgs" remember.

    >>> optimizer = build_optimizer("sgd", nn.Linear(3, 2), lr=0.05, weight_decay=5e-4)
    >>> optimizer.param_groups[0]["momentum"]
    0.9
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"Expected optimizer to be one of {', '.join(OPTIMIZERS)}, but got {name!r}.")
    groups = model_or_param_groups
    groups = decay_groups(groups) if isinstance(groups, nn.Module) else groups
    groups = [group | {"params": list(group["params"])} for group in groups]
    options: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
    if name in SECOND_ORDER:
        options["history_size"] = history_size
    else:  # one kernel for all parameters, where the device has it
        options["fused"] = all(p.device.type in _FUSED_DEVICES for group in groups for p in group["params"])
    if name == "sgd":
        options["momentum"] = momentum
    optimizer = _CLASSES[name](groups, **options)
    optimizer.register_load_state_dict_post_hook(_place_state)
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = list(group["betas"])  # JSON has no tuples
    return optimizer


def step(
    optimizer: torch.optim.Optimizer, closure: Callable[[], Float[Tensor, ""]], *, model: nn.Module
) -> Float[Tensor, ""]:
    """One step of any optimizer on one batch; nothing is read back from the device unless the optimizer does (L-BFGS).

    First-order optimizers call the closure once, "sdlbfgs" twice, "lbfgs" up to 25 times. Whatever the
    number, the running statistics of batch norm see the batch once, at the parameters before the step (in the released
    code at every call).

    The closure clears the gradients, computes the loss of the batch and its gradients, and returns the loss. It must
    give the same value when called again: same images, same augmentation. `model` has the batch-norm layers it runs.

    Returns:
        The closure's loss at the parameters before the step, without weight decay, detached.
    """
    first: list[Tensor] = []

    def counted() -> Tensor:
        if first:
            with frozen_running_statistics(model):
                return closure()
        loss = closure()
        first.append(loss.detach())
        return loss

    optimizer.step(counted)  # pyright: ignore[reportCallIssue, reportArgumentType]
    return first[0]


@contextmanager
def frozen_running_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norm in training mode normalizes by the batch as always, but leaves its running statistics as they are."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tracked = [layer for layer in layers if layer.training and layer.track_running_stats]
    for layer in tracked:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in tracked:
            layer.track_running_stats = True


def _place_state(optimizer: torch.optim.Optimizer) -> None:
    """Put loaded state into memory of its own, laid out as in the run that saved it.

    Files keep values, not strides, and PyTorch's fused kernels walk parameter, gradient and buffer in memory order:
    with a channels_last weight and a contiguous momentum they add each momentum to another weight, without an error.
    A loaded tensor may also start anywhere in the file's memory, and BLAS sums a dot product in an order that
    depends on the address: L-BFGS then continued with other last digits.
    """

    def placed(value: Any, parameter: Tensor) -> Any:
        if isinstance(value, list):
            return [placed(item, parameter) for item in value]
        if not isinstance(value, Tensor):
            return value
        return torch.empty_like(parameter if value.shape == parameter.shape else value).copy_(value)

    for parameter, state in optimizer.state.items():
        for name in state:
            state[name] = placed(state[name], parameter)


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
