"""One training per run: a lease in the run's folder says who trains, on any file system that machines share.

Its owner touches it every few seconds. Another training waits, and takes over once the lease has not changed for
`SILENCE` seconds or its owner is a process of this machine that has ended. An owner that was stopped meanwhile finds so
before it writes anything, and stops. Clocks of machines are never compared (`filelock.SoftFileLease`).
"""

import platform
from contextlib import suppress
from pathlib import Path

from filelock import SoftFileLease, Timeout

from nclib.study.files import StageError, is_zombie, unwritable

FILE = "02_train.lease"
SILENCE = 60.0  # seconds without a heartbeat until a lease is taken over


class Lease:
    """The right to write into a run's folder.

    Args:
        folder: of the run and seed.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        times = {"lease_duration": SILENCE, "heartbeat_interval": SILENCE / 12, "poll_interval": min(1.0, SILENCE / 12)}
        self._lease = SoftFileLease(self.path, **times, thread_local=False)

    def take(self) -> None:
        """Wait until nobody else holds the lease, then hold it until `release`.

        Raises:
            StageError: the folder cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            owner = self._lease.owner
            if owner and owner.hostname.startswith(platform.node()) and is_zombie(owner.pid):
                self._lease.force_break()
            try:
                self._lease.acquire(blocking=False)
            except Timeout:
                if self._lease.owner:  # not that of a process that has ended, which is removed
                    print(f"{self._who()} is training in {self.path.parent}: this one waits until it ends")
                self._lease.acquire()
        except OSError as error:
            raise unwritable(self.path, error) from error

    def holds(self) -> bool:
        """Whether the lease is still this training's."""
        owner = self._lease.owner
        return owner is not None and owner.token == self._lease.token

    def check(self) -> None:
        """Refuse to go on where another training has taken over.

        Raises:
            StageError: it has.
        """
        if not self.holds():
            raise StageError(
                f"{self._who()} has taken over the training in {self.path.parent}, since this one did not move for "
                f"{SILENCE:g} seconds: this one stops, and leaves its files to that one."
            )

    def release(self) -> None:
        """Give the lease back, if it is still held."""
        with suppress(OSError):  # a lease that cannot be removed falls silent
            self._lease.release()

    def _who(self) -> str:
        owner = self._lease.owner
        return f"Process {owner.pid} on {owner.hostname.partition('?')[0]}" if owner else "Another process"
