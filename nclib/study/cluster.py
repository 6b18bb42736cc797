"""Jobs of a study that are still in Slurm's queue, although the process that submitted them is gone.

Slurm keeps jobs going when the launcher is killed, and nothing could watch them again; another start would submit the
same notebooks a second time. So a start that holds the study's lock cancels what an earlier one left. That is cheap:
finished stages stay, and a training goes on from its last epoch.
"""

import shutil
import subprocess
import time
from pathlib import Path

from nclib.study.files import StageError

JOBS = "slurm"  # folder of the jobs' logs in a study's results; there once it has run on a cluster
PATIENCE = 120.0  # seconds for canceled jobs to end
MARK = "nclib "  # begins the comment of our jobs; the study's folder follows (profiles/slurm/submit.sh)


def cancel_left_jobs(folder: Path) -> list[str]:
    """Cancel the jobs of a study, whose lock is held, and wait until they have ended; returns their ids.

    Raises:
        StageError: Slurm does not answer, or jobs do not end.
    """
    if not (folder / JOBS).is_dir() or not shutil.which("squeue"):
        return []
    left = jobs(folder)
    if left:
        _slurm(["scancel", *left], folder)
    end = time.monotonic() + PATIENCE
    while still := jobs(folder):
        if time.monotonic() > end:
            raise StageError(
                f"Slurm jobs {', '.join(still)} of {folder} were canceled, but do not end: see squeue, then try again."
            )
        time.sleep(1)
    return left


def jobs(folder: Path) -> list[str]:
    """The ids of this study's jobs that wait, run or are about to end."""
    lines = _slurm(["squeue", "--me", "--noheader", "--format=%i|%k"], folder).splitlines()
    found = [line.strip().partition("|") for line in lines]
    return [job for job, _, comment in found if comment == f"{MARK}{folder}"]


def _slurm(command: list[str], folder: Path) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        why = (getattr(error, "stderr", None) or str(error)).strip()
        raise StageError(
            f"Slurm cannot be asked for jobs of {folder} that may still run ({why}): try again when squeue answers; if "
            f"none can be running, delete {folder / JOBS}."
        ) from error
