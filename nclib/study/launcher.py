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
from contextlib import contextmanager
from pathlib import Path

from nclib.study.cluster import cancel_left_jobs
from nclib.study.files import StageError, unwritable
from nclib.study.folders import StudyFolder, project_root
from nclib.study.processes import die_with_parent
from nclib.study.progress import PROGRESS_FILE
from nclib.study.stage import KEEP_CODE, Stage, stages
from nclib.study.study import ParameterError, Study
from nclib.study.watch import Watch, report_failures

LOG = "snakemake.log"
BUSY = 75  # exit status: another run is at work on the same outputs (sysexits' EX_TEMPFAIL)
NO_IMAGES = 66  # exit status: a folder of images is not there (sysexits' EX_NOINPUT)
ROOM = 64 * 1024  # bytes; on a disk with less, a step that failed has failed for want of space


def main(arguments: list[str] | None = None) -> int:
    """`python -m nclib reproduce STUDY.yaml`.

    Returns:
        The exit status: 0 when every stage is done, `BUSY` when the study's outputs are in use, `NO_IMAGES` when its
        images are not there, else that of Snakemake.
    """
    asked = _parser().parse_intermixed_args(arguments)
    root = project_root()
    if not (root / "Snakefile").is_file():
        print(f"error: {root} is not in nclib's folder, where Snakefile and notebooks/ are: go there", file=sys.stderr)
        return 2
    if asked.keep_code:
        os.environ[KEEP_CODE] = "1"
    try:
        study = Study.from_file(asked.study, smoke=asked.smoke).seeded(asked.seeds)
        chosen = study.only(asked.runs)
        if absent := absent_images(chosen, asked.outputs):
            print(f"skipped {study.study}: there is no {absent}; docs/data.md says how to make it", file=sys.stderr)
            return NO_IMAGES
        folder = StudyFolder(asked.outputs, study.study).root
        with only_one(folder) as lock:
            if canceled := cancel_left_jobs(folder):
                print(f"canceled what a killed run had left in Slurm's queue: {', '.join(canceled)}", file=sys.stderr)
            for left in folder.glob(f"*/*/{PROGRESS_FILE}"):
                left.unlink()  # of a run that was killed
            shutil.rmtree(folder / ".session", ignore_errors=True)
            study.to_file(folder / "study.yaml")  # what the notebooks read, whatever becomes of the study's own file
            ahead = stages(study, asked.outputs, runs=chosen.runs)
            for stage in ahead:
                _announce(stage)
            with _ceilings(folder, ahead):
                return _run(asked, study, folder, root, lock)
    except BlockingIOError as error:
        print(error, file=sys.stderr)
        return BUSY
    except (ParameterError, StageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {unwritable(Path(error.filename or asked.outputs), error)}", file=sys.stderr)
        return 2


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


def _run(asked: argparse.Namespace, study: Study, folder: Path, root: Path, lock: int) -> int:
    snapshot = os.path.relpath(folder / "study.yaml", root)
    config = [f"study={snapshot}", f"outputs={asked.outputs}", f"session={os.getpid()}"]
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
    # Killed with this process; the notebooks' runners, its children, then end through die_with_parent, too.
    with (folder / LOG).open("w") as log:
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=log,
            stderr=log,
            pass_fds=(lock,),
            env=os.environ | {"TMPDIR": str(scratch)},
            preexec_fn=lambda: die_with_parent(signal.SIGKILL, own),
        )
    watch = Watch(folder)
    try:
        while process.poll() is None:
            watch.look()
            time.sleep(0.5)
    except KeyboardInterrupt:
        process.wait()  # the terminal has interrupted it, too: it keeps what is finished
    watch.look()
    watch.close()
    shutil.rmtree(scratch, ignore_errors=True)
    _conclude(study, folder, process.returncode, started)
    return process.returncode


def scratch_folder(folder: Path) -> Path:
    """Where the processes of a study keep what is of no use later; short, since kernels have sockets there."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"nclib-{name}"


def absent_images(study: Study, outputs: str | Path) -> Path | None:
    """The first folder of images that a study needs and that is not there; None if there is none."""
    for stage in stages(study, outputs):
        if stage.name == "01_dataset" and stage.settings.dataset.source == "image_folder" and stage.missing():
            folder = stage.settings.dataset.source_folder
            if not folder.is_dir():
                return folder
    return None


@contextmanager
def _ceilings(folder: Path, ahead: Iterable[Stage]) -> Iterator[None]:
    """Print what theory allows the trainings ahead; a process of its own loads torch while the first stage runs."""
    trainings = [stage for stage in ahead if stage.name == "02_train" and stage.missing()]
    if any(each.settings.dataset.layout and each.settings.training.feature_decay for each in trainings):
        runs = dict.fromkeys(each.run for each in trainings)
        with subprocess.Popen([sys.executable, "-m", "nclib", "ceiling", folder / "study.yaml", *runs], stdout=2):
            yield
    else:
        yield


def _announce(stage: Stage) -> None:
    """Print that a result is about to be replaced, or is kept although the code has changed."""
    if stage.manifest and (why := stage.missing(code=False)):
        print(f"{stage.label} runs again: {why}", file=sys.stderr)
    elif stage.manifest and (changed := stage.changed_code()):
        fate = "is kept, although" if os.environ.get(KEEP_CODE) else "runs again:"
        print(f"{stage.label} {fate} {changed}", file=sys.stderr)


def _conclude(study: Study, folder: Path, status: int, started: float) -> None:
    """Print where the results are, or what failed."""
    log = folder / LOG
    if status:
        reported = report_failures(folder, since=started)
        if shutil.disk_usage(folder).free < ROOM:  # then the logs may say nothing
            print(unwritable(folder, OSError(errno.ENOSPC, "")), file=sys.stderr)
        elif not reported:
            print("\n".join(log.read_text().splitlines()[-30:]), file=sys.stderr)
        print(f"\n{study.study} is not complete; Snakemake's log is {os.path.relpath(log)}", file=sys.stderr)
        return
    table = folder / "table.md"
    if not table.is_file():  # as after snakemake's own --until
        print(f"\n{study.study}: what was asked for is done, in {os.path.relpath(folder)}")
        return
    print(f"\n{study.study} is complete, in {os.path.relpath(folder)}:")
    print(f"\n{table.read_text().strip()}\n")
    results = {"figures": "figures (PDF and PNG)", "table.md": "table", "claims.md": "the papers' claims"}
    for name, what in (results | {"04_figures.ipynb": "notebook"}).items():
        if (folder / name).exists():
            print(f"  {what:22} {os.path.relpath(folder / name)}")


@contextmanager
def only_one(folder: Path) -> Iterator[int]:
    """Hold the study's lock; the kernel frees it when the last process holding it ends, however it ends.

    Yields:
        The lock's file descriptor, to be passed on to processes that hold it, too.

    Raises:
        BlockingIOError: another process holds it.
        StageError: the folder cannot be written.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
            message = f"{folder} is in use by another run (process {holder}): wait until it ends, or stop it first"
            raise BlockingIOError(message) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield descriptor
    finally:
        os.close(descriptor)
