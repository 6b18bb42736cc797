"""Manifests: what a result was made from, and what becomes of one made from something else."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from nclib.study.files import StageError
from nclib.study.launcher import forget_stale
from nclib.study.runs import parameters_of_stages, require_stage
from nclib.study.study import Study
from nclib.study.watch import LINE_SECONDS, Watch
from tests.synthetic_study import MULTI_LABEL, write_study


@pytest.fixture
def made(tmp_path):
    study = Study.from_mapping({**MULTI_LABEL, "seeds": [0]})
    return study, write_study(tmp_path, study)


def changed(**training) -> Study:
    return Study.from_mapping({**MULTI_LABEL, "seeds": [0], "training": MULTI_LABEL["training"] | training})


def test_every_stage_of_a_study_has_its_parameters(made):
    study, _ = made
    stages = parameters_of_stages(study)
    assert set(stages) == {
        "04_figures",
        "datasets/digits/01_dataset",
        *(f"{run}/seed0/{stage}" for run in ("learned", "etf") for stage in ("02_train", "03_validate")),
    }
    assert set(stages["etf/seed0/02_train"]) == {"dataset", "model", "training"}
    assert stages["etf/seed0/02_train"]["model"]["head"] == "etf"


def test_a_stage_goes_on_only_from_results_of_its_own_parameters(made):
    study, folder = made
    settings, other = study.resolve("etf"), changed(lr=0.7).resolve("etf")
    assert require_stage(folder.run("etf", 0), "02_train", settings, files=["history.csv"])["seed"] == 0
    require_stage(folder.dataset("digits"), "01_dataset", other)  # which training.lr does not touch
    with pytest.raises(StageError, match=r"made with another training\.lr: run stage 02_train again"):
        require_stage(folder.run("etf", 0), "02_train", other)
    with pytest.raises(StageError, match=r"01_dataset\.manifest\.json is missing: run stage 01_dataset first"):
        require_stage(folder.run("etf", 0), "01_dataset", settings)
    with (folder.run("etf", 0) / "history.csv").open("a") as table:
        table.write("61,0,0,0,0,0,0,0\n")
    with pytest.raises(StageError, match=r"history.csv is damaged \(it is not what 02_train.manifest.json says\)"):
        require_stage(folder.run("etf", 0), "02_train", settings, files=["history.csv"])


def test_results_of_other_parameters_run_again(made, capsys):
    """Snakemake takes any manifest that it has not made itself for a good one."""
    study, folder = made
    before = set(folder.root.rglob("*.manifest.json"))
    forget_stale(folder.root, study)
    assert set(folder.root.rglob("*.manifest.json")) == before
    forget_stale(folder.root, changed(lr=0.7))
    assert {path.parent.name for path in folder.root.rglob("*.manifest.json")} == {"digits"}
    assert "etf/seed0/02_train: made with another training.lr, so it runs again" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"outputs": 3}', '{"outputs": {}, "parameters": 1}', "[" * 9999])
def test_a_manifest_that_is_none_is_as_good_as_missing(made, content):
    study, folder = made
    manifest = folder.run("etf", 0) / "02_train.manifest.json"
    manifest.write_text(content)
    with pytest.raises(StageError, match="02_train"):
        require_stage(manifest.parent, "02_train", study.resolve("etf"))
    forget_stale(folder.root, study)
    assert not manifest.exists()


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
