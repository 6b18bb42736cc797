"""Processes that shall not outlive the one that started them."""

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1  # of Linux' prctl


def die_with_parent(sent: signal.Signals) -> None:
    """Have Linux send this process `sent` when the process that started it ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, sent)
