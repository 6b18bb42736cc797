"""The papers' networks: a backbone that ends in features, and a last layer that is learned or a fixed simplex ETF.

`build_model` makes any of `ARCHITECTURES`, `load_released_state_dict` reads weights that either paper's released code
saved, and `trainable_parameters` counts what the optimizer may move. They are loaded when first asked for, so that
`nclib.models.architectures` can be read without torch.
"""

from importlib import import_module
from typing import Any

from nclib.models.architectures import ARCHITECTURES

_MODULES = {
    "Classifier": "build",
    "build_model": "build",
    "trainable_parameters": "build",
    "load_released_state_dict": "released",
}

__all__ = ["ARCHITECTURES", *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
