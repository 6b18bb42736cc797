"""Two trainings never write into one run: real processes, one of them stopped and woken."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nclib.study.files import StageError, is_alive, json_or_empty, write_json
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
    write_json(own.path.with_suffix(".claim"), own._own | {"process": ended.pid})
    own.take()
    own.release()
    assert capsys.readouterr().out == "", "at once"
    ended.wait()
    elsewhere = {"token": "another", "machine": "elsewhere", "process": ended.pid}
    for name, left in ((lease.FILE, elsewhere), (lease.FILE, {}), ("02_train.lease.claim", {})):
        write_json(tmp_path / name, left)
        silent = Lease(tmp_path)
        start = time.monotonic()
        silent.take()
        assert time.monotonic() - start >= lease.SILENCE
        silent.release()
    assert not list(tmp_path.iterdir())


def test_of_many_that_wait_one_takes_over(tmp_path, quick):
    write_json(tmp_path / lease.FILE, {"token": "silent"})
    working = []

    def work(number: int) -> int:
        own = Lease(tmp_path)
        own.take()
        working.append(number)
        assert working == [number]
        own.check()
        working.remove(number)
        own.release()
        return number

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(work, range(8))) == [*range(8)]
    assert not list(tmp_path.iterdir())


def test_what_was_seen_before_is_no_leave_to_take_over(tmp_path, quick):
    """As of a process that is stopped after it has waited, and wakes when another one trains."""
    write_json(tmp_path / lease.FILE, {"token": "silent"})
    first, second = Lease(tmp_path), Lease(tmp_path)
    left = second._wait(second.path)
    first.take()
    assert not second._replace(left)
    assert first.holds()
    write_json(first.path, second._own)
    before = first.path.stat()
    time.sleep(4 * lease.HEARTBEAT)
    assert first.path.stat() == before, "the heart of an owner beats for its own lease alone"


def test_an_interrupt_gives_the_lease_back_or_stops_waiting(tmp_path, quick, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Unfinished(tmp_path, {}):
        interrupt()
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(threading.Thread, "start", interrupt)
        Lease(tmp_path).take()
    assert not list(tmp_path.iterdir())
    with Unfinished(tmp_path, {}) as unfinished, monkeypatch.context() as patch:
        patch.setattr(time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            Lease(tmp_path).take()
        assert unfinished.lease.holds()


def test_a_full_and_a_read_only_disk_are_said(small_disk, quick):
    held = Lease(small_disk / "held")
    held.take()
    progress = TrainingProgress(held, label="", epochs=1)
    progress.start(1, [])
    progress.step()
    (small_disk / "rest").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    with pytest.raises(StageError, match=r"Cannot write .*lease.json: No space left on device; free some space"):
        Lease(small_disk).take()
    assert {path.name for path in small_disk.iterdir()} == {"held", "rest"}
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StageError, match=r"Cannot write .*lease.json: Read-only file system; that disk is read-only"):
        Lease(small_disk / "new").take()
    progress._write()
    progress.close()
    held.release()
