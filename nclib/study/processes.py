"""Processes that end with the one that started them."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of Linux' prctl


def die_with_parent(sent: signal.Signals, parent: int) -> None:
    """Have Linux send this process `sent` when `parent`, which started it, ends; at once if it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, sent)
        if os.getppid() != parent:
            os._exit(128 + sent)
