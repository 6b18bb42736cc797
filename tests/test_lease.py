"""Two trainings never write into one run: real processes, one of them stopped and woken."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nclib.study.files import StageError, is_alive, json_or_empty, write_json
from nclib.training import lease
from nclib.training.lease import Lease
from tests.small_project import wait_for

TRAINING = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_train as t
from nclib.training import lease
lease.SILENCE, lease.HEARTBEAT = 2.0, 0.1
splits = t.dataset.build(source="digits", layout="mnist", train_counts={{1: 6, 2: 1}}, test_counts={{1: 3, 2: 1}})
t.run(splits, Path(sys.argv[1]), epochs=30)
"""


def start(folder: Path) -> subprocess.Popen:
    code = TRAINING.format(tests=str(Path(__file__).parent))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-u", "-c", code, folder],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def epochs_done(folder: Path) -> int:
    found = list((folder / "unfinished").glob("*/training.json"))
    return len(json_or_empty(found[0]).get("history", ())) if found else 0


def test_a_stopped_training_is_taken_over_and_finds_so_when_it_wakes(tmp_path):
    whole, first = start(tmp_path / "whole"), start(tmp_path / "run")
    wait_for(lambda: epochs_done(tmp_path / "run") > 1)
    first.send_signal(signal.SIGSTOP)
    second = start(tmp_path / "run")
    said, _ = second.communicate(timeout=200)
    assert second.returncode == 0, said
    assert f"Process {first.pid} on " in said and "this one waits until it ends" in said
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("run/**/*")}
    first.send_signal(signal.SIGCONT)
    said, _ = first.communicate(timeout=200)
    assert first.returncode == 1
    assert "has taken over the training" in said and "this one stops, and leaves its files to that one" in said
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("run/**/*")} == before, "nothing was written"
    said, _ = whole.communicate(timeout=200)
    assert whole.returncode == 0, said
    of_run, of_whole = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "checkpoints").iterdir()}
        for name in ("run", "whole")
    )
    assert of_run == of_whole


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lease, "SILENCE", 0.3)
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)


def test_a_lease_is_waited_for_and_then_held_alone(tmp_path, quick, capsys):
    first, second = Lease(tmp_path), Lease(tmp_path)
    first.take()
    time.sleep(2 * lease.SILENCE)
    assert first.holds(), "its heart beats"
    first.check()
    first.release()
    second.take()
    assert capsys.readouterr().out == "", "nobody had to wait"
    with pytest.raises(StageError, match=rf"Process {os.getpid()} on .* has taken over the training"):
        first.check()
    first.release()
    assert second.holds(), "only its own lease is released"
    second.release()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_training_left_is_taken_over(tmp_path, quick, capsys):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    while is_alive(ended.pid):  # ended, though not waited for
        time.sleep(0.01)
    own = Lease(tmp_path)
    write_json(own.path, own._own | {"token": "another", "process": ended.pid})
    own.take()
    own.release()
    assert capsys.readouterr().out == "", "at once"
    ended.wait()
    for left in ({"token": "another", "host": "elsewhere"}, {}):
        write_json(own.path, left)
        silent = Lease(tmp_path)
        start = time.monotonic()
        silent.take()
        assert time.monotonic() - start >= lease.SILENCE
        silent.release()
