"""One training per run: a lease in the run's folder says who trains, on any file system that machines share.

The lease is a small file with a counter that its owner raises every few seconds. Another training waits as long as the
counter moves; once it has stood still for `SILENCE` seconds, or its owner is a process of this machine that has ended,
it takes over. An owner that was stopped meanwhile finds so before it writes anything, and stops. Clocks of machines are
never compared, and no lock of the file system is relied on.
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

from nclib.study.files import StageError, is_alive, json_or_empty, write_json

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
            "process": os.getpid(),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "beats": 0,
        }
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Wait until nobody else holds the lease, then hold it until `release`."""
        while not self._taken():
            self._wait()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

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
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self.holds():
            self.path.unlink(missing_ok=True)

    def _taken(self) -> bool:
        """Take the lease if nobody has it, in one step that only one process can make."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as file:
            json.dump(self._own, file)
        return True

    def _wait(self) -> None:
        """Wait until the present owner has released its lease, has ended or is silent; remove what it left."""
        seen, since = json_or_empty(self.path), time.monotonic()
        if not self._has_ended(seen):
            print(f"{_who(seen)} is training in {self.path.parent}: this one waits until it ends")
        while self.path.exists() and not self._has_ended(seen) and time.monotonic() - since < SILENCE:
            time.sleep(min(1.0, HEARTBEAT))
            now = json_or_empty(self.path)
            if now != seen:
                seen, since = now, time.monotonic()
        if json_or_empty(self.path).get("token") == seen.get("token"):
            self.path.unlink(missing_ok=True)

    def _has_ended(self, lease: dict[str, Any]) -> bool:
        """Whether a lease is that of a process of this machine that is no more."""
        return lease.get("host") == self._own["host"] and not is_alive(lease.get("process", 0))

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT):
            if not self.holds():
                return
            self._own["beats"] += 1
            with suppress(StageError):  # a full disk stops the training where it matters
                write_json(self.path, self._own)


def _who(lease: dict[str, Any]) -> str:
    job = f", Slurm job {lease['slurm_job']}" if lease.get("slurm_job") else ""
    return f"Process {lease.get('process', '?')} on {lease.get('host', '?')}{job} (since {lease.get('since', '?')})"
