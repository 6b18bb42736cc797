"""The theory notebook, its figures and its widget."""

import base64
import json
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from nclib import theory
from nclib.explore.descent import TheoryExplorer
from nclib.figures import descent as descent_figures
from nclib.study.runner import run_notebook
from nclib.study.study import Study

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "00_theory.ipynb"
PNG = b"\x89PNG\r\n\x1a\n"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_notebook_shows_the_theorems(tmp_path):
    begin = time.monotonic()
    given = json.loads('{"counts": {"1": 5, "2": 1, "3": 1}, "starts": 1}')  # as from the command line: keys are text
    run_notebook(NOTEBOOK, tmp_path / "00_theory.ipynb", {**given, "outputs": str(tmp_path)})
    assert time.monotonic() - begin < 120  # 15 s on a quiet core; the promise is 60
    gaps = pd.read_csv(tmp_path / "theory" / "gaps.csv")
    assert len(gaps) == 4
    assert gaps["gap"].abs().max() < 1e-9
    assert gaps["nc2_w_centered"].max() < 1e-6
    assert gaps["1 - cos"].max() < 1e-9
    assert gaps["1 - cos"].count() == 2
    assert gaps[["C_2 error", "C_3 error"]].max().max() < 1e-6
    saddles = pd.read_csv(tmp_path / "theory" / "saddles.csv", index_col="point")
    numbers = saddles["eigenvalue (Lanczos)"]
    assert (numbers[["all zero", "one direction removed"]] < -1e-3).all()
    assert abs(numbers["global minimum"]) < 1e-8
    np.testing.assert_allclose(numbers, saddles["eigenvalue (theory)"], rtol=1e-6, atol=1e-8)
    predictions = pd.read_csv(tmp_path / "theory" / "predictions.csv")
    for _, rows in predictions.groupby("decays"):
        assert len(rows) == 3 and rows["training loss"].is_monotonic_increasing
    default, settings = Study.from_file(ROOT / "params/mlab_digits.yaml").resolve("learned"), {}
    exec(nbformat.read(NOTEBOOK, 4).cells[1].source, settings)  # noqa: S102
    assert settings["training"] == default.training.model_dump(include=set(settings["training"]))
    assert settings["training_counts"] == default.dataset.train_counts
    for name in ("gaps", "landscape", "path", "tag_wise", "saddle", "counts"):
        assert (tmp_path / "theory" / f"{name}.png").read_bytes().startswith(PNG)
    # every figure is in the executed copy, the explorer beside its widget view
    executed = nbformat.read(tmp_path / "00_theory.ipynb", 4)
    data = [output.get("data", {}) for cell in executed.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in item for item in data) == 7
    assert {"image/png", "application/vnd.jupyter.widget-view+json"} <= set(data[-1])


def test_notebook_is_clean():
    notebook = nbformat.read(NOTEBOOK, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].metadata["tags"] == ["parameters"]
    assert all(line.count("=") == 1 and "  # " in line for line in code[0].source.splitlines())
    for cell in code:
        assert cell.outputs == []
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 15
        assert not any(line.lstrip().startswith(("def ", "class ")) for line in cell.source.splitlines())


@pytest.fixture(scope="module")
def plane():
    settings = {"num_classes": 3, "counts": {1: 2, 2: 1}, "weight_decay": 5e-3, "feature_decay": 5e-3}
    return theory.minimize(**settings, feature_dim=2, generator=seeded(), record_every=1, record_path=True)


def test_path_has_its_first_and_last_point(plane):
    figure = descent_figures.plot_path(plane, points=6)
    panels = [ax for ax in figure.axes if ax.get_title(loc="left")]
    titles = [ax.get_title(loc="left") for ax in panels]
    assert titles[0].startswith("iteration 0\n")
    assert titles[-1].startswith(f"iteration {plane.iterations[-1]}\n")
    assert len(titles) <= 6
    # the features drawn in the last panel are those of the final point
    drawn = [line.get_xydata()[0] for line in panels[-1].lines if len(line.get_xydata()) == 1]
    np.testing.assert_allclose(drawn, plane.point.H.numpy())


def test_gaps_and_scales_are_drawn_as_they_are(plane):
    ax = descent_figures.plot_gaps({"one": [plane], "two": [plane, plane]}).axes[0]
    lines = [line for line in ax.lines if len(line.get_xdata()) == len(plane.iterations)]
    assert len(lines) == 3
    assert lines[0].get_ydata()[0] == pytest.approx(plane.losses[0] / plane.minimum.value - 1)
    figure = descent_figures.plot_tag_wise(plane, {"sum": {1: (0.5, 0.6), 2: (0.7, 0.8)}})
    predicted, measured = figure.axes[1].lines
    assert list(predicted.get_ydata()) == [0.5, 0.7]
    assert list(measured.get_ydata()) == [0.6, 0.8]


def test_saddle_figure(plane):
    problem = plane.problem
    saddle = theory.rank_deficient_point(problem, feature_dim=2, rank=1, generator=seeded())
    curvature = theory.most_negative_curvature(problem, saddle, generator=seeded())
    settings = {"weight_decay": 5e-3, "feature_decay": 5e-3, "feature_dim": 2}
    start = saddle.moved(curvature.direction, distance=0.05)
    escape = theory.minimize(3, problem.counts, **settings, start=start, record_every=1)
    figure = descent_figures.plot_saddle(problem, saddle, curvature, escape)
    along, quadratic = figure.axes[1].lines
    middle = len(along.get_xdata()) // 2
    assert along.get_ydata()[middle] == 0
    assert (np.delete(along.get_ydata(), middle) < 0).all()
    near = slice(middle - 3, middle + 4)
    np.testing.assert_allclose(along.get_ydata()[near], quadratic.get_ydata()[near], rtol=0.05)


@pytest.fixture
def explorer():
    return TheoryExplorer(num_classes=4, counts=(3, 1, 0), weight_decay=1e-3, feature_decay=1e-3)


def picture(explorer):
    return bytes(explorer.image.value)


def test_explorer_follows_its_controls(explorer):
    first = picture(explorer)
    assert first.startswith(PNG)
    minimum = theory.global_minimum(4, {1: 3, 2: 1}, weight_decay=1e-3, feature_decay=1e-3)
    assert f"global minimum {minimum.value:.10f}" in explorer.status.value
    explorer.num_classes.value = 6
    assert picture(explorer) != first
    explorer.loss.value = "mse"
    explorer.label_mean.value = True
    minimum = theory.global_minimum(6, {1: 3, 2: 1}, weight_decay=1e-3, feature_decay=1e-3, loss="mse", label_mean=True)
    assert f"global minimum {minimum.value:.10f}" in explorer.status.value
    explorer.loss.value, explorer.label_mean.value, explorer.num_classes.value = "cross_entropy", False, 4
    assert picture(explorer) == first
    explorer.weight_decay.value = explorer.feature_decay.value = 1.0
    assert "the optimum is zero" in explorer.status.value
    assert explorer.error.value == ""


def test_explorer_starts_at_the_given_decays():
    explorer = TheoryExplorer(num_classes=4, counts=(3, 1, 0), weight_decay=7e-4, feature_decay=2e-6)
    assert (explorer.settings()["weight_decay"], explorer.settings()["feature_decay"]) == (7e-4, 2e-6)
    assert explorer.weight_decay.label == "0.0007"  # what the browser shows


def test_explorer_leaves_out_sets_of_all_classes(explorer):
    explorer.counts[2].value = 1
    explorer.num_classes.value = 2
    assert [slider.disabled for slider in explorer.counts] == [False, True, True]
    assert explorer.settings()["counts"] == {1: 3}
    assert explorer.error.value == ""


def test_explorer_checks_by_a_descent(explorer):
    explorer.check.click()
    assert "a random start ended at" in explorer.status.value
    explorer.num_classes.value, explorer.counts[2].value = 20, 50
    explorer.check.click()
    assert "Expected at most 2000 samples, but got" in explorer.error.value


def test_explorer_shows_errors_and_recovers(explorer):
    before = picture(explorer)
    explorer.counts[0].value = explorer.counts[1].value = 0
    assert "ValueError: Expected counts to hold at least one multiplicity" in explorer.error.value
    assert explorer.status.value == ""
    explorer.counts[0].value = 3
    assert explorer.error.value == ""
    explorer.counts[1].value = 1
    assert picture(explorer) == before


def test_explorer_has_a_image_for_readers_without_a_kernel(explorer):
    bundle = explorer._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]) == picture(explorer)
    assert "application/vnd.jupyter.widget-view+json" in bundle
