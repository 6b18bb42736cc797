"""Writing files whole or not at all, and reading them back only when they are what was written.

Every result goes to a temporary name in its own folder, is flushed to the disk and renamed, so that a crash, a full
disk or `kill -9` leaves either the old file or the new one. Tensors are kept as safetensors (no code can hide in them)
with a SHA-256 of names, types, shapes, values and metadata in the header; `load_tensors` refuses a file whose content
differs from it.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


class StageError(RuntimeError):
    """A stage cannot go on; the message names the file or parameter and what to do about it."""


_ADVICE = {
    errno.ENOSPC: "free some space on that disk and run the same command again",
    errno.EDQUOT: "your disk quota is used up: free some space and run the same command again",
    errno.EROFS: "that disk is read-only: choose another folder with the parameter 'outputs'",
    errno.EACCES: "make that folder writable or choose another with the parameter 'outputs'",
    errno.EPERM: "make that folder writable or choose another with the parameter 'outputs'",
}


def unwritable(path: Path, error: Exception) -> StageError:
    """The error that says why `path` could not be written and what to do about it."""
    code = error.errno if isinstance(error, OSError) else None
    if code is None and (found := re.search(r"os error (\d+)", str(error))):  # safetensors hides the errno in its text
        code = int(found.group(1))
    why = os.strerror(code) if code else str(error)
    return StageError(f"Cannot write {path}: {why}; {_ADVICE.get(code, 'earlier results are untouched')}.")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed to `path`, on failure removed.

    Leftovers of writers that were killed are removed on the way.

    Args:
        path: where the finished file shall be; its folder is made if missing.

    Raises:
        StageError: the disk is full, read-only or forbids writing; `path` is as it was before.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(f".{path.name}.*.tmp"):
            pid = stale.name.split(".")[-2]
            if pid.isdigit() and not _is_alive(int(pid)):
                stale.unlink(missing_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _fsync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):  # not there after the rename, or its folder is no folder
            temporary.unlink()


def _fsync_folder(folder: Path) -> None:
    """Make a rename last through a power cut (Linux and macOS need the folder synced, too)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` (UTF-8) whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; NaN and infinity are refused, since JSON has neither."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: str | Path, *, stage: str) -> Any:
    """Read JSON; a missing or broken file is an error that names the stage to run."""
    path = require(path, stage=stage)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is no JSON: {error}", stage) from error


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write `table` as CSV (no index column; floats in their shortest exact form), whole or not at all."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def read_csv(path: str | Path, *, stage: str) -> pd.DataFrame:
    """Read a table written by `write_csv`; floats come back bit for bit (pandas from 3.1 on)."""
    path = require(path, stage=stage)
    try:
        return pd.read_csv(path)
    except (ValueError, pd.errors.ParserError) as error:
        raise _damaged(path, f"it is no table: {error}", stage) from error


def require(path: str | Path, *, stage: str) -> Path:
    """Return `path` if it is a file.

    Raises:
        StageError: it is missing; the message names the stage that makes it.
    """
    path = Path(path)
    if not path.is_file():
        raise StageError(f"{path} is missing: run stage {stage} first.")
    return path


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(tensors: Mapping[str, Tensor], metadata: str) -> str:
    digest = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous().cpu()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Any = None) -> None:
    """Write named tensors and JSON metadata as one safetensors file with a checksum, whole or not at all.

    Args:
        path: the file, by convention `*.safetensors`.
        tensors: any dtypes and devices; they come back on the CPU.
        metadata: anything JSON can hold.
    """
    contiguous = {name: tensor.detach().contiguous().cpu().clone() for name, tensor in tensors.items()}
    text = json.dumps(metadata)
    with atomic_path(path) as temporary:
        save_file(contiguous, temporary, {"metadata": text, "sha256": _digest(contiguous, text)})


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
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        text = header["metadata"]
        intact = _digest(tensors, text) == header["sha256"]
        metadata = json.loads(text)
    except KeyError as error:
        raise _damaged(path, f"its header lacks {error}", stage) from error
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, RecursionError) as error:
        raise _damaged(path, str(error), stage) from error
    if not intact:
        raise _damaged(path, "its content does not match its checksum", stage)
    return tensors, metadata


def _damaged(path: Path, why: str, stage: str) -> StageError:
    return StageError(f"{path} is damaged ({why}): delete it and run stage {stage} again.")
