"""Stages: what is done and what runs again, what is read and what is refused."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from nclib.study import check, code
from nclib.study import stage as stage_module
from nclib.study.files import StageError
from nclib.study.stage import Stage, stage, stages
from nclib.study.study import ParameterError, Study
from nclib.study.watch import LINE_SECONDS, Watch
from tests.synthetic_study import MULTI_LABEL, write_study

STUDY = {**MULTI_LABEL, "seeds": [0]}


@pytest.fixture
def made(tmp_path):
    """A finished study (of made-up results) and the folder of its outputs."""
    study = Study.from_mapping(STUDY)
    write_study(tmp_path, study)
    return study, tmp_path


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
    assert "already done, just now; the cells below show the results" in capsys.readouterr().out
    done.save({"history.csv": pd.DataFrame({"a": [1]})})
    assert done.manifest_file.read_bytes() == before
    other = of_etf("02_train", changed(lr=0.7), outputs).announce()
    assert "to be run, since training.lr was 0.1 and is 0.7" in capsys.readouterr().out
    other.save({"another.csv": pd.DataFrame({"a": [1]})})
    assert not (done.folder / "history.csv").exists()


def test_check_names_every_file_that_is_not_as_it_was_made(made, tmp_path, capsys):
    study, outputs = made
    study.to_file(tmp_path / "study.yaml")
    file = of_etf("03_validate", study, outputs).output("metrics.csv")
    file.write_bytes(file.read_bytes()[:-3] + b"999")
    of_etf("02_train", study, outputs).output("history.csv").write_text("")
    assert check.main([str(tmp_path / "study.yaml"), "--outputs", str(outputs)]) == 1
    said = capsys.readouterr().out
    assert "learned/seed0 02_train: as it was made\n" in said
    assert "etf/seed0 02_train: history.csv has another size than it had; " in said
    assert "metrics.csv is damaged (it is not what 03_validate.manifest.json says)" in said
    assert "04_figures: there is no result yet\n" in said
    assert check.main([str(tmp_path / "none.yaml")]) == 2


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
    assert trained.missing(code=False) is None
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


def test_a_long_download_is_shown(tmp_path, capsys):
    place = tmp_path / "datasets" / "cifar10"
    place.mkdir(parents=True)
    (place / "01_dataset.log").write_text("started\n 10%|#\r 20%|##\r")
    running = place / "01_dataset.running.ipynb"
    running.write_text(json.dumps({}))
    Watch(tmp_path).look()
    assert capsys.readouterr().err == "", "a cell that has just begun"
    os.utime(running, (time.time() - 2 * LINE_SECONDS,) * 2)
    Watch(tmp_path).look()
    assert "cifar10: 20%|##" in capsys.readouterr().err
