"""The state of an unfinished training, saved after every epoch: a killed run goes on from there, bit for bit.

Model, optimizer and history are one safetensors file, written whole or not at all. No random state needs saving, since
the order and augmentation of each epoch come from a generator seeded with (seed, epoch).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nclib.study.files import StageError
from nclib.study.tensors import load_tensors, save_tensors


def fingerprint(**facts: Any) -> str:
    """A SHA-256 of all (JSON values) that decides a training's result; only a state with the same one is resumed."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def pack(value: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """Turn nested dicts, lists, numbers and tensors into JSON, moving each tensor into `tensors` under its path."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, Mapping):
        keys = list(value)
        return {"keys": keys, "values": [pack(value[key], tensors, f"{path}/{key}") for key in keys]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [pack(item, tensors, f"{path}/{i}") for i, item in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(
        f"Expected dicts, lists, numbers, text and tensors in an optimizer's state, but got {value!r} at {path}"
    )


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `pack`."""
    if "tensor" in packed:
        return tensors[packed["tensor"]]
    if "keys" in packed:
        return {k: unpack(v, tensors) for k, v in zip(packed["keys"], packed["values"], strict=True)}
    if "list" in packed:
        return [unpack(item, tensors) for item in packed["list"]]
    if "tuple" in packed:
        return tuple(unpack(item, tensors) for item in packed["tuple"])
    return packed["value"]


def save_state(path: Path, model: nn.Module, optimizer: Optimizer, history: list[dict[str, Any]], mark: str) -> None:
    """Save what training needs to go on after the last row of `history`."""
    tensors: dict[str, Tensor] = {}
    packed = pack({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tensors)
    save_tensors(path, tensors, {"fingerprint": mark, "history": history, "state": packed})


def load_state(path: Path, model: nn.Module, optimizer: Optimizer, mark: str) -> list[dict[str, Any]]:
    """Load a saved state into `model` and `optimizer`.

    Returns:
        The history so far; empty, with model and optimizer untouched, when there is no state or one of another mark.

    Raises:
        StageError: the file is damaged.
    """
    if not path.is_file():
        return []
    tensors, metadata = load_tensors(path, stage="02_train")
    try:
        if metadata["fingerprint"] != mark:
            return []
        state = unpack(metadata["state"], tensors)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return list(metadata["history"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise StageError(
            f"{path} is no state of this training ({error}): delete it and run stage 02_train again."
        ) from error
