"""Tensors as safetensors files: no code can hide in one, and the same content gives the same bytes.

Stages compare the SHA-256 of whole files with their manifests (`nclib.study.stage`). A file that no manifest lists,
such as a cache, keeps that of its content in its header.
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


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Any = None, *, checksum: bool = False
) -> None:
    """Write named tensors of any dtype and device, and JSON metadata, as one safetensors file, whole or not at all.

    With `checksum` it keeps a SHA-256 of its content for `load_tensors`.
    """
    contiguous: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        kept = tensor.detach().contiguous().cpu()
        shared = kept.untyped_storage().data_ptr() in {t.untyped_storage().data_ptr() for t in contiguous.values()}
        contiguous[name] = kept.clone() if shared else kept  # safetensors refuses tensors that share memory
    header = {"metadata": metadata, **({"sha256": _digest(contiguous, metadata)} if checksum else {})}
    with atomic_path(path) as temporary:
        # One entry: safetensors writes several in an order that changes from call to call.
        save_file(contiguous, temporary, {HEADER: json.dumps(header)})


def load_tensors(path: str | Path, *, stage: str, checksum: bool = False) -> tuple[dict[str, Tensor], Any]:
    """The tensors by name (on the CPU) and the metadata in a file of `save_tensors`.

    With `checksum` the content is compared with that which `save_tensors` kept. Errors name `stage`, which writes it.

    Raises:
        StageError: the file is missing, truncated, no such file, or its content does not match its checksum.
    """
    path = require(path, stage=stage)
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        metadata = header["metadata"]
        intact = not checksum or header["sha256"] == _digest(tensors, metadata)
    except KeyError as error:
        raise damaged(path, f"its header lacks {error}", stage=stage) from error
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, str(error), stage=stage) from error
    if not intact:
        raise damaged(path, "its content does not match its checksum", stage=stage)
    return tensors, metadata


def _digest(tensors: Mapping[str, Tensor], metadata: Any) -> str:
    digest = hashlib.sha256(json.dumps(metadata).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
