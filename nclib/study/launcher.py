"""`make reproduce`: one study from its file to figures, with live progress.

It checks the study file, takes a lock on the study's outputs, and leaves the work to Snakemake (see the `Snakefile`).
Trainings report their progress through small files (`nclib.study.watch` shows them). Interrupt it at any time, or
kill it: the same command goes on where it was.
"""

import argparse
import errno
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from nclib.study.cluster import cancel_left_jobs
from nclib.study.files import StageError, unwritable
from nclib.study.folders import StudyFolder, project_root
from nclib.study.processes import die_with_parent
from nclib.study.progress import PROGRESS_FILE
from nclib.study.registry import SOURCES
from nclib.study.source_files import absent, answers
from nclib.study.stage import KEEP_CODE, Stage, stages, to_do
from nclib.study.study import Study
from nclib.study.watch import Watch, report_failures, say

LOG = "snakemake.log"
BUSY = 75  # exit status: another run is at work on the same outputs (sysexits' EX_TEMPFAIL)
NO_IMAGES = 66  # exit status: a study's images are not there (sysexits' EX_NOINPUT)
INTERRUPTED = 130  # exit status: as of a program that SIGINT has ended
ROOM = 64 * 1024  # bytes; on a disk with less, a step that failed has failed for want of space


def main(arguments: list[str]) -> int:
    """`python -m nclib reproduce STUDY.yaml`.

    Returns:
        The exit status: 0 when every stage is done, `BUSY` when the study's outputs are in use, `NO_IMAGES` when its
        images are not there, `INTERRUPTED`, else that of Snakemake.

    Raises:
        StageError: the study is not valid, its outputs cannot be written, or Slurm does not answer.
    """
    asked = _parser().parse_intermixed_args(arguments)
    root = project_root()
    if not (root / "Snakefile").is_file():
        raise StageError(f"{root} is not in nclib's folder, where Snakefile and notebooks/ are: go there")
    if asked.keep_code:
        os.environ[KEEP_CODE] = "1"
    try:
        study = Study.from_file(asked.study, smoke=asked.smoke).seeded(asked.seeds)
        folder = StudyFolder(asked.outputs, study.study).root
        found = stages(study, asked.outputs, runs=study.only(asked.runs).runs)
        todo = to_do(found)
        ahead = [stage for stage in found if stage.key in todo]
        if why := _lacks_images(ahead, smoke=asked.smoke):
            say(f"skipped {study.study}: {why}")
            return NO_IMAGES
        with only_one(folder) as locks:
            say(f"{study.study}: {len(todo)} of {len(found)} stages to run, in {os.path.relpath(folder)}")
            if canceled := cancel_left_jobs(folder):
                say(f"canceled what a killed run had left in Slurm's queue: {', '.join(canceled)}")
            for left in folder.glob(f"*/*/{PROGRESS_FILE}"):
                left.unlink()  # of a run that was killed
            shutil.rmtree(folder / ".session", ignore_errors=True)
            (root / ".snakemake").mkdir(exist_ok=True)
            study.to_file(folder / "study.yaml")  # what the notebooks read, whatever becomes of the study's own file
            for stage in found:
                _announce(stage, todo.get(stage.key))
            if not todo and not asked.snakemake:
                _conclude(study, folder, 0, time.time())
                return 0
            with _ceilings(folder, ahead):
                return _run(asked, study, found, root, locks)
    except BlockingIOError as error:
        say(str(error))
        return BUSY
    except OSError as error:
        raise unwritable(Path(error.filename or asked.outputs), error) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nclib reproduce", description="Run a study from its file to figures."
    )
    parser.add_argument("study", help="study file, e.g. params/mlab_digits.yaml")
    parser.add_argument(
        "--smoke", action="store_true", help="use the study's 'smoke' overrides: the whole chain in a minute"
    )
    parser.add_argument("--runs", type=str.split, default=[], help="only these of the study's runs, e.g. 'learned etf'")
    parser.add_argument("--seeds", help="other seeds than the study's, e.g. '0 1 2'")
    parser.add_argument("--keep-code", action="store_true", help="keep results that earlier code of nclib made")
    parser.add_argument("--cores", default="all", help="cores to use on this machine (default: all)")
    parser.add_argument("--gpu-runs", type=int, default=1, help="runs at once on this machine's GPU (default: 1)")
    parser.add_argument("--profile", help="a folder of profiles/ (e.g. slurm): run the stages there instead of here")
    parser.add_argument("--outputs", default="outputs", help="folder for results (default: outputs)")
    parser.add_argument("snakemake", nargs="*", default=[], help="further options for snakemake, after --")
    return parser


def _run(asked: argparse.Namespace, study: Study, found: list[Stage], root: Path, locks: list[int]) -> int:
    folder, session = found[-1].folder, str(os.getpid())
    config = [f"study={os.path.relpath(folder / 'study.yaml', root)}", f"outputs={asked.outputs}", f"session={session}"]
    command = [sys.executable, "-m", "snakemake", "--snakefile", root / "Snakefile", "--directory", root]
    config += [f"runs={' '.join(asked.runs)}"] if asked.runs else []
    command += ["--profile", root / "profiles" / asked.profile] if asked.profile else ["--cores", asked.cores]
    if not asked.profile and list(Path("/dev").glob("nvidia[0-9]*")):
        command += ["--resources", f"gpu={asked.gpu_runs}"]
    command += [*asked.snakemake, "--config", *config]
    started, own = time.time(), os.getpid()
    scratch = scratch_folder(folder)
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    scratch.mkdir(parents=True, exist_ok=True)
    watch = Watch(found, folder / ".session" / session)
    # Killed with this process; the notebooks' runners, its children, then end through die_with_parent, too.
    with (folder / LOG).open("w") as log:
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=log,
            stderr=log,
            pass_fds=locks,
            env=os.environ | {"TMPDIR": str(scratch)},
            preexec_fn=lambda: die_with_parent(signal.SIGKILL, own),
        )
    try:
        while process.poll() is None:
            watch.look()
            time.sleep(0.5)
        watch.look()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        watch.look()
        process.kill()  # nothing is lost: files appear whole or not at all
        watch.close()
        say(f"\nInterrupted. The same command goes on {_resume_point(watch.epochs)}.")
        process.wait()
        cancel_left_jobs(folder)
        return INTERRUPTED
    finally:
        watch.close()
        shutil.rmtree(scratch, ignore_errors=True)
    _conclude(study, folder, process.returncode, started)
    return process.returncode


def _resume_point(epochs: dict[str, int]) -> str:
    if len(set(epochs.values())) == 1:
        return f"from epoch {max(epochs.values()) + 1}"
    several = ", ".join(f"epoch {epoch + 1} of {run}" for run, epoch in epochs.items())
    return f"from {several}" if several else "where it was"


def scratch_folder(folder: Path) -> Path:
    """Where the processes of a study keep what is of no use later; short, since kernels have sockets there."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"nclib-{name}"


def _lacks_images(found: list[Stage], *, smoke: bool) -> str | None:
    """Which images are not there and cannot be downloaded, and what to do, in words; announces downloads to come."""
    for dataset in [stage.settings.dataset for stage in found if stage.name == "01_dataset"]:
        lacking, url = absent(dataset), SOURCES[dataset.source].url
        if not lacking:
            continue
        if not url:
            return f"there is no {next(iter(lacking))}; docs/data.md says how to make it"
        places = ", ".join(os.path.relpath(path) for path in lacking)
        size = f"{sum(lacking.values()):.0f} MB{', of a smoke run, too' if smoke else ''}"
        without = (
            f"To try the study without them: python -m nclib stand-ins {dataset.source} /tmp/stand-ins, then the same "
            "command with NCLIB_DATA_ROOT=/tmp/stand-ins."
        )
        if not answers(url):
            return (
                f"the images of {dataset.source} are not there, and {url} does not answer. Download from it, on "
                f"another machine, and put here: {places} ({size}). {without}"
            )
        say(f"01_dataset downloads from {url}: {places} ({size}). {without}")
    return None


def _ceilings(folder: Path, ahead: Iterable[Stage]) -> AbstractContextManager:
    """Print what theory allows the trainings ahead; a process of its own loads torch while the first stage runs."""
    trainings = [stage for stage in ahead if stage.name == "02_train"]
    runs = dict.fromkeys(each.run for each in trainings if each.settings.training.feature_decay)
    command = [sys.executable, "-m", "nclib", "ceiling", folder / "study.yaml", *runs]
    return subprocess.Popen(command, stdout=2) if runs else nullcontext()


def _announce(stage: Stage, why: str | None) -> None:
    """Print that a result is about to be replaced, or is kept although the code has changed."""
    if stage.manifest and why:
        say(f"{stage.key} runs again: {why}")
    elif stage.manifest and (changed := stage.changed_code()):
        say(f"{stage.key} is kept, although {changed}")


def _conclude(study: Study, folder: Path, status: int, started: float) -> None:
    """Print where the results are, or what failed."""
    log, table = folder / LOG, folder / "table.txt"
    if status:
        reported = report_failures(folder, since=started)
        if shutil.disk_usage(folder).free < ROOM:  # then the logs may say nothing
            say(str(unwritable(folder, OSError(errno.ENOSPC, ""))))
        elif not reported:
            say("\n".join(log.read_text().splitlines()[-30:]))
        say(f"\n{study.study} is not complete; Snakemake's log is {os.path.relpath(log)}")
    elif not table.is_file():  # as after snakemake's own --until
        print(f"\n{study.study}: what was asked for is done, in {os.path.relpath(folder)}")
    else:
        print(f"\n{study.study} is complete, in {os.path.relpath(folder)}:\n\n{table.read_text().rstrip()}\n")
        results = {"figures": "figures (PDF and PNG)", "table.md": "all tables", "claims.md": "the papers' claims"}
        for name, what in (results | {"04_figures.ipynb": "notebook"}).items():
            if (folder / name).exists():
                print(f"  {what:22} {os.path.relpath(folder / name)}")


@contextmanager
def only_one(folder: Path) -> Iterator[list[int]]:
    """Hold the study's lock; the kernel frees it when the last process holding it ends, however it ends.

    The folder itself is locked, since a file could be deleted; and a file in it, since NFS locks no folders.

    Yields:
        The locked file descriptors, to be passed on to processes that hold the lock, too.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = [os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644), os.open(folder, os.O_RDONLY)]
    try:
        for descriptor in held:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(held[0], 20).decode(errors="replace").strip() or "unknown"
                message = f"{folder} is in use by another run (process {holder}): wait until it ends, or stop it first"
                raise BlockingIOError(message) from None
            except OSError:
                if descriptor == held[0]:
                    raise
        os.ftruncate(held[0], 0)
        os.write(held[0], str(os.getpid()).encode())
        yield held
    finally:
        for descriptor in held:
            os.close(descriptor)
