"""Weights that the released code of either paper saved, put into our networks."""

import argparse
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nclib.heads import ETFHead, simplex_etf
from nclib.models.build import Classifier

_LAST_LAYERS = ("fc", "classifier")  # ResNets and MLPs, VGGs
# Largest entry by which a saved ETF may miss the frame's Gram matrix; float32 rounding leaves below 1e-6.
_ETF_TOLERANCE = 1e-4
# What a checkpoint may hold besides tensors: the command line's arguments and NumPy numbers, such as an accuracy.
_scalar = np.float64(0).__reduce__()[0]
_HARMLESS = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("?", "i4", "i8", "f2", "f4", "f8")),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


def load_released_state_dict(model: Classifier, path: str | PathLike[str]) -> None:
    """Fill `model` with the weights in a checkpoint of either paper's released code, all of them or none.

    Paper 2 saves a plain state dict, paper 1 a dict with `state_dict` beside the command line's arguments; names
    may start with `module.` (data parallel), or have `shortcut` for `downsample` (paper 2's ResNets of any width). The
    file is read with `weights_only=True`: besides tensors it may hold
    `argparse.Namespace`, a bag of values, and NumPy numbers, and nothing that runs.

    The model is built like the saved one: same arch, channels, classes, width of the features, and head "etf" where
    the last layer was fixed (its saved weight replaces ours, rotation and all). docs/checkpoints.md says which options
    of the released commands are which arguments of `build_model`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or holds something else; names or shapes differ from the model's; or the
            model has an ETF head and the saved last layer is no simplex ETF.
    """
    saved = _renamed(_read(Path(path)))
    expected = model.state_dict()
    # Files from before PyTorch 0.4.1 lack these counters, which nothing here uses.
    saved = {name: value for name, value in expected.items() if name.endswith("num_batches_tracked")} | saved
    _compare(saved, expected, path)
    if isinstance(model.head, ETFHead):
        _check_etf(saved["head.weight"], path)
    model.load_state_dict(saved)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"Expected released weights at {path}, but there is no such file.")
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raised 11 kinds, AssertionError and struct.error among them
        if found := re.search(r"(?:GLOBAL|Unsupported class) (\S+)", str(error)):
            why = f"it holds {found.group(1)}, which could run code when it is read"
        elif "weights_only" in str(error):  # torch's advice is to read it unsafely
            why = "it holds more than tensors and plain values"
        else:
            why = f"{type(error).__name__}: {(str(error).strip() or 'the file ends too early').splitlines()[0]}"
        raise ValueError(
            f"Expected {path} to be a checkpoint of tensors, but it cannot be read as one ({why})."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    entries = list(content.items()) if isinstance(content, Mapping) else []
    if not entries or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in entries):
        raise ValueError(f"Expected {path} to hold a state dict (names and tensors), but it holds something else.")
    return dict(content)


def _renamed(saved: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in saved.items():
        name = name.removeprefix("module.").replace(".shortcut.", ".downsample.")
        first, _, rest = name.partition(".")
        renamed[f"head.{rest}" if first in _LAST_LAYERS else f"backbone.{name}"] = value
    return renamed


def _compare(saved: dict[str, Tensor], expected: dict[str, Tensor], path: str | PathLike[str]) -> None:
    shapes = [
        f"{name} has {tuple(saved[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected
        if name in saved and saved[name].shape != expected[name].shape
    ]
    differences = {
        "missing": [name for name in expected if name not in saved],
        "unexpected": [name for name in saved if name not in expected],
        "of another shape": shapes,
    }
    found = [f"{len(names)} {what}: {', '.join(names[:5])}" for what, names in differences.items() if names]
    if found:
        raise ValueError(f"Expected the weights in {path} to fit the model, but of its names {'; '.join(found)}.")


def _check_etf(weight: Tensor, path: str | PathLike[str]) -> None:
    num_classes = len(weight)
    frame = simplex_etf(num_classes, num_classes).double()
    distance = (weight.double() @ weight.double().T - frame @ frame.T).abs().max().item()
    if not distance <= _ETF_TOLERANCE:
        raise ValueError(
            f"Expected the last layer in {path} to be a simplex ETF for a model with head 'etf', but its Gram matrix "
            f"is {distance:.2g} off: build the model with head 'learned'."
        )
