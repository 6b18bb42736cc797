"""One training per run: a lease in the run's folder says who trains, on any file system that machines share.

The lease is a small file that its owner touches every few seconds. Another training waits as long as the file changes;
once it has not for `SILENCE` seconds, or its owner is a process of this machine that has ended, it takes over. An owner
that was stopped meanwhile finds so before it writes anything, and stops. Clocks of machines are never compared, and no
lock of the file system is relied on.

To take it, a process creates a claim, which only one can, and renames that to the lease if the lease is still as it was
left. Who is named in the lease afterwards has it, however slowly or often others did the same. What a lease says never
changes, so that an owner that wakes up cannot write over that of its successor.
"""

import json
import os
import platform
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from nclib.study.files import StageError, is_alive, json_or_empty, unwritable

FILE = "02_train.lease.json"
SILENCE = 60.0  # seconds without a heartbeat until a lease is taken over
HEARTBEAT = 5.0  # seconds between two heartbeats


class Lease:
    """The right to write into a run's folder.

    Args:
        folder: of the run and seed.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._own: dict[str, Any] = {
            "token": uuid.uuid4().hex,
            "host": platform.node(),
            "machine": _machine(),
            "process": os.getpid(),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        self._released = threading.Event()

    def take(self) -> None:
        """Wait until nobody else holds the lease, then hold it until `release`.

        Raises:
            StageError: the folder cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while not self._replace(self._wait(self.path)):
                pass
            threading.Thread(target=self._beat, daemon=True).start()
        except BaseException as error:  # the user's interrupt included
            self.release()
            if isinstance(error, OSError):
                raise unwritable(self.path, error) from error
            raise

    def holds(self) -> bool:
        """Whether the lease is still this training's."""
        return json_or_empty(self.path).get("token") == self._own["token"]

    def check(self) -> None:
        """Refuse to go on where another training has taken over.

        Raises:
            StageError: it has.
        """
        if not self.holds():
            raise StageError(
                f"{_who(json_or_empty(self.path))} has taken over the training in {self.path.parent}, since this one "
                f"did not move for {SILENCE:g} seconds: this one stops, and leaves its files to that one."
            )

    def release(self) -> None:
        """Give the lease back, if it is still held."""
        self._released.set()
        with suppress(OSError):  # a lease that cannot be removed falls silent
            if self.holds():
                self.path.unlink()

    def _replace(self, left: dict[str, Any]) -> bool:
        """Put the own lease in the place of what is `left` of another; False if that moves or another was quicker."""
        claim = self.path.with_suffix(".claim")
        try:
            file = claim.open("x")
        except FileExistsError:
            if self._wait(claim):
                claim.unlink(missing_ok=True)
            return False
        try:
            with file:
                json.dump(self._own, file)
            if _read(self.path) == left:
                with suppress(FileNotFoundError):  # this process was stopped, and its claim removed
                    claim.replace(self.path)
        finally:
            claim.unlink(missing_ok=True)
        return self.holds()

    def _wait(self, path: Path) -> dict[str, Any]:
        """Wait until a lease (or claim) is given back, or its owner has ended or is silent.

        Returns:
            What is left of it.
        """
        left, silent, pause = _read(path), 0.0, min(1.0, HEARTBEAT)
        if path == self.path and left and not self._has_ended(left):
            print(f"{_who(left)} is training in {path.parent}: this one waits until it ends")
        while left and not self._has_ended(left) and silent < SILENCE:
            time.sleep(pause)
            now = _read(path)
            silent = silent + pause if now == left else 0.0  # a clock would count while this process is stopped
            left = now
        return left

    def _has_ended(self, lease: dict[str, Any]) -> bool:
        """Whether a lease is that of a process of this machine that is no more."""
        return lease.get("machine") == self._own["machine"] and not is_alive(lease["process"])

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT):
            with suppress(OSError):
                if self.holds():
                    os.utime(self.path)


def _read(path: Path) -> dict[str, Any]:
    """A lease and when it was touched; empty only if there is none."""
    lease = json_or_empty(path)
    with suppress(FileNotFoundError):
        lease["touched"] = path.stat().st_mtime_ns
    return lease


def _machine() -> str:
    """Among which processes the number of one means that one: containers and machines can have one name."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{start} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux
        return platform.node()


def _who(lease: dict[str, Any]) -> str:
    if not lease:
        return "Another process"
    job = f", Slurm job {lease['slurm_job']}" if lease.get("slurm_job") else ""
    return f"Process {lease.get('process', '?')} on {lease.get('host', '?')}{job} (since {lease.get('since', '?')})"
