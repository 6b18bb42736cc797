"""The chain from a study file to figures, run for real, and what used to go wrong with such chains."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from nclib.__main__ import main
from nclib.study import launcher
from nclib.study.launcher import scratch_folder
from nclib.study.progress import PROGRESS_FILE
from nclib.study.registry import SOURCES
from nclib.study.stage import stages, to_do
from nclib.study.study import Study
from tests.small_project import ROOT, SMALL, Project, wait_for

STAGES = {
    "datasets/digits/01_dataset.manifest.json",
    "learned/seed0/02_train.manifest.json",
    "learned/seed0/03_validate.manifest.json",
    "04_figures.manifest.json",
}


def test_a_study_without_its_folder_of_images_is_skipped(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("NCLIB_DATA_ROOT", str(tmp_path))
    monkeypatch.chdir(ROOT)
    study = tmp_path / "study.yaml"
    study.write_text("{study: mine, dataset: {source: image_folder, name: images, image_size: 32}, runs: {a: {}}}")
    assert launcher.main([str(study), "--outputs", str(tmp_path)]) == launcher.NO_IMAGES
    assert f"skipped mine: there is no {tmp_path}/images; docs/data.md says" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [study]


def test_images_that_cannot_be_downloaded_are_said_at_once(tmp_path, capsys, monkeypatch):
    closed = dataclasses.replace(SOURCES["svhn"], url="http://127.0.0.1:9/housenumbers/")  # nobody listens
    monkeypatch.setitem(SOURCES, "svhn", closed)
    monkeypatch.setenv("NCLIB_DATA_ROOT", str(tmp_path))
    monkeypatch.chdir(ROOT)
    (tmp_path / "svhn/test").mkdir(parents=True)
    (tmp_path / "svhn/test/1.png").touch()
    began = time.monotonic()
    asked = ["params/mlab_svhn.yaml", "--smoke", "--outputs", str(tmp_path)]
    assert launcher.main(asked) == launcher.NO_IMAGES
    assert time.monotonic() - began < 2
    said = capsys.readouterr().err
    assert said.startswith(
        "skipped mlab_svhn_smoke: the images of svhn are not there, and http://127.0.0.1:9/housenumbers/"
    )
    assert f"{os.path.relpath(tmp_path)}/svhn/train.tar.gz (404 MB, of a smoke run, too)" in said
    assert "python -m nclib stand-ins svhn" in said and "NCLIB_DATA_ROOT=/tmp/stand-ins" in said
    monkeypatch.setattr(launcher, "answers", lambda url: True)
    (tmp_path / "file").touch()
    asked[-1] = str(tmp_path / "file")  # no folder: it ends before anything runs
    assert main(["reproduce", *asked]) == 2
    assert capsys.readouterr().err.startswith("01_dataset downloads from http://127.0.0.1:9/housenumbers/: ")


@pytest.mark.timing
def test_an_interrupt_is_answered_at_once(tmp_path):
    """While Snakemake still starts: what a training would write is written here."""
    project = Project(tmp_path)
    project.write()
    run = project.outputs / "learned/seed0"
    options = {"cwd": tmp_path, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(project.command(), **options) as running:
        wait_for((project.outputs / "snakemake.log").exists)
        run.mkdir(parents=True)
        (run / PROGRESS_FILE).write_text(json.dumps({"epoch": 30, "text": "epoch 30/80"}))
        (run / "02_train.log").touch()
        next(line for line in running.stderr if line == "running  learned/seed0/02_train\n")
        began = time.monotonic()
        os.killpg(running.pid, signal.SIGINT)
        assert running.communicate()[1] == "\nInterrupted. The same command goes on from epoch 31.\n"
        assert time.monotonic() - began < 1
    assert running.returncode == 130


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The small study, done once; the tests below go on from there, in their order."""
    project = Project(tmp_path_factory.mktemp("a project"))
    project.write()
    left = scratch_folder(project.outputs)  # by a run that was killed
    left.mkdir()
    (left / "tmp1.json").write_text("{}")
    done = project.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert not left.exists()
    project.first = done
    return project


def test_one_command_makes_everything_and_says_where(project):
    assert set(project.manifests()) == STAGES
    assert re.search(r"\n +.*\bNC1\b.*\nlearned +\d", project.first.stdout)
    assert "outputs/small/figures" in project.first.stdout
    assert max(map(len, project.first.stdout.splitlines())) <= 80
    said = project.first.stderr.splitlines()
    assert said[0] == "small: 4 of 4 stages to run, in outputs/small"
    for stage in STAGES:  # imports count
        key = stage.removesuffix(".manifest.json")
        (done,) = (line for line in said if re.match(rf"done     {key} \(\d+ s\)", line))
        assert said.index(f"running  {key}") < said.index(done)
        manifest = json.loads((project.outputs / stage).read_text())
        assert int(re.search(r"\((\d+) s", done)[1]) > manifest["seconds"]
    assert "Executing Cell" not in (project.outputs / "learned/seed0/02_train.log").read_text()
    assert list((project.outputs / "figures").glob("*.pdf"))
    assert list((project.outputs / "figures").glob("*.png"))
    for stage in ("learned/seed0/02_train", "learned/seed0/03_validate", "datasets/digits/01_dataset", "04_figures"):
        assert (project.outputs / f"{stage}.ipynb").is_file()
    assert not list(project.outputs.rglob("*.tmp"))
    assert not (project.outputs / "learned/seed0/unfinished").exists()


def test_manifest_says_what_made_a_result(project):
    manifest = json.loads((project.outputs / "learned/seed0/02_train.manifest.json").read_text())
    assert manifest["parameters"]["model"]["width"] == 2
    assert manifest["seed"] == 0
    assert manifest["inputs"].keys() == {"../../datasets/digits/data.safetensors"}
    assert {"history.csv", "checkpoints/epoch_0002.safetensors"} <= manifest["outputs"].keys()
    assert manifest["packages"]["torch"]
    assert manifest["seconds"] > 0


def test_a_training_gets_the_cores_of_the_machine(project):
    """Snakemake gives a notebook one thread unless its rule says otherwise."""
    manifest = json.loads((project.outputs / "learned/seed0/02_train.manifest.json").read_text())
    assert manifest["threads"] == 2


def test_only_changed_code_runs_again(project, monkeypatch):
    """Not notebooks that were opened, executed, saved again or commented; and there is nothing else to do."""
    monkeypatch.chdir(project.folder)
    for stage, added in (("01_dataset", "# a comment"), ("02_train", ""), ("04_figures", "print('more')")):
        made = next(project.outputs.rglob(f"{stage}.ipynb"))
        source = project.folder / "notebooks" / f"{stage}.ipynb"
        notebook = json.loads(source.read_text())
        executed = {c["id"]: c for c in json.loads(made.read_text())["cells"] if "injected" not in str(c["metadata"])}
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell["outputs"], cell["execution_count"] = executed[cell["id"]]["outputs"], 7
        notebook["cells"][-1]["source"] += [f"\n{added}"]
        source.write_text(json.dumps(notebook))
    again = to_do(stages(Study.from_file("small.yaml"), "outputs"))
    assert again == {"04_figures": "the code of 04_figures.ipynb has changed"}
    shutil.copy(ROOT / "notebooks/04_figures.ipynb", project.folder / "notebooks")
    assert not to_do(stages(Study.from_file("small.yaml"), "outputs"))


def test_a_failed_step_costs_nothing(project):
    before = project.results()
    project.write(training=SMALL["training"] | {"lr": 1e3, "loss": "mse"})
    failed = project.run("--runs", "learned")
    assert failed.returncode == 1
    assert "learned/seed0/02_train runs again: training.loss was 'cross_entropy' and is 'mse'" in failed.stderr
    assert "02_train.failed.ipynb" in failed.stderr
    assert "lower training.lr (now 1000)" in failed.stderr
    assert project.results() == before
    project.write()
    assert project.run().returncode == 0
    assert project.results() == before


def test_a_changed_parameter_runs_only_what_depends_on_it(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    project.write(validation={"feature_sample": 5})
    again = to_do(stages(Study.from_file("small.yaml"), "outputs"))
    assert again.keys() == {"learned/seed0/03_validate", "04_figures"}


@pytest.fixture
def refused(project, monkeypatch, capsys):
    """What the command says in this process, where it ends before anything runs."""

    def said(*options: str, status: int = 2) -> str:
        monkeypatch.chdir(project.folder)
        assert main(["reproduce", "small.yaml", *options]) == status
        return capsys.readouterr().err

    return said


def test_a_second_run_on_the_same_outputs_refuses(project, refused):
    with launcher.only_one(project.outputs):
        (project.outputs / ".lock").unlink()
        assert "is in use by another run" in refused(status=launcher.BUSY)


def test_a_bad_study_is_refused_before_anything_runs(project, refused):
    before = project.manifests()
    project.write(model={"head": "etf", "feature_dim": 3})
    said = refused()
    assert "model.feature_dim: Expected head 'etf' to have feature_dim >= num_classes - 1 = 9" in said
    assert said.count("\n") == 1
    assert project.manifests() == before


def test_outside_the_project_nothing_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", str(ROOT / "params/mlab_digits.yaml"), "--smoke"]) == 2
    assert "is not in nclib's folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_outputs_that_cannot_be_written_are_named(project, refused):
    project.write()
    (project.folder / "file").write_text("")
    assert "Cannot write" in refused("--outputs", "file")
    assert [path.name for path in (project.folder / "outputs").iterdir()] == ["small"]
    (project.outputs / "table.csv").unlink()
    shutil.rmtree(project.folder / ".snakemake")
    (project.folder / ".snakemake").touch()
    assert refused().endswith(
        "error: Cannot write "
        f"{project.folder}/.snakemake: File exists; move away what has that name and run the same command again.\n"
    )
