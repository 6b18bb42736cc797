"""`make reproduce`: one study from its file to figures, with live progress.

It checks the study file, takes a lock on the study's outputs, and leaves the work to Snakemake (see the `Snakefile`).
Trainings report their progress through small files (`nclib.study.watch` shows them). Interrupt it at any time, or
kill it: the same command goes on where it was.
"""

import argparse
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nclib.study.cluster import cancel_left_jobs
from nclib.study.files import StageError, json_or_empty, unwritable
from nclib.study.processes import die_with_parent
from nclib.study.runs import StudyFolder, difference, parameters_of_stages, project_root
from nclib.study.study import ParameterError, Study
from nclib.study.watch import Watch, report_failures
from nclib.training.progress import FILE as PROGRESS_FILE

LOG = "snakemake.log"
BUSY = 75  # exit status: another run is at work on the same outputs (sysexits' EX_TEMPFAIL)
ROOM = 64 * 1024  # bytes; on a disk with less, a step that failed has failed for want of space


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `python -m nclib.study.launcher`.

    Returns:
        The exit status: 0 when every stage is done, `BUSY` when the study's outputs are in use, else that of Snakemake.
    """
    asked = _parser().parse_intermixed_args(arguments)
    root = project_root()
    if not (root / "Snakefile").is_file():
        print(f"error: {root} is not in nclib's folder, where Snakefile and notebooks/ are: go there", file=sys.stderr)
        return 2
    try:
        study = Study.from_file(asked.study, smoke=asked.smoke).only(asked.runs)
        folder = StudyFolder(asked.outputs, study.study).root
        with only_one(folder) as lock:
            if canceled := cancel_left_jobs(folder):
                print(f"canceled what a killed run had left in Slurm's queue: {', '.join(canceled)}", file=sys.stderr)
            forget_stale(folder, study)
            for left in folder.glob(f"*/*/{PROGRESS_FILE}"):
                left.unlink()  # of a run that was killed
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
        prog="python -m nclib.study.launcher", description="Run a study from its file to figures."
    )
    parser.add_argument("study", help="study file, e.g. params/mlab_digits.yaml")
    parser.add_argument(
        "--smoke", action="store_true", help="use the study's 'smoke' overrides: the whole chain in a minute"
    )
    parser.add_argument("--runs", type=str.split, default=[], help="only these of the study's runs, e.g. 'learned etf'")
    parser.add_argument("--cores", default="all", help="cores to use on this machine (default: all)")
    parser.add_argument("--gpu-runs", type=int, default=1, help="runs at once on this machine's GPU (default: 1)")
    parser.add_argument("--profile", help="a folder of profiles/ (e.g. slurm): run the stages there instead of here")
    parser.add_argument("--outputs", default="outputs", help="folder for results (default: outputs)")
    parser.add_argument("snakemake", nargs="*", default=[], help="further options for snakemake, after --")
    return parser


def _run(asked: argparse.Namespace, study: Study, folder: Path, root: Path, lock: int) -> int:
    config = [f"study={Path(asked.study).resolve()}", f"outputs={asked.outputs}", *(["smoke=1"] if asked.smoke else [])]
    command = [sys.executable, "-m", "snakemake", "--snakefile", root / "Snakefile", "--directory", root]
    config += [f"runs={' '.join(asked.runs)}"] if asked.runs else []
    command += ["--profile", root / "profiles" / asked.profile] if asked.profile else ["--cores", asked.cores]
    if not asked.profile and list(Path("/dev").glob("nvidia[0-9]*")):
        command += ["--resources", f"gpu={asked.gpu_runs}"]
    command += [*asked.snakemake, "--config", *config]
    started, own = time.time(), os.getpid()
    # Killed with this process; the notebooks' runners, its children, then end through die_with_parent, too.
    with (folder / LOG).open("w") as log:
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=log,
            stderr=log,
            pass_fds=(lock,),
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
    _conclude(study, folder, process.returncode, started)
    return process.returncode


def _conclude(study: Study, folder: Path, status: int, started: float) -> None:
    """Say where the results are, or what failed."""
    log = folder / LOG
    if status:
        told = report_failures(folder, since=started)
        if shutil.disk_usage(folder).free < ROOM:  # then the logs may say nothing
            print(unwritable(folder, OSError(errno.ENOSPC, "")), file=sys.stderr)
        elif not told:
            print("\n".join(log.read_text().splitlines()[-30:]), file=sys.stderr)
        print(f"\n{study.study} is not complete; Snakemake's log is {os.path.relpath(log)}", file=sys.stderr)
        return
    print(f"\n{study.study} is complete, in {os.path.relpath(folder)}:")
    table = folder / "table.md"
    print(f"\n{table.read_text().strip()}\n")
    for name, what in {"figures": "figures (PDF and PNG)", "table.md": "table", "04_figures.ipynb": "notebook"}.items():
        print(f"  {what:22} {os.path.relpath(folder / name)}")


@contextmanager
def only_one(folder: Path) -> Iterator[int]:
    """Hold the study's lock; the kernel frees it when the last process holding it ends, however it ends.

    Yields:
        The lock's file descriptor, to be passed on to processes that shall hold it, too.

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


def forget_stale(folder: Path, study: Study) -> None:
    """Remove each manifest of results that are gone or were made with other parameters: their stages run again.

    Snakemake knows only the parameters of what it made itself; results also come from JupyterLab, papermill or another
    machine. Manifests of the future (the clock was set back since) become as old as now: they would be newer than all
    that is made from them, so that Snakemake would make it again at every start.
    """
    now = time.time()
    expected = parameters_of_stages(study)
    for path in folder.rglob("*.manifest.json"):
        manifest, place = json_or_empty(path), path.relative_to(folder).as_posix().removesuffix(".manifest.json")
        outputs = manifest.get("outputs")
        complete = isinstance(outputs, dict) and all((path.parent / name).is_file() for name in outputs)
        other = complete and place in expected and difference(manifest, expected[place])
        if other:
            print(f"{place}: made with another {other}, so it runs again", file=sys.stderr)
        if other or not complete:
            path.unlink()
        elif path.stat().st_mtime > now:
            os.utime(path, (now, now))


if __name__ == "__main__":
    sys.exit(main())
