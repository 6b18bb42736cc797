"""Tensors as safetensors files with a checksum.

No code can hide in a safetensors file. A SHA-256 of names, types, shapes, values and metadata stands in the header;
`load_tensors` refuses a file whose content differs from it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nclib.study.files import atomic_path, damaged, require

HEADER = "nclib"  # the entry of the header that holds metadata and checksum


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Any = None) -> None:
    """Write named tensors and JSON metadata as one safetensors file with a checksum, whole or not at all.

    The same content gives the same bytes.

    Args:
        path: the file, by convention `*.safetensors`.
        tensors: any dtypes and devices; they come back on the CPU.
        metadata: anything JSON can hold.
    """
    contiguous = {name: tensor.detach().contiguous().cpu().clone() for name, tensor in tensors.items()}
    text = json.dumps(metadata)
    # One entry: safetensors writes several in an order that changes from call to call.
    header = {HEADER: json.dumps({"metadata": text, "sha256": _digest(contiguous, text)})}
    with atomic_path(path) as temporary:
        save_file(contiguous, temporary, header)


def load_tensors(path: str | Path, *, stage: str) -> tuple[dict[str, Tensor], Any]:
    """Read a file of `save_tensors`.

    Args:
        path: the file.
        stage: the stage that writes it, for the error message.

    Returns:
        The tensors by name (on the CPU) and the metadata.

    Raises:
        StageError: the file is missing, truncated, or differs from what was written by as little as one bit.
    """
    path = require(path, stage=stage)
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        text = header["metadata"]
        intact = _digest(tensors, text) == header["sha256"]
        metadata = json.loads(text)
    except KeyError as error:
        raise damaged(path, f"its header lacks {error}", stage=stage) from error
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, str(error), stage=stage) from error
    if not intact:
        raise damaged(path, "its content does not match its checksum", stage=stage)
    return tensors, metadata


def _digest(tensors: Mapping[str, Tensor], metadata: str) -> str:
    digest = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous().cpu()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
