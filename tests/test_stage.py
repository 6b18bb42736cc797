"""Stages: what is done and what runs again, what is read and what is refused."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pandas as pd
import pytest

from nclib.__main__ import main
from nclib.study import check, code
from nclib.study import stage as stage_module
from nclib.study.files import StageError
from nclib.study.stage import Stage, stage, stages, to_do
from nclib.study.study import ParameterError, Study
from nclib.study.watch import Watch
from nclib.training.progress import TrainingProgress
from tests.synthetic_study import MULTI_LABEL, write_study

STUDY = {**MULTI_LABEL, "seeds": [0]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("outputs"), Study.from_mapping(STUDY)).root


@pytest.fixture
def made(finished, tmp_path):
    """A finished study (of made-up results) and the folder of its outputs."""
    shutil.copytree(finished, tmp_path / finished.name)
    return Study.from_mapping(STUDY), tmp_path


def changed(**training) -> Study:
    return Study.from_mapping({**STUDY, "training": STUDY["training"] | training})


def of_etf(name: str, study: Study, outputs) -> Stage:
    return Stage(name, study, run="etf", seed=0, outputs=outputs)


def test_every_stage_of_a_study_has_its_place_and_parameters(made):
    found = {each.key: each for each in stages(*made)}
    assert set(found) == {
        "04_figures",
        "datasets/digits/01_dataset",
        *(f"{run}/seed0/{stage}" for run in ("learned", "etf") for stage in ("02_train", "03_validate")),
    }
    assert set(found["etf/seed0/02_train"].parameters) == {"dataset", "model", "training"}
    assert found["etf/seed0/02_train"].parameters["model"]["head"] == "etf"


def test_other_parameters_run_again_where_they_matter(made):
    _, outputs = made
    other = changed(lr=0.7)
    found = {each.key: each.missing() for each in stages(other, outputs)}
    for key in ("learned/seed0/02_train", "etf/seed0/03_validate"):
        assert found[key] == "training.lr was 0.1 and is 0.7"
    assert found["datasets/digits/01_dataset"] is None
    with pytest.raises(StageError, match=r"run stage 02_train first \(training\.lr was 0\.1 and is 0\.7\)"):
        of_etf("03_validate", other, outputs).input("history.csv")


def test_a_field_that_came_later_had_its_default(made):
    training = of_etf("02_train", *made)
    manifest = json.loads(training.manifest_file.read_text())
    assert manifest["parameters"]["training"].pop("lr_drop") == 0.1
    training.manifest_file.write_text(json.dumps(manifest))
    assert of_etf("02_train", *made).missing() is None
    found = of_etf("02_train", changed(lr_drop=0.2), made[1]).missing()
    assert found == "training.lr_drop was 0.1 and is 0.2"


def test_an_input_with_other_bytes_runs_again_and_one_with_the_same_does_not(made):
    study, outputs = made
    trained, measured = (of_etf(name, study, outputs) for name in ("02_train", "03_validate"))
    table = pd.read_csv(trained.output("history.csv"))
    of_etf("03_validate", study, outputs).clear()
    measured = of_etf("03_validate", study, outputs)
    measured.input("history.csv")
    measured.save({"metrics.csv": table})
    for content, why in ((table, None), (table.head(2), "history.csv is another")):
        trained.clear()
        again = of_etf("02_train", study, outputs)
        again.save({"history.csv": content}, trainable_parameters=1)
        assert of_etf("03_validate", study, outputs).missing() == why


def test_lost_or_cut_results_run_again_and_damaged_ones_are_refused(made):
    study, outputs = made
    file = of_etf("02_train", study, outputs).output("history.csv")
    before = file.read_bytes()
    file.write_bytes(before[:-3] + b"999")
    damaged = of_etf("02_train", study, outputs)
    assert damaged.missing() is None, "sizes are compared at every start, bytes when they are read"
    with pytest.raises(StageError, match=r"history.csv is damaged \(it is not what 02_train.manifest.json says\)"):
        damaged.output("history.csv")
    file.write_bytes(before[:-3])
    assert of_etf("02_train", study, outputs).missing() == "history.csv has another size than it had"
    file.unlink()
    assert of_etf("02_train", study, outputs).missing() == "history.csv is gone"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"outputs": 3}', '{"outputs": {}, "parameters": 1}', "[" * 9999])
def test_a_manifest_that_is_none_is_as_good_as_missing(made, content):
    study, outputs = made
    of_etf("02_train", study, outputs).manifest_file.write_text(content)
    broken = of_etf("02_train", study, outputs)
    assert broken.missing()
    with pytest.raises(StageError, match="run stage 02_train first"):
        broken.require()


def test_what_is_done_is_kept_and_what_is_replaced_leaves_nothing_behind(made, capsys):
    study, outputs = made
    done = of_etf("02_train", study, outputs).announce()
    before = done.manifest_file.read_bytes()
    assert re.search(r"already done, 0:00:\d\d ago; the cells below show the results", capsys.readouterr().out)
    done.save({"history.csv": pd.DataFrame({"a": [1]})})
    assert done.manifest_file.read_bytes() == before
    other = of_etf("02_train", changed(lr=0.7), outputs).announce()
    assert "to be run, since training.lr was 0.1 and is 0.7" in capsys.readouterr().out
    other.save({"another.csv": pd.DataFrame({"a": [1]})})
    assert not (done.folder / "history.csv").exists()


def test_a_folder_in_the_place_of_a_result_is_named(made):
    study, outputs = made
    stage = of_etf("02_train", study, outputs)
    (stage.folder / "history.csv").unlink()
    (stage.folder / "history.csv").mkdir()
    assert stage.missing() == "history.csv is gone"
    with pytest.raises(StageError, match=r"Cannot write .*history\.csv: Is a directory; move away what has that name"):
        stage.save({"history.csv": pd.DataFrame({"a": [1]})})


def test_check_names_every_file_that_is_not_as_it_was_made(made, tmp_path, capsys):
    study, outputs = made
    study.to_file(tmp_path / "study.yaml")
    file = of_etf("03_validate", study, outputs).output("metrics.csv")
    file.write_bytes(file.read_bytes()[:-3] + b"999")
    of_etf("02_train", study, outputs).output("history.csv").write_text("")
    assert check.main([str(tmp_path / "study.yaml"), "--outputs", str(outputs)]) == 1
    said = capsys.readouterr().out
    assert "learned/seed0/02_train: as it was made\n" in said
    assert "etf/seed0/02_train: history.csv has another size than it had; " in said
    assert "metrics.csv is damaged (it is not what 03_validate.manifest.json says)" in said
    assert "04_figures: there is no result yet\n" in said
    assert main(["check", str(tmp_path / "none.yaml")]) == 2


SOURCE = 'import os\n\ndef f(x):\n    """Doc."""\n    return x + 1  # one more\n'


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ('import os\ndef f(x):\n    """Other."""\n    return (x + 1)\n', True),
        ("import os\ndef f(x):\n    return x + 1\n", True),
        ("import os\ndef f(x):\n    return x + 2\n", False),
        ("%matplotlib inline\n" + SOURCE, True),
        ("def f(", False),
    ],
)
def test_only_what_python_executes_counts_as_code(other, same):
    assert (code.source_fingerprint(SOURCE) == code.source_fingerprint(other)) == same


def test_changed_code_runs_again_what_it_made_unless_it_is_kept(made, monkeypatch):
    study, outputs = made
    trained = of_etf("02_train", study, outputs)
    assert {"nclib.study.parameters", "nclib.data.dataset", "02_train.ipynb"} <= set(trained.manifest["code"])
    assert not [name for name in trained.manifest["code"] if name.startswith(("nclib.figures", "nclib.results"))]
    real = code.module_fingerprint
    monkeypatch.setattr(code, "module_fingerprint", lambda name: "new" if name == "nclib.data.dataset" else real(name))
    assert trained.missing() == "the code of nclib.data.dataset has changed"
    monkeypatch.setenv("NCLIB_KEEP_CODE", "1")
    assert trained.missing() is None


@pytest.fixture
def first_call(monkeypatch):
    monkeypatch.setattr(stage_module, "_calls", iter(range(9)))


def test_a_notebooks_parameters(made, tmp_path, first_call):
    study, outputs = made
    study.to_file(tmp_path / "study.yaml")
    given = {"study": str(tmp_path / "study.yaml"), "run": "etf", "seed": 0, "outputs": str(outputs), "overrides": {}}
    with pytest.raises(ParameterError, match="sed: no such parameter; a notebook takes study, run, seed"):
        stage("02_train", {**given, "sed": 3})
    own = stage("02_train", {**given, "overrides": {"training.lr": 0.3}, "epochs": 3, "In": [], "_i": ""})
    assert own.key == "etf-lr=0.3/seed0/02_train"
    assert own.settings.training.lr == 0.3
    assert stage("02_train", {**given, "overrides": "{training.lr: 3.0e-1}"}).key == own.key
    of_data = stage("01_dataset", {**given, "overrides": {"dataset.test_counts": {1: 3}}})
    assert of_data.key == "datasets/digits-test_counts=1_3/01_dataset"
    for overrides, message in (
        ({"lr": 1}, r"overrides\.lr: expected a field such as training\.lr"),
        ({"training.lr": "x"}, r"training\.lr: should be a valid number"),
        ([1], "overrides: should be a mapping"),
    ):
        with pytest.raises(ParameterError, match=message):
            stage("02_train", {**given, "overrides": overrides})
    with pytest.raises(ParameterError, match="seed: study 'made_multi' has no seed 5; it has 0"):
        stage("02_train", {**given, "seed": 5})


def test_figures_show_the_runs_that_are_done(made):
    study, outputs = made
    figures = stages(study, outputs, runs=["etf"])[-1]
    assert list(figures.included.runs) == ["learned", "etf"], "one run alone does not take the others from the figures"
    of_etf("03_validate", study, outputs).clear()
    assert list(Stage("04_figures", study, outputs=outputs).included.runs) == ["learned"]


def test_a_process_whose_starter_is_gone_already_ends_at_once():
    code = (
        "import signal, nclib.study.processes, os, sys\n"
        "nclib.study.processes.die_with_parent(signal.SIGTERM, os.getppid())\n"
        "print('lives', flush=True)\n"
        "nclib.study.processes.die_with_parent(signal.SIGTERM, 1)\n"
        "print('lives on')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 128 + signal.SIGTERM
    assert ended.stdout == "lives\n"


IMAGES = {"study": "own", "dataset": {"name": "images", "source": "image_folder", "image_size": 8}, "runs": {"a": {}}}


@pytest.fixture
def of_images(tmp_path, monkeypatch):
    """The finished data set of an image folder, as a new stage each time, and the folder."""
    monkeypatch.setenv("NCLIB_DATA_ROOT", str(tmp_path))
    folder = tmp_path / "images"
    for name in ("cat/1.png", "cat/2.png", "dog/1.JPG", "dog/notes.txt", ".git/3.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)

    def of_images() -> Stage:
        return Stage("01_dataset", Study.from_mapping(IMAGES), run="a", outputs=tmp_path / "outputs")

    of_images().announce().save({"data.safetensors": "the data set"})
    return of_images, folder


def test_a_data_set_names_the_files_it_was_made_from(of_images):
    stage, folder = of_images
    names = ("cat/1.png", "cat/2.png", "dog/1.JPG")
    lines = [f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n" for name in names]  # as sha256sum prints them
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert stage().manifest["inputs"] == {os.path.relpath(folder, stage().folder): expected}
    assert stage().announce().done


@pytest.mark.parametrize("change", ["replaced", "renamed", "added", "removed", "class renamed"])
def test_other_images_make_the_data_set_again(of_images, change):
    stage, folder = of_images
    before = (folder / "cat/1.png").stat()
    if change == "replaced":  # of the same size and time
        (folder / "cat/1.png").write_text("another!!")
        os.utime(folder / "cat/1.png", ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (folder / "cat/1.png").stat().st_size == before.st_size
    elif change == "added":
        (folder / "cat/3.png").write_text("")
    elif change == "removed":
        (folder / "cat/1.png").unlink()
    else:
        source, target = ("cat/1.png", "cat/3.png") if change == "renamed" else ("cat", "cow")
        (folder / source).rename(folder / target)
    why = f"the images in {folder} are others"
    assert to_do([stage()]) == {"datasets/images/01_dataset": why}
    assert not stage().announce().done
    assert stage().missing() is None, "what later stages read is what was made"


@pytest.mark.parametrize("change", ["times", "memory", "others", "all gone"])
def test_images_that_are_the_same_or_gone_change_nothing(of_images, change):
    stage, folder = of_images
    if change == "times":
        os.utime(folder / "cat/1.png", (1, 1))
    elif change == "memory":
        (stage().folder / "01_dataset.files.json").write_text("[")
    elif change == "others":
        (folder / "README.md").write_text("")
        (folder / ".git/3.png").write_text("another")
    else:
        shutil.rmtree(folder)
    assert to_do([stage()]) == {}


def test_what_follows_a_stage_that_runs_runs_too(made):
    study, outputs = made
    of_etf("02_train", study, outputs).clear()
    assert to_do(stages(study, outputs)) == {
        "etf/seed0/02_train": "there is no result yet",
        "etf/seed0/03_validate": None,
        "04_figures": None,  # not that it would show one run instead of two
    }


def test_what_runs_is_shown(made, tmp_path, capsys, monkeypatch):
    study, outputs = made
    found, session = stages(study, outputs), tmp_path / "session"
    places = {stage.key: stage.folder / stage.name for stage in found}

    def look() -> str:
        watch.look()
        return capsys.readouterr().err

    def log(key: str, text: str = "") -> None:
        places[key].with_suffix(".log").write_text(text)

    log("04_figures", "of an earlier session")
    places["etf/seed0/02_train"].with_suffix(".failed.json").write_text("{}")
    watch = Watch(found, session)
    assert look() == ""
    log("datasets/digits/01_dataset", " 10%|#  | 1/9\r 20%|## | 2/9\nand so on")
    log("etf/seed0/02_train")
    assert look() == "running  datasets/digits/01_dataset\nrunning  etf/seed0/02_train\n"
    places["etf/seed0/02_train"].with_suffix(".failed.json").unlink()  # of an earlier session
    progress = TrainingProgress(places["etf/seed0/02_train"].parent, label="", epochs=80, score="soft_iou")
    row = {"train_loss": 0.2, "train_feature_decay": 0.05, "train_soft_iou": 1.0, "test_soft_iou": 0.5}
    progress.start(1, [{"epoch": epoch, **row} for epoch in range(1, 31)])
    capsys.readouterr()
    assert look() == ""
    monkeypatch.setattr("nclib.study.watch.LINE_SECONDS", 0)
    of_training = "etf/seed0: epoch 30/80, ? left, loss 0.2500, test IoU 0.5000"
    assert look() == f"         datasets/digits: 20%|## | 2/9\n         {of_training}\n"
    assert watch.epochs == {"etf/seed0": 30}
    (session / "etf/seed0").mkdir(parents=True)
    (session / "etf/seed0/02_train").touch()
    places["datasets/digits/01_dataset"].with_suffix(".failed.json").write_text("{}")
    assert look() == "failed   datasets/digits/01_dataset (0 s)\ndone     etf/seed0/02_train (0 s)\n"
    assert watch.epochs == {}
    progress.close()
