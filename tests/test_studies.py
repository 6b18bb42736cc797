"""Every study that comes with nclib, cut down by its `smoke` overrides, through the real notebooks.

The notebooks' cells run in this process, without kernels (the tests of the chain have those), on MNIST as it is
where `NCLIB_DATA_ROOT` has it, and else on small files in the sources' own formats.
"""

import os
import shutil
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest

from nclib.sources import stand_ins
from nclib.study import Study

ROOT = Path(__file__).parent.parent
STUDIES = sorted(path.stem for path in (ROOT / "params").glob("*.yaml"))


def run_cells(stage: str, parameters: dict) -> dict:
    """The names that a stage notebook's code cells leave behind."""
    names: dict = {}
    for cell in nbformat.read(ROOT / f"notebooks/{stage}.ipynb", 4).cells:
        if cell.cell_type == "code":
            lines = [line for line in cell.source.splitlines() if not line.startswith("%")]
            exec(compile("\n".join(lines), f"{stage} {cell.id}", "exec"), names)  # noqa: S102
            if "parameters" in cell.metadata.get("tags", ()):
                names |= parameters
    return names


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    real = Path(os.environ.get("NCLIB_DATA_ROOT", "/nowhere")) / "MNIST"
    if real.is_dir():
        (root / "MNIST").symlink_to(real.resolve())
    else:
        stand_ins.write_mnist(root)
    stand_ins.write_cifar10(root)
    stand_ins.write_svhn(root, per_set=3)
    stand_ins.write_image_folder(root / "mini_imagenet", classes=5, per_class=12)
    return root


@pytest.fixture
def outputs(tmp_path, data_root, monkeypatch):
    monkeypatch.setenv("NCLIB_DATA_ROOT", str(data_root))
    monkeypatch.setenv("NCLIB_CACHE_ROOT", str(tmp_path / "cache"))
    matplotlib.use("Agg")
    yield tmp_path / "outputs"
    plt.close("all")
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_study_runs_from_data_to_table(name, outputs):
    study = Study.from_file(ROOT / f"params/{name}.yaml", smoke=True)
    given = study.model_dump(mode="json", exclude={"smoke", "sweep"}) | {"outputs": str(outputs)}
    for dataset in study.datasets():
        run = next(run for run in study.runs if study.resolve(run).dataset.name == dataset)
        run_cells("01_dataset", given | {"run": run})
    for run in study.runs:
        for seed in study.seeds:
            run_cells("02_train", given | {"run": run, "seed": seed})
            run_cells("03_validate", given | {"run": run, "seed": seed})
    run_cells("04_figures", given)
    folder = outputs / study.study
    table = pd.read_csv(folder / "table.csv")
    assert list(table["run"]) == list(study.runs)
    metrics = pd.read_csv(folder / next(iter(study.runs)) / "seed0/metrics.csv")
    assert metrics.groupby("split")["epoch"].apply(list).map(len).eq(metrics["epoch"].nunique()).all()
    assert metrics["nc1"].gt(0).all()
    made = {path.name for path in (folder / "figures").iterdir()}
    assert {"collapse.pdf", "collapse.png", "gram.pdf", "scores.pdf"} <= made
    assert ("imbalance.pdf" in made) == (name == "mlab_imbalanced")
    assert ("margins.pdf" in made) == name.startswith(("mse", "ce"))
