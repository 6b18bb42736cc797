"""What `make reproduce` shows of a study under way: finished stages, bars, downloads, and at the end what failed."""

import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nclib.study.files import json_or_empty
from nclib.study.progress import PROGRESS_FILE

LINE_SECONDS = 20.0  # between two progress lines where the output is no terminal


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
                self._print(f"done  {stage}  ({manifest['seconds']:.0f} s)")
        found = {str(path): json_or_empty(path) for path in sorted(self.folder.glob(f"*/*/{PROGRESS_FILE}"))}
        states = {name: state for name, state in found.items() if state}
        bars = sys.stderr.isatty()
        if bars:
            self._draw(states)
        if time.monotonic() - self._printed > LINE_SECONDS:
            lines = [] if bars else [_line(state) for state in states.values()]
            for line in lines + self._downloads():
                self._printed = time.monotonic()
                self._print(line)

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
        """The last log line of each data set that has been busy with one cell for a while, as with a download."""
        logs = []
        for path in self.folder.glob("datasets/*/*.running.ipynb"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > LINE_SECONDS:
                    logs.append(path.with_suffix("").with_suffix(".log"))
        return [f"      {log.parent.name}: {_last_line(log)}" for log in logs]

    def _manifests(self) -> dict[Path, dict[str, Any]]:
        """The manifests that are there, by path."""
        found = {path: json_or_empty(path) for path in self.folder.rglob("*.manifest.json")}
        return {path: manifest for path, manifest in found.items() if manifest}

    def _print(self, line: str) -> None:
        tqdm.write(line, file=sys.stderr)


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
    recent = {
        path.with_name(path.name.partition(".")[0])
        for path in folder.rglob("0*.failed.*")
        if path.stat().st_mtime >= since
    }
    if recent:
        print("\nFailed notebooks (executed copies kept):", file=sys.stderr)
    for stage in sorted(recent):
        log, copy = stage.with_suffix(".log"), stage.with_suffix(".failed.ipynb")
        why = json_or_empty(stage.with_suffix(".failed.json")).get("error")
        print(f"  {os.path.relpath(copy if copy.exists() else log)}", file=sys.stderr)
        print(f"    {why or f'interrupted; see {os.path.relpath(log)}'}", file=sys.stderr)
    return bool(recent)
