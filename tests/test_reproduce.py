"""The chain from a study file to figures, run for real, and what used to go wrong with such chains."""

import fcntl
import json
import subprocess
import sys
import time

import pytest

from tests.small_project import ROOT, SMALL, Project

STAGES = {
    "datasets/digits/01_dataset.manifest.json",
    "learned/seed0/02_train.manifest.json",
    "learned/seed0/03_validate.manifest.json",
    "04_figures.manifest.json",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The small study, done once; the tests below go on from there, in their order."""
    project = Project(tmp_path_factory.mktemp("a project"))
    project.write()
    done = project.run()
    assert done.returncode == 0, done.stdout + done.stderr
    project.first = done
    return project


def test_one_command_makes_everything_and_says_where(project):
    assert set(project.manifests()) == STAGES
    assert (project.outputs / "table.md").read_text().strip() in project.first.stdout
    assert "outputs/small/figures" in project.first.stdout
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


def test_papermill_by_hand_makes_the_same(project):
    """The command of the README, with a study file that leaves sections out."""
    before = project.results()
    command = [sys.executable, "-m", "papermill", "notebooks/03_validate.ipynb", "by_hand.ipynb"]
    command += ["-f", "small.yaml", "-p", "run", "learned", "-p", "seed", "0"]
    done = subprocess.run(command, cwd=project.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert project.results() == before
    assert project.run().returncode == 0
    assert project.results() == before


def test_again_there_is_nothing_to_do(project):
    before, start = project.manifests(), time.monotonic()
    assert project.run().returncode == 0
    assert time.monotonic() - start < 30
    assert project.manifests() == before


def test_resaved_notebooks_change_nothing(project):
    before = project.manifests()
    for stage in ("01_dataset", "02_train"):
        made = next(project.outputs.rglob(f"{stage}.ipynb"))
        source = project.folder / "notebooks" / f"{stage}.ipynb"
        notebook = json.loads(source.read_text())
        executed = {c["id"]: c for c in json.loads(made.read_text())["cells"] if "injected" not in str(c["metadata"])}
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell["outputs"], cell["execution_count"] = executed[cell["id"]]["outputs"], 7
        source.write_text(json.dumps(notebook))
    assert project.run().returncode == 0
    assert project.manifests() == before


def test_a_lost_result_is_made_again(project):
    before = project.results()
    (project.outputs / "learned/seed0/metrics.csv").unlink()
    assert project.run().returncode == 0
    assert project.results() == before


def test_a_failed_step_fails_until_it_is_mended_and_costs_nothing(project):
    """Snakemake's default: after a failed re-run, older files downstream make it say that all is done."""
    before = project.results()
    project.write(training=SMALL["training"] | {"lr": 1e3, "loss": "mse"})
    for _ in range(2):
        failed = project.run()
        assert failed.returncode == 1
        assert "02_train.failed.ipynb" in failed.stderr
        assert "lower training.lr (now 1000)" in failed.stderr
    assert project.results() == before
    project.write()
    assert project.run().returncode == 0
    assert project.results() == before


def test_a_changed_parameter_runs_only_what_depends_on_it(project):
    before = project.manifests()
    project.write(validation={"feature_sample": 5})
    assert project.run().returncode == 0
    after = project.manifests()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"learned/seed0/03_validate.manifest.json", "04_figures.manifest.json"}
    project.write(validation={"feature_sample": 5}, runs={"learned": {}, "wide": {"model": {"width": 3}}})
    assert project.run().returncode == 0
    again = project.manifests()
    changed = {name for name in again if again[name] != after.get(name)}
    own = {f"wide/seed0/{stage}.manifest.json" for stage in ("02_train", "03_validate")}
    assert changed == own | {"04_figures.manifest.json"}


def test_a_second_run_on_the_same_outputs_refuses(project):
    with (project.outputs / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = project.run()
    assert refused.returncode == 75
    assert "is in use by another run" in refused.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"traning": {}}, r"small.yaml: traning: no such section"),
        ({"model": {"arch": "alexnet"}}, "small.yaml: model.arch: should be 'resnet18'"),
        ({"model": {"head": "etf", "feature_dim": 3}}, "needs feature_dim >= num_classes - 1 = 9, but got 3"),
    ],
)
def test_a_bad_study_is_refused_before_anything_runs(project, changes, message):
    before = project.manifests()
    project.write(**changes)
    refused = project.run()
    assert refused.returncode == 2
    assert message in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert project.manifests() == before


@pytest.mark.parametrize(
    "replaced", ["datasets/digits/data.safetensors", "learned/seed0/checkpoints/epoch_0001.safetensors"]
)
def test_results_replaced_by_a_stage_that_was_then_killed_are_refused(project, replaced):
    """A stage replaces its files first, its manifest last: killed in between, it leaves those of other parameters."""
    project.write()
    assert project.run().returncode == 0
    of_data = replaced.startswith("datasets")
    file, made_by = project.outputs / replaced, "01_dataset" if of_data else "02_train"
    later = project.outputs / "learned/seed0" / f"{'02_train' if of_data else '03_validate'}.manifest.json"
    kept = {path: path.read_bytes() for path in (file, later)}
    file.write_bytes(kept[file] + b" ")
    later.unlink()
    failed = project.run()
    assert failed.returncode == 1
    assert f"{file.name} is damaged (it is not what {made_by}.manifest.json says)" in failed.stderr
    for path, content in kept.items():
        path.write_bytes(content)


def test_outside_the_project_nothing_is_made(tmp_path):
    command = [sys.executable, "-m", "nclib.study.launcher", ROOT / "params/mlab_digits.yaml", "--smoke"]
    refused = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "is not in nclib's folder" in refused.stderr
    assert not list(tmp_path.iterdir())


def test_outputs_that_cannot_be_written_are_named(project):
    project.write()
    (project.folder / "file").write_text("")
    refused = project.run("--outputs", "file")
    assert refused.returncode == 2
    assert "Cannot write" in refused.stderr
    assert [path.name for path in (project.folder / "outputs").iterdir()] == ["small"]
