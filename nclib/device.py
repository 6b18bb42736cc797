"""Which device and precision a stage computes in."""

import torch


def choose_device(setting: str) -> torch.device:
    """The device for `auto`, `cpu` or `cuda`; `auto` is the first CUDA device if there is one.

    Raises:
        ValueError: `cuda` was asked for and torch sees none.
    """
    available = torch.cuda.is_available()
    if setting == "cuda" and not available:
        raise ValueError("device: 'cuda' was asked for, but torch sees no CUDA device; use 'auto' or 'cpu'")
    return torch.device("cuda" if available and setting != "cpu" else "cpu")


def choose_precision(setting: str, device: torch.device) -> torch.dtype:
    """The backbone's dtype for `auto`, `float32` or `bfloat16`; `auto` is bfloat16 on GPUs that compute in it."""
    if setting == "auto":
        native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[setting]


def describe(device: torch.device) -> str:
    """The GPU's product name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
