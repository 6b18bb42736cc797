"""Which device, precision and memory layout a stage computes in."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from nclib.optim import SECOND_ORDER

ONEDNN_BLOCK = 16  # channels in one vector of the widest instructions (AVX-512)


def choose_device(setting: str) -> torch.device:
    """The device for `auto`, `cpu` or `cuda`; `auto` is the first CUDA device if there is one.

    Raises:
        ValueError: `cuda` was asked for and torch sees none.
    """
    available = torch.cuda.is_available()
    if setting == "cuda" and not available:
        raise ValueError("device: 'cuda' was asked for, but torch sees no CUDA device; use 'auto' or 'cpu'")
    return torch.device("cuda" if available and setting != "cpu" else "cpu")


def choose_precision(setting: str, device: torch.device, *, optimizer: str = "sgd") -> torch.dtype:
    """The backbone's dtype for `auto`, `float32` or `bfloat16`; `auto` is bfloat16 on hardware that computes in it.

    That is GPUs from NVIDIA's Ampere on, and x86 processors with AVX512-BF16 (AMD from Zen 4, Intel's server processors
    from Cooper Lake on). Other processors emulate it, slower than float32. L-BFGS has float32 everywhere: it goes by
    small differences of losses and gradients, which bfloat16 rounds away.
    """
    if setting != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[setting]
    if optimizer in SECOND_ORDER:
        return torch.float32
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        native = torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.bfloat16 if native else torch.float32


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Move the network to `device`, its weights in channels_last, which the images then follow.

    On the CPU, a network that has strided 1 x 1 convolutions of fewer than 16 channels (narrow ResNets) stays as it is:
    in channels_last, the gradient of their weights is written beyond its workspace, and the process may crash.
    Source: https://github.com/uxlfoundation/oneDNN/issues/6035.
    """
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    unsafe = device.type == "cpu" and any(
        conv.kernel_size == (1, 1) and conv.stride != (1, 1) and conv.in_channels // conv.groups < ONEDNN_BLOCK
        for conv in convolutions
    )
    return model.to(device, memory_format=torch.preserve_format if unsafe else torch.channels_last)


@contextmanager
def cudnn_flags(*, benchmark: bool = False) -> Iterator[None]:
    """Within it float32 means float32 on a GPU, and with `benchmark` the fastest convolutions are searched for.

    torch's default rounds what convolutions multiply to 10 bits (TF32): too coarse for features that differ by little.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32, cudnn.benchmark = False, benchmark
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark = before


def describe(device: torch.device) -> str:
    """The GPU's product name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
