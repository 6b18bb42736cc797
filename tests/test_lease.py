"""Two trainings never write into one run: real processes, one of them stopped and woken, one killed."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nclib.study.files import StageError, json_or_empty
from nclib.training import lease
from nclib.training.lease import Lease
from nclib.training.progress import TrainingProgress
from nclib.training.resume import Unfinished
from tests.small_project import wait_for

TRAINING = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_train as t
from nclib.training import lease
lease.SILENCE = 2.0
splits = t.dataset.build(source="digits", layout="mnist", train_counts={{1: 6, 2: 1}}, test_counts={{1: 3, 2: 1}})
t.run(splits, Path(sys.argv[1]), epochs=50)
"""
HOLDING = """
import sys, time
from pathlib import Path
from nclib.training import lease
held = lease.Lease(Path(sys.argv[1]))
held.take()
time.sleep(600)
"""


def start(code: str, folder: Path) -> subprocess.Popen:
    options = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-u", "-c", code, folder], stdout=subprocess.PIPE, **options)


def epochs_done(folder: Path) -> int:
    found = list((folder / "unfinished").glob("*/training.json"))
    return len(json_or_empty(found[0]).get("history", ())) if found else 0


def test_a_stopped_training_is_taken_over_and_finds_so_when_it_wakes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lease, "SILENCE", 2.0)
    first = start(TRAINING.format(tests=str(Path(__file__).parent)), tmp_path)
    wait_for(lambda: epochs_done(tmp_path) > 0, 100)
    first.send_signal(signal.SIGSTOP)
    second = Lease(tmp_path)
    second.take()
    assert f"Process {first.pid} on " in (said := capsys.readouterr().out) and "this one waits until it ends" in said
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("unfinished/**/*")}
    first.send_signal(signal.SIGCONT)
    said, _ = first.communicate(timeout=100)
    assert first.returncode == 1
    assert f"Process {os.getpid()} on " in said and "has taken over the training" in said
    assert "this one stops, and leaves its files to that one" in said
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("unfinished/**/*")} == before, "nothing was written"
    second.check()
    second.release()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lease, "SILENCE", 0.3)


def test_a_lease_is_waited_for_and_then_held_alone(tmp_path, quick, capsys):
    first, second = Lease(tmp_path), Lease(tmp_path)
    first.take()
    waiting = threading.Thread(target=second.take)
    waiting.start()
    time.sleep(2 * lease.SILENCE)
    first.check()
    assert not second.holds(), "the heart of the first one beats"
    first.release()
    waiting.join()
    assert capsys.readouterr().out.count(f"Process {os.getpid()} on ") == 1
    with pytest.raises(StageError, match=rf"Process {os.getpid()} on .* has taken over the training"):
        first.check()
    first.release()
    assert second.holds(), "only its own lease is released"
    second.release()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_training_left_is_taken_over_at_once(tmp_path, capsys):
    killed = start(HOLDING, tmp_path)
    wait_for((tmp_path / lease.FILE).exists, 60)
    killed.kill()
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)  # ended, though not waited for
    own = Lease(tmp_path)
    own.take()
    own.release()
    assert capsys.readouterr().out == ""
    killed.communicate()


def test_an_interrupt_gives_the_lease_back(tmp_path):
    with pytest.raises(KeyboardInterrupt), Unfinished(tmp_path, {}):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_full_and_a_read_only_disk_are_said(small_disk, quick):
    held = Lease(small_disk / "held")
    held.take()
    progress = TrainingProgress(held.path.parent, label="", epochs=1, score="soft_iou")
    progress.start(1, [])
    progress.step()
    (small_disk / "rest").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    with pytest.raises(StageError, match=r"Cannot write .*02_train.lease: No space left on device; free some space"):
        Lease(small_disk).take()
    assert {path.name for path in small_disk.iterdir()} == {"held", "rest"}
    progress._write()
    progress.close()
    held.release()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StageError, match=r"Cannot write .*lease: Read-only file system; that disk is read-only"):
        Lease(small_disk / "new").take()
