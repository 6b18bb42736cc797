"""`make reproduce`: one study from its file to figures, with live progress (`python -m nclib.reproduce STUDY.yaml`).

It checks the study file, takes a lock on the study's outputs, and leaves the work to Snakemake (see the `Snakefile`).
The notebooks tell through small files how far they are; those are drawn here as bars. Interrupt it at any time, or kill
it: the same command goes on where it was.
"""

import argparse
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nclib.cluster import cancel_left_jobs
from nclib.processes import die_with_parent
from nclib.progress import FILE as PROGRESS_FILE
from nclib.runs import StudyFolder, difference, parameters_of_stages, project_root
from nclib.storage import StageError, unwritable
from nclib.study import ParameterError, Study

LOG = "snakemake.log"
BUSY = 75  # exit status: another run is at work on the same outputs (sysexits' EX_TEMPFAIL)
ROOM = 64 * 1024  # bytes; on a disk with less, a step that failed has failed for want of space
LINE_SECONDS = 20.0  # between two progress lines where the output is no terminal


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `python -m nclib.reproduce`.

    Returns:
        The exit status: 0 when every stage is done, `BUSY` when the study's outputs are in use, else that of Snakemake.
    """
    asked = _parser().parse_intermixed_args(arguments)
    root = project_root()
    try:
        study = Study.from_file(asked.study, smoke=asked.smoke).only(asked.runs)
        folder = StudyFolder(asked.outputs, study.study).root
        with only_one(folder) as lock:
            if cancelled := cancel_left_jobs(folder):
                print(f"cancelled what a killed run had left in Slurm's queue: {', '.join(cancelled)}", file=sys.stderr)
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
        prog="python -m nclib.reproduce", description="Run a study from its file to figures."
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
    parser.add_argument("snakemake", nargs="*", help="further options for snakemake, after --")
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
        manifest, place = _read(path), path.relative_to(folder).as_posix().removesuffix(".manifest.json")
        outputs = manifest.get("outputs")
        complete = isinstance(outputs, dict) and all((path.parent / name).is_file() for name in outputs)
        other = complete and place in expected and difference(manifest, expected[place])
        if other:
            print(f"{place}: made with another {other}, so it runs again", file=sys.stderr)
        if other or not complete:
            path.unlink()
        elif path.stat().st_mtime > now:
            os.utime(path, (now, now))


class Watch:
    """Shows what happens below a study's folder: finished stages as lines, trainings under way as bars."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._done = self._manifests()
        self._bars: dict[str, tqdm] = {}
        self._printed = 0.0

    def look(self) -> None:
        """Look at the files once and show what has changed."""
        for path, manifest in self._manifests().items():
            if self._done.get(path) != manifest:
                self._done[path] = manifest
                stage = path.relative_to(self.folder).with_suffix("").with_suffix("")
                self._say(f"done  {stage}  ({manifest['seconds']:.0f} s)")
        found = {str(path): _read(path) for path in sorted(self.folder.glob(f"*/*/{PROGRESS_FILE}"))}
        states = {name: state for name, state in found.items() if state}
        bars = sys.stderr.isatty()
        if bars:
            self._draw(states)
        if time.monotonic() - self._printed > LINE_SECONDS:
            lines = [] if bars else [_line(state) for state in states.values()]
            for line in lines + self._downloads():
                self._printed = time.monotonic()
                self._say(line)

    def close(self) -> None:
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()

    def _draw(self, states: dict[str, dict[str, Any]]) -> None:
        for name in [name for name in self._bars if name not in states]:
            self._bars.pop(name).close()
        for name, state in states.items():
            if name not in self._bars:
                total, done = state["steps"], state["done"]
                self._bars[name] = tqdm(total=total, initial=done, desc=state["label"], unit="step", leave=False)
            bar = self._bars[name]
            bar.set_postfix_str(_scores(state).removeprefix(", "), refresh=False)
            bar.update(state["done"] - bar.n)

    def _downloads(self) -> list[str]:
        """What the data sets say that have been busy with one cell for a while, as with a download."""
        logs = []
        for path in self.folder.glob("datasets/*/*.running.ipynb"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > LINE_SECONDS:
                    logs.append(path.with_suffix("").with_suffix(".log"))
        return [f"      {log.parent.name}: {_last_line(log)}" for log in logs]

    def _manifests(self) -> dict[Path, dict[str, Any]]:
        """Manifests by path; a new one tells a new start (Snakemake touches the files, so their times tell nothing)."""
        found = {path: _read(path) for path in self.folder.rglob("*.manifest.json")}
        return {path: manifest for path, manifest in found.items() if manifest}

    def _say(self, line: str) -> None:
        tqdm.write(line, file=sys.stderr)


def _read(path: Path) -> dict[str, Any]:
    """A small JSON file; empty if it is gone or cannot be read, as may be while others write and remove such files."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _last_line(log: Path) -> str:
    """The last line of a log, of a progress bar its last state."""
    with suppress(OSError):
        lines = re.split(r"[\r\n]+", log.read_text(errors="replace").strip())
        return lines[-1].strip()
    return ""


def _scores(state: dict[str, Any]) -> str:
    return "".join(f", {name} {value:.4f}" for name, value in state.get("shown", {}).items())


def _line(state: dict[str, Any]) -> str:
    left = f", {tqdm.format_interval(state['seconds_left'])} left" if state.get("seconds_left") else ""
    return f"      {state['label']}: epoch {state['epoch']}/{state['epochs']}{_scores(state)}{left}"


def report_failures(folder: Path, *, since: float) -> bool:
    """Print each notebook below `folder` that failed after the time `since`, its error and where its executed copy is.

    Returns:
        Whether there is any.
    """
    recent = [path for path in sorted(folder.rglob("0*")) if path.is_file() and path.stat().st_mtime >= since]
    failed = {path.with_suffix("").with_suffix(".log"): path for path in recent if path.name.endswith(".failed.ipynb")}
    for path in recent:
        if path.suffix == ".log" and _logged_error(path):
            failed.setdefault(path, path)  # a copy that could not be written to its end is not kept
    if failed:
        print("\nFailed notebooks (executed copies kept):", file=sys.stderr)
    for log, kept in failed.items():
        print(f"  {os.path.relpath(kept)}\n    {_why(kept, log)}", file=sys.stderr)
    return bool(failed)


def _why(kept: Path, log: Path) -> str:
    """The error in an executed notebook; where there is none, as of a killed kernel, what its runner has logged."""
    cells = json.loads(kept.read_text())["cells"] if kept != log else []
    errors = [o for cell in cells for o in cell.get("outputs", []) if o["output_type"] == "error"]
    if errors:
        return f"{errors[-1]['ename']}: {errors[-1]['evalue']}"
    return _logged_error(log) or f"interrupted; see {os.path.relpath(log)}"


def _logged_error(log: Path) -> str | None:
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    said = [line.split(None, 1)[1] for line in lines if line.startswith("  error  ")]
    return said[-1] if said else None


if __name__ == "__main__":
    sys.exit(main())
