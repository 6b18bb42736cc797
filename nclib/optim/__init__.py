"""The papers' optimizers and learning-rate schedules behind one step function.

What needs torch is loaded when first asked for: names and schedules can be read without it.
"""

from importlib import import_module
from typing import Any

from nclib.optim.names import OPTIMIZERS, SECOND_ORDER
from nclib.optim.schedule import SCHEDULES, build_schedule

_MODULES = {
    "LBFGS": "lbfgs",
    "SdLBFGS": "sdlbfgs",
    "build_optimizer": "build",
    "decay_groups": "build",
    "step": "build",
}

__all__ = ["OPTIMIZERS", "SCHEDULES", "SECOND_ORDER", "build_schedule", *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
