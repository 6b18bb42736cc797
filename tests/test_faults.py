"""Whatever happens to a study, the same one command afterwards ends with the results of a run that was left alone."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from nclib.study.launcher import BUSY
from nclib.study.runner import NotebookError, run_notebook
from tests.small_project import SMALL, Project, wait_for
from tests.test_notebook import write as write_notebook

TRAINING = SMALL["training"] | {"epochs": 20, "checkpoint_every": 5}
OPTIONS = ("--cores", "1")  # two studies at once, and sums in one order
KINDS = ("launcher", "snakemake", "runner", "kernel")
KILLS = 20
pytestmark = [pytest.mark.stress, pytest.mark.timeout(900)]


def new_project(folder: Path) -> Project:
    project = Project(folder)
    project.write(training=TRAINING)
    return project


def start(project: Project) -> psutil.Popen:
    return psutil.Popen(
        project.command(*OPTIONS), cwd=project.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A finished study; at its start a second invocation has been refused."""
    project = new_project(tmp_path_factory.mktemp("undisturbed"))
    first = start(project)
    wait_for((project.outputs / ".lock").exists)
    second = project.run(*OPTIONS)
    assert first.wait(timeout=280) == 0
    project.second = second
    return project


@pytest.fixture
def finished(undisturbed, tmp_path):
    """A copy of it, to be damaged."""
    shutil.copytree(undisturbed.folder, tmp_path / "copy")
    project = Project.__new__(Project)
    project.folder, project.outputs = tmp_path / "copy", tmp_path / "copy/outputs/small"
    return project


def test_of_two_invocations_at_once_one_refuses(undisturbed):
    assert undisturbed.second.returncode == BUSY
    assert "is in use by another run" in undisturbed.second.stderr
    assert undisturbed.run(*OPTIONS).returncode == 0


def descend(launcher: psutil.Popen) -> dict[str, psutil.Process]:
    """The processes of a run, by kind; each is the child of the one before."""
    found, process = {"launcher": launcher}, launcher
    for kind in KINDS[1:]:
        try:
            children = [c for c in process.children() if kind in "".join(c.cmdline()) or kind in ("runner", "kernel")]
        except psutil.NoSuchProcess:
            break
        if not children:
            break
        found[kind] = process = children[0]
    return found


def kill_one(launcher: psutil.Popen, kind: str, delay: float) -> bool:
    """Kill a process of `kind`, `delay` seconds after the first was there; False if the run ended before."""
    waiting = True
    while launcher.poll() is None:
        found = descend(launcher)
        if kind in found and waiting:
            time.sleep(delay)
            waiting = False
        elif kind in found:
            everything = [launcher, *launcher.children(recursive=True)]
            try:
                found[kind].send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
            _, alive = psutil.wait_procs(everything, timeout=30)
            assert not alive, f"{alive} survive their {kind}"
            return True
        time.sleep(0.02)
    return False


def kill_and_run_again(folder: Path, kinds: list[str], seed: int, expected: dict[str, str]) -> int:
    project, moments, kills = new_project(folder), random.Random(seed), 0
    while kills < len(kinds):
        launcher = start(project)
        delay = moments.uniform(0, 3)
        if kill_one(launcher, kinds[kills], delay):
            kills += 1
        else:  # it was finished: once more from the start
            assert launcher.wait() == 0
            assert project.results() == expected
            shutil.rmtree(project.outputs)
    last = project.run(*OPTIONS)
    assert last.returncode == 0, last.stdout + last.stderr
    assert project.results() == expected
    assert not list(project.outputs.rglob("*.tmp"))
    assert not list(project.outputs.rglob(".0*.ipynb"))
    return kills


def test_twenty_kills_at_random_moments_cost_nothing(undisturbed, tmp_path):
    kinds = [*KINDS] * (KILLS // len(KINDS))
    random.Random(0).shuffle(kinds)
    halves, expected = (kinds[::2], kinds[1::2]), undisturbed.results()
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(kill_and_run_again, tmp_path / str(i), halves[i], i, expected) for i in range(2)]
        assert sum(job.result() for job in jobs) == KILLS


@pytest.mark.skipif(os.geteuid() != 0, reason="a small tmpfs can be mounted by root only")
def test_a_full_and_a_read_only_disk_are_said_and_then_overcome(undisturbed, small_disk, tmp_path):
    project = new_project(tmp_path / "project")
    project.outputs = small_disk / "small"
    filler = small_disk / "filler"
    filler.write_bytes(bytes(900_000))
    full = project.run(*OPTIONS, "--outputs", str(small_disk))
    assert full.returncode == 1
    assert "No space left on device" in full.stderr
    (small_disk / "small" / ".lock").write_text("")
    (small_disk / "rest").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    fuller = project.run(*OPTIONS, "--outputs", str(small_disk))
    assert fuller.returncode == 2
    assert "No space left on device" in fuller.stderr
    assert fuller.stderr.count("\n") == 1
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    refused = project.run(*OPTIONS, "--outputs", str(small_disk))
    assert refused.returncode == 2
    assert "that disk is read-only: choose another folder" in refused.stderr
    assert refused.stderr.count("\n") == 1
    subprocess.run(["mount", "-o", "remount,rw,size=64m", small_disk], check=True)
    done = project.run(*OPTIONS, "--outputs", str(small_disk))
    assert done.returncode == 0, done.stdout + done.stderr
    assert project.results() == undisturbed.results()


def flip(path: Path) -> Path:
    """Turn one bit around in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 4
    path.write_bytes(content)
    return path


def test_a_damaged_checkpoint_is_named_and_made_again(finished, undisturbed):
    run = finished.outputs / "learned/seed0"
    damaged = flip(run / "checkpoints/epoch_0010.safetensors")
    (run / "03_validate.manifest.json").unlink()
    before = (run / "metrics.csv").read_bytes()
    failed = finished.run(*OPTIONS)
    assert failed.returncode == 1
    assert "epoch_0010.safetensors is damaged" in failed.stderr
    assert "delete it and run stage 02_train again" in failed.stderr
    assert "learned/seed0/03_validate.failed.ipynb" in failed.stderr
    assert (run / "metrics.csv").read_bytes() == before
    damaged.unlink()
    assert finished.run(*OPTIONS).returncode == 0
    assert finished.results() == undisturbed.results()


def test_times_of_files_decide_nothing(finished):
    """As after `git checkout`, a copy in another order, or a clock that was set."""
    for place, path in enumerate(sorted(finished.outputs.rglob("*"))):
        moment = time.time() + 1e8 if place % 2 else 1e9
        os.utime(path, (moment, moment))
    shutil.rmtree(finished.folder / ".snakemake")
    before = finished.manifests()
    assert finished.run(*OPTIONS).returncode == 0
    assert finished.manifests() == before


def test_a_killed_kernel_and_a_raising_notebook_are_reported_as_such(finished):
    notebook = finished.folder / "notebooks/04_figures.ipynb"
    source = notebook.read_text()
    for ending, said in {
        "import os; os.kill(os.getpid(), 9)": "its kernel was killed, most often because memory ran out",
        "raise ValueError('on purpose')": "ValueError: on purpose",
    }.items():
        cells = json.loads(source)
        cells["cells"][-1]["source"] = ending
        notebook.write_text(json.dumps(cells))
        failed = finished.run(*OPTIONS)
        assert failed.returncode == 1
        assert f"04_figures.failed.ipynb\n    {said}" in failed.stderr
        assert (finished.outputs / "table.md").is_file()


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9)); x = bytearray(10**10)", "MemoryError"),
        ("import signal; signal.raise_signal(signal.SIGSEGV)", "its kernel ended by signal SIGSEGV"),
        ("import os; os._exit(3)", "its kernel ended with status 3"),
    ],
)
def test_how_a_kernel_ended_is_said(tmp_path, cell, said):
    notebook = write_notebook(tmp_path / "a.ipynb", f"import resource; resource.setrlimit(4, (0, 0)); {cell}")
    with pytest.raises(NotebookError, match=said):
        run_notebook(notebook, tmp_path / "b.ipynb", {})
