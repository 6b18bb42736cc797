"""What `make reproduce` shows of a study under way: the stages that run, how far they are, how they ended."""

import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from nclib.study.files import json_or_empty
from nclib.study.progress import PROGRESS_FILE
from nclib.study.stage import Stage

WIDTH = 80  # columns of what people read
LINE_SECONDS = 20.0  # between two progress lines where the output is no terminal


class Watch:
    """Shows the stages that run: a line when one begins and ends, and on a terminal one that changes meanwhile.

    Args:
        stages: all that may run.
        session: folder in which each finished stage has a file, by its key.

    Attributes:
        epochs: finished epochs of each training that has begun, by run and seed.
    """

    def __init__(self, stages: Sequence[Stage], session: Path) -> None:
        self.stages, self.session = stages, session
        self.epochs: dict[str, int] = {}
        self._began: dict[str, float] = {}  # moment, by key of a running stage
        self._lines: dict[str, tqdm] = {}
        self._seen = {stage.key: _times(stage) for stage in stages}
        self._printed = time.monotonic()

    def look(self) -> None:
        """Look at the files once and show what has changed."""
        for stage in self.stages:
            self._begin_or_end(stage)
        texts = {stage.key: self._progress(stage) for stage in self.stages if stage.key in self._began}
        if sys.stderr.isatty():
            for key, text in texts.items():
                if key not in self._lines:
                    self._lines[key] = tqdm(leave=False, dynamic_ncols=True, bar_format="{desc}")
                self._lines[key].set_description_str(f"running  {text or f'{key}, {self._seconds(key):.0f} s'}")
        elif time.monotonic() - self._printed > LINE_SECONDS:
            self._printed = time.monotonic()
            for text in filter(None, texts.values()):
                _print(f"         {text}")

    def close(self) -> None:
        for line in self._lines.values():
            line.close()

    def _begin_or_end(self, stage: Stage) -> None:
        """A stage's log is made when it begins; its file in the session when it has ended well."""
        key, times = stage.key, _times(stage)
        if key not in self._began:
            if times[0] != self._seen[key][0]:
                self._began[key] = time.monotonic()
                if not sys.stderr.isatty():
                    _print(f"running  {key}")
            return
        ended = "done" if (self.session / key).exists() else "failed" if times[1] > self._seen[key][1] else ""
        if ended:
            if key in self._lines:
                self._lines.pop(key).close()
            _print(f"{ended:8} {key} ({self._seconds(key):.0f} s)")
            self._seen[key] = times
            del self._began[key]
            self.epochs.pop(key.removesuffix(f"/{stage.name}"), None)

    def _seconds(self, key: str) -> float:
        return time.monotonic() - self._began[key]

    def _progress(self, stage: Stage) -> str:
        """How far a stage is, if that is known: a training, or one that draws a bar, as for a download."""
        place = stage.key.removesuffix(f"/{stage.name}")
        if stage.name == "02_train" and (state := json_or_empty(stage.folder / PROGRESS_FILE)):
            self.epochs[place] = state["epoch"]
            return f"{place}: {state['text']}"
        bar = _last_bar(stage.folder / f"{stage.name}.log")
        return f"{place}: {bar}" if bar else ""


def _print(line: str) -> None:
    tqdm.write(line, file=sys.stderr)


def _times(stage: Stage) -> tuple[int, int]:
    """When a stage's log and its report of a failure were written."""
    return _modified(stage.folder / f"{stage.name}.log"), _modified(stage.folder / f"{stage.name}.failed.json")


def _modified(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_mtime_ns
    return 0


def _last_bar(log: Path) -> str:
    """The last state of the last progress bar in a log."""
    with suppress(OSError):
        bars = re.findall(r"[^\r\n]*%\|[^\r\n]*", log.read_text(errors="replace"))
        return bars[-1].strip() if bars else ""
    return ""


def say(text: str) -> None:
    """Print for people: on a terminal wrapped, into a log line by line."""
    lines = text.split("\n")
    if sys.stderr.isatty():
        width = min(WIDTH, shutil.get_terminal_size().columns)
        wrap = textwrap.TextWrapper(width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        lines = [wrap.fill(line) for line in lines]
    print("\n".join(lines), file=sys.stderr, flush=True)


def report_failures(folder: Path, *, since: float) -> bool:
    """Print each notebook below `folder` that failed after the time `since`, its error and where its executed copy is.

    Returns:
        Whether there is any.
    """
    reports = sorted(path for path in folder.rglob("0*.failed.json") if path.stat().st_mtime >= since)
    if reports:
        say("\nFailed notebooks (executed copies kept):")
    for report in reports:
        facts = json_or_empty(report)
        say(f"  {os.path.relpath(facts.get('executed') or report)}\n    {facts.get('error')}")
    return bool(reports)
