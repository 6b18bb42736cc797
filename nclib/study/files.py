"""Writing files whole or not at all, and reading them back only when they are what was written.

Every result goes to a temporary name in its own folder, is flushed to the disk and renamed, so that a crash, a full
disk or `kill -9` leaves either the old file or the new one. `nclib.data.tensors` does so for tensors: the launcher and
Snakemake need this module, and torch takes seconds to import.
"""

import errno
import glob
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

if TYPE_CHECKING:
    import pandas as pd


class StageError(RuntimeError):
    """A stage cannot go on; the message names the file or parameter and what to do about it."""


_ADVICE = {
    errno.ENOSPC: "free some space on that disk and run the same command again",
    errno.EDQUOT: "your disk quota is used up: free some space and run the same command again",
    errno.EROFS: "that disk is read-only: choose another folder with the parameter 'outputs'",
    errno.EACCES: "make that folder writable or choose another with the parameter 'outputs'",
    errno.EPERM: "make that folder writable or choose another with the parameter 'outputs'",
    **dict.fromkeys(
        (errno.EEXIST, errno.EISDIR, errno.ENOTDIR), "move away what has that name and run the same command again"
    ),
}


def unwritable(path: Path, error: Exception) -> StageError:
    """The error that says why `path` could not be written and what to do about it."""
    code = error.errno if isinstance(error, OSError) else None
    if code is None and (found := re.search(r"os error (\d+)", str(error))):  # safetensors hides the errno in its text
        code = int(found.group(1))
    why = os.strerror(code) if code else str(error)
    return StageError(f"Cannot write {path}: {why}; {_ADVICE.get(code, 'earlier results are untouched')}.")


def is_zombie(pid: int) -> bool:
    """Whether a process of this machine was killed, but not yet waited for, as often in containers."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return False


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return not is_zombie(pid)


def temporary_beside(path: Path, ending: str) -> Path:
    """A name beside `path` that is this process's own; what ended processes left under such names is removed.

    Only processes of this machine are known to have ended: another machine may be writing to the same folder.
    """
    machine = platform.node().replace(".", "-")
    for left in path.parent.glob(f".{glob.escape(path.name)}.{machine}.*.{ending}"):
        pid = left.name.split(".")[-2]
        if pid.isdigit() and (int(pid) == os.getpid() or not is_alive(int(pid))):
            with suppress(OSError):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return path.with_name(f".{path.name}.{machine}.{os.getpid()}.{ending}")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed to `path`, on failure removed.

    The folder is made if missing; leftovers of writers that were killed are removed.

    Raises:
        StageError: the disk is full, read-only or forbids writing; `path` is as it was before.
    """
    path = Path(path)
    temporary = temporary_beside(path, "tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)  # so that the rename lasts through a power cut
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, SafetensorError) as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):  # not there after the rename, or its folder is no folder
            temporary.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write `text` (UTF-8) whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; NaN and infinity are refused, since JSON has neither."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def json_or_empty(path: Path) -> dict[str, Any]:
    """A small JSON file; empty if it is gone or cannot be read, as may be while others write and remove such files."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def write_csv(path: str | Path, table: "pd.DataFrame") -> None:
    """Write `table` as CSV (no index column; floats in their shortest exact form), whole or not at all."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def read_csv(path: str | Path, *, stage: str) -> "pd.DataFrame":
    """Read a table written by `write_csv`; floats come back bit for bit (pandas from 3.1 on)."""
    import pandas as pd  # half a second, which the launcher does not need

    path = require(path, stage=stage)
    try:
        return pd.read_csv(path)
    except (ValueError, pd.errors.ParserError) as error:
        raise damaged(path, f"it is no table: {error}", stage=stage) from error


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


def describe_file(path: str | Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as manifests have them."""
    return {"bytes": Path(path).stat().st_size, "sha256": sha256(path)}


def damaged(path: Path, why: str, *, stage: str) -> StageError:
    """The error for a file that is not what `stage` wrote."""
    return StageError(f"{path} is damaged ({why}): delete it and run stage {stage} again.")
