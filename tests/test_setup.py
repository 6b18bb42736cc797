"""The dependencies, their lock, and the Makefile that installs them and hands on what it is given."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tests.small_project import wait_for

ROOT = Path(__file__).parent.parent
LOCKS = ("requirements.lock", ".venv/requirements.lock")  # of everything, and without torch


def dependencies() -> list[str]:
    """All that `.[dev]` asks for, without its reference to the package's own extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own, *dev = project["optional-dependencies"]["dev"]
    assert own == f"{project['name']}[companion]"
    return [*project["dependencies"], *project["optional-dependencies"]["companion"], *dev]


def requirements(lines) -> dict[str, str]:
    return dict(re.fullmatch(r"([A-Za-z0-9_-]+)(.*)", line.strip()).groups() for line in lines)


def test_conda_and_pip_name_the_same_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    from_pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    conda = requirements([entry for entry in listed if isinstance(entry, str)] + [p for p in from_pip if p != "-e ."])
    conda["torch"] = conda.pop("pytorch")
    assert conda.pop("python") == project["requires-python"]
    del conda["pip"]
    assert conda == requirements(dependencies())


def test_the_lock_has_every_dependency_with_hashes_and_names_no_registry():
    lock = (ROOT / "requirements.lock").read_text()
    packages = re.split(r"\n(?=[a-z])", re.sub(r"(?m)^#.*\n", "", lock))
    pins = dict(re.match(r"([a-z0-9.-]+)==([^ ;]+)", package).groups() for package in packages)
    assert len(pins) == len(packages)
    for package in packages:
        assert re.search(r"\\\n    --hash=sha256:[0-9a-f]{64}", package), package
    assert not re.search(r"://|--(extra-)?index-url|--find-links", lock)
    docs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["docs"]
    for wanted in map(Requirement, [*dependencies(), *docs]):
        assert wanted.specifier.contains(pins[wanted.name]), wanted


OUTER = ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "MAKELEVEL", "PYTEST", "WORKERS")
CLEAN = {name: value for name, value in os.environ.items() if name not in OUTER}  # what a `make test` hands on


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(["make", *arguments], cwd=cwd, env=CLEAN, capture_output=True, text=True)


def words_after(start: str, recipe: str) -> list[str]:
    return shlex.split(recipe.split(start)[1].replace("\\\n", " "))


def test_make_help_names_every_target_and_variable():
    text, shown = (ROOT / "Makefile").read_text(), make("help").stdout
    targets = re.search(r"(?m)^\.PHONY: (.*)", text)[1].split()
    assert set(targets) == set(re.findall(r"(?m)^([a-z-]+):(?!=)", text))
    variables = re.search(r"(?m)^VARIABLES = (.*)", text)[1].split()
    assert variables == re.findall(r"(?m)^([A-Z_]+) \?=", text)
    assert [name for name in targets if not re.search(rf"make {name}\b", shown) and name != "help"] == []
    assert [name for name in variables if not re.search(rf"\b{name}=", shown)] == []
    assert [line for line in shown.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("given", ["study=params/mse_digits.yaml", "SMOK=1", "CORE=2"])
def test_make_refuses_a_variable_that_there_is_not(given):
    refused = make("--dry-run", given, "reproduce")
    assert refused.returncode == 2
    assert f"unknown variable {given.split('=')[0]}; there are PYTHON STUDY" in refused.stderr
    assert not refused.stdout


def test_make_reproduce_hands_on_what_it_is_given():
    def command(*given: str) -> list[str]:
        done = make("--dry-run", "reproduce", *given)
        assert done.returncode == 0, done.stderr
        return words_after("-m nclib", done.stdout)

    default = ["reproduce", "params/mlab_digits.yaml", "--cores", "all", "--outputs", "outputs"]
    assert command() == command("SMOKE=0") == default
    assert command("SMOKE=1", "KEEP_CODE=1") == [*default, "--smoke", "--keep-code"]
    given = command("STUDY=a.yaml", "CORES=2", "OUTPUTS=o", "RUNS=a b", "GPU_RUNS=2", "PROFILE=slurm")
    others = ["--runs", "a b", "--gpu-runs", "2", "--profile", "slurm"]
    assert given == ["reproduce", "a.yaml", "--cores", "2", "--outputs", "o", *others]


def test_an_interrupt_ends_make_silently(tmp_path):
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\ntrap 'exit 130' INT\necho begun\nwhile :; do sleep 0.05; done\n")
    python.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/.ready").touch()
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(["make", "reproduce"], cwd=tmp_path, env=CLEAN, **options) as running:
        assert running.stdout.readline() == "begun\n"
        os.killpg(running.pid, signal.SIGINT)
        assert running.communicate() == ("", "")
    assert running.returncode == -signal.SIGINT, "130 in a shell"


@pytest.fixture
def fresh(tmp_path):
    """A copy of what `make setup` reads, a Python that makes a .venv with pip; pip and uv only log."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "python").write_text("#!/bin/sh\n[ $1 = -c ] || { mkdir -p .venv/bin; cp pip .venv/bin; }\n")
    (tmp_path / "uv").write_text('#!/bin/sh\necho "$@"; seq 30; [ ! -e offline ]\n')
    (tmp_path / "pip").write_text('#!/bin/sh\necho pip "$@"; [ "$6" != .venv/requirements.lock ] || cp uv .venv/bin\n')
    for name in ("python", "uv", "pip"):
        (tmp_path / name).chmod(0o755)
    return tmp_path


def setup(folder: Path, *given: str) -> tuple[subprocess.CompletedProcess, list[str]]:
    """The finished command, and what uv was asked for."""
    done = make("setup", "PYTHON=./python", "UV=./uv", *given, cwd=folder)
    return done, re.findall(r"pip install --python \.venv/bin/python (.*)", (folder / ".venv/setup.log").read_text())


def test_setup_installs_the_lock_and_says_one_line(fresh):
    done, installed = setup(fresh)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"Setting up .venv once: about two minutes on a fast network, and \d GB .*\n", done.stdout)
    assert not done.stderr
    locked = "--no-deps --require-hashes --requirement requirements.lock"
    assert installed == [locked, "--no-deps --no-build-isolation --editable ."]


def test_setup_fetches_uv_or_does_without(fresh):
    def log() -> str:
        shutil.rmtree(fresh / ".venv", ignore_errors=True)
        assert make("setup", "PYTHON=./python", "UV=.venv/bin/uv", cwd=fresh).returncode == 0
        return (fresh / ".venv/setup.log").read_text()

    by_pip = "pip install --disable-pip-version-check"
    fetched = log()
    assert fetched.startswith(f"{by_pip} --no-deps --require-hashes --requirement .venv/requirements.lock\n")
    assert "\npip install --python .venv/bin/python --no-deps" in fetched
    (fresh / "uv").unlink()  # pip cannot get it
    assert log().count(f"{by_pip} --no-deps") == 3


def test_setup_with_another_torch_takes_the_rest_from_the_lock(fresh):
    done, installed = setup(fresh, "TORCH=torch==2.11.0 torchvision==0.26.0", "TORCH_INDEX=file:///cpu")
    assert done.returncode == 0, done.stderr
    assert installed[0] == "--index-url file:///cpu torch==2.11.0 torchvision==0.26.0"
    assert installed[1] == "--no-deps --require-hashes --requirement .venv/requirements.lock"
    every, rest = (re.findall(r"(?m)^([a-z0-9.-]+)==", (fresh / name).read_text()) for name in LOCKS)
    assert {"torch", "torchvision", "triton"} <= set(every) - set(rest)
    assert "torchmetrics" in rest
    assert all(re.match("torch|torchvision|triton|nvidia-|cuda-", name) for name in set(every) - set(rest))
    refused = make("setup", "TORCH=torch==2.12.0", cwd=fresh)
    assert refused.returncode == 2
    assert ".venv holds another torch than TORCH and TORCH_INDEX ask for: run `make clean` first" in refused.stderr


def test_a_failed_setup_shows_the_end_of_its_log_and_is_not_taken_for_done(fresh):
    (fresh / "offline").touch()
    done, _ = setup(fresh)
    assert done.returncode == 2
    assert done.stderr.startswith("11\n12\n")
    assert "30\nSetting up .venv failed; the whole log is .venv/setup.log\n" in done.stderr
    (fresh / "offline").unlink()
    assert setup(fresh)[0].returncode == 0


def listens(host: str, port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex((host, port)) == 0


@pytest.mark.slow
def test_make_lab_serves_this_machine_alone_and_asks_for_a_token(tmp_path):
    dry = make("--dry-run", "lab").stdout
    given = words_after("jupyter lab", dry)
    command = [sys.executable, "-m", "jupyter", "lab", *given, "--no-browser", "--ServerApp.port=0"]
    home = {"JUPYTER_RUNTIME_DIR": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path)}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **home}, stdout=log, stderr=log)
    try:
        wait_for(lambda: list(tmp_path.glob("jpserver-*.json")), 100)
        facts = json.loads(next(tmp_path.glob("jpserver-*.json")).read_text())
        assert facts["hostname"] == "127.0.0.1"
        assert len(facts["token"]) >= 32
        wait_for(lambda: listens(facts["hostname"], facts["port"]), 100)  # its file comes first
        contents = f"{facts['url']}api/contents"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(contents)
        with urllib.request.urlopen(f"{contents}?token={facts['token']}") as answer:
            assert answer.status == 200
    finally:
        server.terminate()
        server.wait()
