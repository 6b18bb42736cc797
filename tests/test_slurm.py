"""A study on a real Slurm: what its jobs ask for, and that no killed job, launcher or node's daemon costs a result."""

import json
import os
import platform
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from filelock import SoftFileLease

from nclib.study import cluster
from nclib.study.files import StageError, json_or_empty
from nclib.training import lease
from tests.slurm_node import slurm_node
from tests.small_project import SMALL, Project, wait_for

pytestmark = pytest.mark.slow
TRAINING = SMALL["training"] | {"epochs": 40, "checkpoint_every": 20}
OPTIONS = ("--", "--set-threads", "train=2", "validate=2", "--seconds-between-status-checks", "1", "--retries", "4")
MOMENTS = (0, random.Random(0).uniform(0, 6))  # seconds from a job's start until it is killed


@pytest.fixture(scope="module")
def node():
    with slurm_node() as folder:
        yield folder


def ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def trainings() -> list[str]:
    """Ids of the running training jobs."""
    jobs = ask("squeue", "--noheader", "--states=RUNNING", "--format=%i %j").split("\n")
    return [job.split()[0] for job in jobs if job.endswith("small/learned/seed0/02_train")]


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_killed_jobs_and_a_killed_launcher_cost_nothing(node, tmp_path):
    alone, project = Project(tmp_path / "alone"), Project(tmp_path / "cluster")
    for one in (alone, project):
        one.write(training=TRAINING)
    undisturbed = subprocess.Popen(alone.command(), cwd=alone.folder, stdout=subprocess.DEVNULL)

    head = subprocess.Popen(
        project.command("--profile", "slurm", *OPTIONS),
        cwd=project.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    place = project.outputs / "learned/seed0/unfinished"
    wait_for(lambda: trainings() and list(place.glob("*/state_*.safetensors")))
    (first,) = trainings()
    asked = ask("scontrol", "show", "job", first)
    for demand in ("TresPerNode=gres:gpu:1", "CPUs/Task=2", "MinMemoryNode=16000M", "TimeLimit=1-00:00:00"):
        assert demand in asked
    last = first
    for delay in MOMENTS:
        time.sleep(delay)
        ask("scancel", "--signal=KILL", "--full", last)
        wait_for(lambda last=last: trainings() not in ([], [last]))  # sent once more, by itself
        (last,) = trainings()
    launched = [head, *psutil.Process(head.pid).children()]
    for process in launched:
        process.send_signal(signal.SIGKILL)
    head.wait()
    assert trainings() == [last], "Slurm's jobs outlive the launcher"

    done = project.run("--profile", "slurm", *OPTIONS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"canceled what a killed run had left in Slurm's queue: {last}" in done.stderr
    assert undisturbed.wait(timeout=300) == 0
    assert project.results() == alone.results()
    logs = {path.name.rpartition("-")[0] for path in (project.outputs / "slurm").iterdir()}
    assert logs == {"datasets-digits-01_dataset", "learned-seed0-02_train", "learned-seed0-03_validate", "04_figures"}
    assert not cluster.jobs(project.outputs)


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_a_job_that_runs_on_two_nodes_trains_once(tmp_path):
    """A node's daemon is killed, its training is not: Slurm takes the node for down and starts the job on another."""
    project, alone = Project(tmp_path / "cluster"), Project(tmp_path / "alone")
    run, logs = project.outputs / "learned/seed0", {name: tmp_path / f"{name}.log" for name in ("n1", "n2")}
    owners: set[str | None] = set()

    def notebook(stage: str, out: str) -> list[str]:
        given = json.dumps({"study": "small.yaml", "run": "learned", "seed": 0})
        return [sys.executable, "-m", "nclib", "notebook", f"notebooks/{stage}.ipynb", f"{out}.ipynb", given]

    def unfinished() -> bool:
        """Whether the first one trains; notes whose the lease is until then."""
        owner = SoftFileLease(run / lease.FILE).owner
        if (run / "02_train.manifest.json").exists():
            return False
        owners.add(owner and owner.token)
        return True

    for one in (project, alone):
        one.write(training=TRAINING | {"epochs": 20})
    dataset = subprocess.Popen(notebook("01_dataset", "data"), cwd=project.folder, stdout=subprocess.DEVNULL)
    with slurm_node(tuple(logs), timeout=5) as base:
        assert dataset.wait(timeout=300) == 0
        shutil.copytree(project.outputs, alone.outputs)
        script = f"exec {shlex.join(notebook('02_train', 'OUT'))} > {tmp_path}/OUT.log 2>&1"
        submit = ["sbatch", "--parsable", "--requeue", f"--chdir={project.folder}", f"--output={tmp_path}/job.log"]
        job = ask(*submit, "--wrap", script.replace("OUT", "$SLURMD_NODENAME")).strip()

        def state() -> str:
            return ask("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T %N").strip()

        wait_for(lambda: list(run.glob("unfinished/*/state_*.safetensors")))
        first = psutil.Process(SoftFileLease(run / lease.FILE).pid)
        first.suspend()  # so that it is in the midst of its training when the second one comes, however slow Slurm is
        assert unfinished()
        assert state() == "RUNNING n1"
        os.kill(int((base / "slurmd.n1.pid").read_text()), signal.SIGKILL)
        assert subprocess.run(notebook("02_train", "alone"), cwd=alone.folder, capture_output=True).returncode == 0
        said = f"Process {first.pid} on {platform.node()} is training in "
        wait_for(lambda: unfinished() and logs["n2"].exists() and said in logs["n2"].read_text())
        assert state() == "RUNNING n2"
        first.resume()
        wait_for(lambda: not unfinished())
        wait_for(lambda: state() == "COMPLETED n2")
    assert len(owners) == 1
    assert "going on after epoch" not in logs["n2"].read_text()
    assert len(json_or_empty(run / "02_train.manifest.json")["sittings"]) == 1
    assert not (run / lease.FILE).exists()
    assert project.results() == alone.results()


def test_only_the_studys_own_jobs_are_canceled(node, tmp_path):
    mine, other = tmp_path / "mine", tmp_path / "mine_too"
    (mine / cluster.JOBS).mkdir(parents=True)
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\nsleep 60\n")
    submit = str(Path(__file__).parent.parent / "profiles/slurm/submit.sh")
    ids = {}
    for folder in (mine, other):
        log = f"{tmp_path}/{folder.name}/run/seed0/02_train.log"
        ids[folder] = ask(submit, str(folder), str(tmp_path), log, "1", "100", "5", "0", str(script)).strip()
    assert cluster.cancel_left_jobs(mine) == [ids[mine]]
    assert cluster.jobs(other) == [ids[other]]
    assert ask("squeue", "--noheader", f"--jobs={ids[other]}", "--format=%j|%b").strip() == (
        "mine_too/run/seed0/02_train|N/A"
    )
    ask("scancel", ids[other])


def test_status_in_snakemakes_words(node, tmp_path):
    status = str(Path(__file__).parent.parent / "profiles/slurm/status.sh")
    submit = ["sbatch", "--parsable", f"--output={tmp_path}/log"]
    good, bad = (ask(*submit, "--wrap", script).strip() for script in ("true", "exit 3"))
    waiting = ask(*submit, "--hold", "--wrap", "true").strip()
    wait_for(lambda: ask(status, good).strip() == "success", 30)
    wait_for(lambda: ask(status, bad).strip() == "failed", 30)
    assert ask(status, waiting) == "running\n"
    ask("scancel", waiting)
    assert ask(status, waiting) == "failed\n"


def test_a_silent_slurm_is_no_reason_to_submit_twice(tmp_path, monkeypatch):
    folder = tmp_path / "study"
    (folder / cluster.JOBS).mkdir(parents=True)
    squeue = tmp_path / "squeue"
    squeue.write_text(
        f"#!{sys.executable}\nimport sys\nsys.exit('slurm_load_jobs error: Unable to contact controller')\n"
    )
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(StageError, match=r"Slurm cannot be asked .*Unable to contact.*try again when squeue answers"):
        cluster.cancel_left_jobs(folder)
    status = Path(__file__).parent.parent / "profiles/slurm/status.sh"
    assert ask(str(status), "7") == "running\n"
