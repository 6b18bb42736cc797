"""The explorer without a browser: its data, views and widgets against files of a made-up study."""

import base64
import io
import re
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from nclib.explore import (
    Explorer,
    FeaturesView,
    MatricesView,
    MetricsView,
    PairsView,
    RunData,
    State,
    load_run,
    project,
    runs,
    studies,
)
from nclib.explore.details import numbers
from nclib.explore.png import encode
from nclib.figures.gram import simplex_cosines
from nclib.figures.panels import panel
from nclib.geometry import Geometry
from nclib.notebook import run_notebook
from nclib.study import Study
from tests.synthetic_study import IMBALANCED, MULTI_LABEL, SINGLE_LABEL, TRIPLES, write_study

VIEWS = (MetricsView, MatricesView, FeaturesView, PairsView)
NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "05_explore.ipynb"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("explore") / "outputs"
    for study in (MULTI_LABEL, TRIPLES, {**SINGLE_LABEL, "seeds": [0]}):
        write_study(folder, Study.from_mapping(study))
    return folder


@pytest.fixture(scope="module")
def pair(outputs):
    """A learned and an ETF run of the multi-label study."""
    return tuple(load_run(outputs / "made_multi", run, 0) for run in ("learned", "etf"))


@pytest.fixture
def broken(outputs, tmp_path) -> Path:
    """A copy of the multi-label study, to take files away from."""
    return Path(shutil.copytree(outputs / "made_multi", tmp_path / "made_multi"))


def exact_etf(K: int = 6, d: int = 8) -> Geometry:
    """A run of one checkpoint at exact collapse, with all pairs at 0.6 of the sum of their class means."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(d, K, generator=generator, dtype=torch.float64))[0].T
    means = (3 * (torch.eye(K, dtype=torch.float64) - 1 / K) @ basis).float()
    singles = torch.eye(K, dtype=torch.uint8)
    pairs = torch.stack([singles[i] + singles[j] for i in range(K) for j in range(i + 1, K)])
    sets = torch.cat([singles, pairs])
    set_means = torch.cat([means, 0.6 * pairs.float() @ means])
    gram = simplex_cosines(K)
    return Geometry(
        class_names=tuple(f"c{k}" for k in range(K)),
        epochs=torch.tensor([7]),
        label_sets=sets,
        counts=torch.full((len(sets),), 5),
        class_means=means[None],
        global_mean=means.mean(0)[None],
        set_means=set_means[None],
        weight=2 * means[None],
        bias=torch.zeros(1, K),
        gram_features=gram[None],
        gram_weight=gram[None],
        angles=torch.zeros(1, len(sets)),
        scales=torch.tensor([[1.0, 0.6]]),
        margins=torch.full((1, 30), K / (K - 1)),
        sample_index=torch.arange(len(sets)),
        sample_labels=sets,
        sample_features=set_means[None],
    )


@pytest.fixture
def collapsed(tmp_path):
    exact_etf().save(tmp_path / "study" / "only" / "seed3" / "geometry.safetensors")
    return load_run(tmp_path / "study", "only", 3)


# Data ---------------------------------------------------------------------------------------------------------------


def test_finds_studies_and_runs(outputs, broken):
    assert studies(outputs) == ["made_multi", "made_single", "made_triples"]
    assert runs(outputs / "made_multi") == {"learned": (0, 1), "etf": (0, 1)}
    assert studies(outputs / "nowhere") == [] and runs(outputs / "nowhere") == {}
    for seed in (0, 1):
        (broken / "learned" / f"seed{seed}" / "geometry.safetensors").unlink()
    assert list(runs(broken)) == ["etf", "learned"]  # what can be looked at comes first


def test_angles_are_those_stored(pair):
    data = pair[0]
    place = data.label_sets.index((3, 7))
    expected = data.geometry.angles[:, place].numpy()
    assert np.array_equal(data.angles[:, 3, 7], expected) and np.array_equal(data.angles[:, 7, 3], expected)


def test_angles_at_exact_collapse(collapsed):
    assert np.abs(collapsed.angles).max() < 1e-3


def test_angles_of_many_classes_need_little_memory():
    """A study of mini-ImageNet has 100 classes, 512 dimensions and 201 checkpoints: e K K d numbers would be 4 GB."""
    epochs, K, d = 30, 60, 200
    means, weight = torch.randn(2, epochs, K, d, generator=torch.Generator().manual_seed(0))
    geometry = Geometry(
        class_names=tuple(f"c{k}" for k in range(K)),
        epochs=torch.arange(epochs),
        label_sets=torch.eye(K, dtype=torch.uint8),
        counts=torch.full((K,), 5),
        class_means=means,
        global_mean=means.mean(1),
        set_means=means,
        weight=weight,
        bias=torch.zeros(epochs, K),
        gram_features=simplex_cosines(K).expand(epochs, K, K),
        gram_weight=simplex_cosines(K).expand(epochs, K, K),
        angles=torch.zeros(epochs, K),
        scales=torch.ones(epochs, 1),
        margins=torch.zeros(epochs, 1),
        sample_index=torch.arange(K),
        sample_labels=torch.eye(K, dtype=torch.uint8),
        sample_features=means,
    )
    data = RunData("many", 0, geometry, None, None)
    tracemalloc.start()
    angles = data.angles
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert angles.shape == (epochs, K, K)
    assert peak < 8 * epochs * K * K + 4e6  # the angles themselves and the work on one epoch


def test_single_label_angles_are_distances_from_the_ideal(outputs):
    data = load_run(outputs / "made_single", "sgd", 0)
    K, e = data.num_classes, 3
    means = data.geometry.class_means[e].double().numpy()
    means -= means.mean(0)
    cosine = means[2] @ means[5] / np.linalg.norm(means[2]) / np.linalg.norm(means[5])
    expected = abs(np.degrees(np.arccos(cosine)) - np.degrees(np.arccos(-1 / (K - 1))))
    assert data.angles[e, 2, 5] == pytest.approx(expected, abs=1e-3)


def test_position_is_the_last_checkpoint_up_to_an_epoch(pair):
    assert [pair[0].position(epoch) for epoch in (-1, 0, 4, 5, 60, 999)] == [0, 0, 0, 1, 12, 12]


def test_pictures_have_exactly_the_label_set(pair):
    images = pair[0].pictures((3, 7), limit=3)
    assert images.shape == (3, 1, 16, 16)


# Planes -------------------------------------------------------------------------------------------------------------


def test_plane_of_three_classes_at_collapse_is_a_triangle(collapsed):
    seen = project(collapsed, (0, 2, 4))
    K = 6
    sides = np.linalg.norm(seen.means[0] - np.roll(seen.means[0], 1, 0), axis=1)
    np.testing.assert_allclose(sides, np.sqrt(2 * K / (K - 1)), rtol=1e-5)
    np.testing.assert_allclose(seen.tips, seen.means, atol=1e-5)
    np.testing.assert_allclose(seen.averages, seen.pair_means, atol=1e-5)
    assert seen.means[0, 0, 1] > 0 > seen.means[0, 1, 0]  # the first on top, the second on the left
    assert seen.pairs == [(0, 2), (0, 4), (2, 4)] and seen.classes == [0, 2, 4]
    assert seen.shown.sum() == 6  # no feature of another class


def test_circle_shows_an_etf_as_a_regular_polygon(collapsed):
    seen = project(collapsed, "circle")
    K = 6
    turn = np.pi / 2 - 2 * np.pi * np.arange(K) / K
    expected = np.sqrt(2 / (K - 1)) * np.stack([np.cos(turn), np.sin(turn)], -1)
    np.testing.assert_allclose(seen.means[0], expected, atol=1e-5)


def test_principal_axes_hold_the_largest_share(pair):
    data = pair[0]
    means = data.geometry.class_means.double().numpy()
    centred = means - means.mean(1, keepdims=True)
    values = np.linalg.svd(centred, compute_uv=False) ** 2
    seen = project(data, "principal")
    own = np.square(seen.means - seen.origin[:, None]).sum((1, 2))
    np.testing.assert_allclose(own, (values[:, :2].sum(1) / values.sum(1)) * data.num_classes, rtol=1e-6)


@pytest.mark.parametrize("plane", [(0, 0, 1), (0, 1, 99), "sideways"])
def test_impossible_planes_are_refused(collapsed, plane):
    with pytest.raises(ValueError, match="Expected"):
        project(collapsed, plane)


# Views --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("study", ["made_multi", "made_triples", "made_single"])
def test_views_follow_the_epoch_and_come_back(outputs, kind, study):
    data = tuple(load_run(outputs / study, run, 0) for run in list(runs(outputs / study))[:2])
    view, first = kind(), State(data, 0, labels=(1, 2))
    late = replace(first, epoch=int(data[0].epochs[-1]))
    start, start_overlay = view.pixels(first).copy(), view.overlay(first)
    changed = np.abs(view.pixels(late).astype(int) - start).max(-1) > 30
    assert 0.002 < changed.mean() < 0.9
    assert view.overlay(late) != start_overlay
    assert np.array_equal(view.pixels(first), start) and view.overlay(first) == start_overlay


def test_matrices_show_the_stored_cosines(pair):
    view, state = MatricesView(), State(pair, 20)
    view.pixels(state)
    shown = [cells.values for cells in view._cells]
    g = pair[0].geometry
    assert np.array_equal(shown[0], g.gram_features[4].numpy()) and np.array_equal(shown[1], g.gram_weight[4].numpy())
    away = np.abs(g.gram_features[4].numpy() - simplex_cosines(10).numpy()).max()
    assert f"class means {away:.3f}" in view.caption(state)


def test_two_runs_share_their_scales(pair):
    view = FeaturesView()
    view.pixels(State(pair, 0))
    planes = [ax for ax in view.figure.axes if ax.get_xlim()[0] == -ax.get_xlim()[1]]
    assert len(planes) == 2 and planes[0].get_xlim() == planes[1].get_xlim() == planes[0].get_ylim()


def test_log_axes(pair):
    view = MetricsView()
    for log_values, log_epochs in ((True, False), (False, True)):
        view.pixels(State(pair, 0, log_values=log_values, log_epochs=log_epochs))
        ax = view.figure.axes[0]
        assert (ax.get_yscale() == "log") == log_values and (ax.get_xscale() == "symlog") == log_epochs
    assert view.figure.axes[4].get_yscale() == "linear"  # scores stay between 0 and 1


def test_metric_of_the_last_panel(pair):
    view = MetricsView()
    view.pixels(State(pair, 0, metric="bias_residual"))
    last = [ax for ax in view.figure.axes if ax.get_title(loc="left")][-1]
    assert last.get_title(loc="left") == panel("bias_residual").title
    rows = pair[0].metrics.query("split == 'train'")
    assert np.array_equal(last.lines[0].get_ydata(), rows["bias_residual"])


@pytest.mark.parametrize("metric", ["nc4", "tag_wise_angle_max_2", "threshold_subset_accuracy"])
def test_titles_are_those_of_the_figures_and_fit_the_picture(pair, metric):
    view = MetricsView()
    view.pixels(State(pair, 0, metric=metric))
    shown = [ax.get_title(loc="left") for ax in view.figure.axes if ax.get_title(loc="left")]
    titles = [title.replace("\n", " ") for title in shown]
    columns = ("nc1", "nc3_centered", "tag_wise_ratio_2", metric)
    assert [titles[0], *titles[2:]] == [panel(column).title for column in columns]
    drawn = [text.get_window_extent() for text in view.figure.findobj(Text) if text.get_text() in shown]
    assert max(extent.x1 for extent in drawn) <= view.width


def test_png_is_read_back_bit_for_bit():
    pixels = np.random.default_rng(0).integers(0, 256, (17, 31, 4), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode(pixels)))), pixels)


def test_overlay_marks_what_the_pixels_mark(collapsed):
    """The classifier's arrow to the first class ends in SVG where it ends in the picture."""
    view, state = FeaturesView(), State((collapsed,), 7)
    view.pixels(state)
    ax = view.figure.axes[0]
    x, y = ax.transData.transform(project(collapsed, "circle").tips[0, 0])
    ends = re.findall(r"L([\d.]+) ([\d.]+)", view.overlay(state))
    assert min(np.hypot(float(a) - x, float(b) - (view.height - y)) for a, b in ends) < 0.2


def test_numbers_of_a_pair(collapsed):
    told = numbers(collapsed, (1, 4), 7)
    assert told["training pictures"] == "5" and told["own scale"] == "0.600"
    assert told["angle to tag-wise average"] == "0.00°" and told["off the scaled average"] == "0.0 %"
    assert numbers(collapsed, (2,), 7)["angle of class mean to classifier row"] == "0.00°"


# Widgets ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(outputs) -> Explorer:
    return Explorer(outputs / "made_multi", run="etf", seed=1)


@pytest.fixture
def explorer(shared) -> Explorer:
    """One explorer for many tests, each of which finds it as it starts: building it takes a second."""
    c = shared.controls
    chosen = {"study": "made_multi", "first": "etf", "first_seed": 1, "second": "learned", "second_seed": 0}
    for name, value in (chosen | {"epoch": 60, "plane": "circle", "labels": (0, 1)}).items():
        getattr(c, name).value = value
    for switch in c.switches.values():
        switch.value = True
    return shared


def shown(explorer: Explorer) -> dict[str, str]:
    return {name: overlay.value for name, overlay in explorer.controls.overlays.items()}


def test_starts_as_asked_at_the_last_epoch(explorer):
    state = explorer.state
    assert [data.label for data in state.runs] == ["etf, seed 1", "learned, seed 0"]
    assert state.epoch == 60 and explorer.controls.message.value == ""
    assert all(picture.value for picture in explorer.controls.pictures.values())


def test_the_slider_moves_every_view_and_no_still_picture(explorer):
    before, still = shown(explorer), [p.value for p in explorer.controls.pictures.values()]
    explorer.controls.epoch.value = 10
    after = shown(explorer)
    assert all(before[name] != after[name] for name in before)
    assert still == [p.value for p in explorer.controls.pictures.values()]
    assert "data-epoch='10'" in explorer.controls.status.value


def test_another_run_and_no_second_run(explorer):
    before = explorer.controls.pictures["features"].value
    explorer.controls.first.value = "learned"
    assert explorer.state.runs[0].run == "learned" and explorer.controls.pictures["features"].value != before
    explorer.controls.second.value = ""
    assert len(explorer.state.runs) == 1 and explorer.controls.message.value == ""


def test_another_study(explorer):
    explorer.controls.study.value = "made_single"
    assert explorer.state.epoch == 40 and explorer.controls.message.value == ""
    assert explorer.controls.switches["pairs"].description == "Angles of class means, less those of the ETF"
    assert "angle between class means" in explorer.controls.numbers.value
    assert explorer.controls.samples.value[1:4] == b"PNG"


def test_a_click_on_a_cell_chooses_its_pair_again_and_again(explorer):
    c = explorer.controls
    for _ in range(2):
        c.labels.value = (0, 1)
        c.cells[1].value = (7, 3)
        assert c.labels.value == (3, 7) and c.cells[1].value is None
    assert "Training pictures of 3 &amp; 7" in c.samples_caption.value


def test_hidden_views_are_not_drawn(explorer):
    c = explorer.controls
    c.switches["matrices"].value = False
    before = shown(explorer)["matrices"]
    c.epoch.value = 5
    assert shown(explorer)["matrices"] == before
    c.switches["matrices"].value = True
    assert shown(explorer)["matrices"] != before


def test_three_corners_stay_different(explorer):
    c = explorer.controls
    c.plane.value = "three"
    c.corners[0].value = 2
    assert [corner.value for corner in c.corners] == [2, 1, 0] and explorer.state.plane == (2, 1, 0)
    assert c.message.value == ""
    c.corners[0].value = 0
    assert explorer.state.plane == (0, 1, 2)


def test_missing_files_are_said_in_words(broken):
    (broken / "etf" / "seed0" / "geometry.safetensors").unlink()
    (broken / "learned" / "seed0" / "metrics.csv").unlink()
    shutil.rmtree(broken / "datasets")
    explorer = Explorer(broken, run="learned")
    message = explorer.controls.message.value
    assert "geometry.safetensors is missing: run stage 03_validate first." in message
    assert "metrics.csv is missing: run stage 03_validate first." in message
    assert "run stage 01_dataset first" in explorer.controls.samples_caption.value
    explorer.controls.epoch.value = 10
    assert "data-epoch='10'" in explorer.controls.status.value


def test_a_damaged_file_is_said_in_words(broken):
    path = broken / "learned" / "seed0" / "geometry.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "is damaged" in Explorer(broken, run="learned").controls.message.value


def test_nothing_there_yet(tmp_path):
    explorer = Explorer(tmp_path / "coming")
    assert "holds no training run yet" in explorer.controls.message.value
    assert "image/png" not in explorer._repr_mimebundle_()
    with pytest.raises(RuntimeError, match="holds no training run yet"):
        explorer.picture()


def test_errors_of_callbacks_are_shown(explorer, monkeypatch):
    monkeypatch.setattr(explorer.views["features"], "overlay", lambda state: 1 / 0)
    explorer.controls.epoch.value = 5
    assert "ZeroDivisionError" in explorer.controls.message.value
    assert "data-error='ZeroDivisionError'" in explorer.controls.status.value


def test_reload_sees_new_results(broken):
    path = broken / "learned" / "seed0" / "geometry.safetensors"
    kept = path.read_bytes()
    path.unlink()
    explorer = Explorer(broken, run="learned")
    path.write_bytes(kept)
    explorer.controls.reload.click()
    assert explorer.controls.message.value == "" and explorer.state.runs[0].geometry is not None


def test_unknown_view_is_refused(explorer):
    with pytest.raises(ValueError, match="Expected a view of metrics"):
        explorer.picture("everything")


def test_imbalanced_pairs_have_their_counts(tmp_path):
    write_study(tmp_path, Study.from_mapping({**IMBALANCED, "seeds": [0]}))
    data = load_run(tmp_path / "made_imbalanced", "learned", 0)
    assert numbers(data, (0, 1), 60)["training pictures"] == "20"
    assert numbers(data, (8, 9), 60)["training pictures"] == "2"


# Notebook -----------------------------------------------------------------------------------------------------------


def executed(tmp_path, **parameters):
    """What the cells of the notebook show, by kind."""
    run_notebook(NOTEBOOK, tmp_path / "executed.ipynb", parameters)
    notebook = nbformat.read(tmp_path / "executed.ipynb", 4)
    assert "widgets" not in notebook.metadata
    return [o.data for cell in notebook.cells for o in cell.get("outputs", ()) if "data" in o]


def test_executed_notebook_leaves_pictures(outputs, tmp_path):
    bundles = executed(tmp_path, study="made_multi", outputs=str(outputs))
    pictures = [Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) for data in bundles]
    assert len(pictures) == 3 and "application/vnd.jupyter.widget-view+json" in bundles[0]
    expected = Explorer(outputs / "made_multi", run="learned").picture()
    assert np.array_equal(np.asarray(pictures[0]), np.asarray(Image.open(io.BytesIO(expected))))


def test_notebook_of_two_classes_shows_their_line(tmp_path):
    exact_etf(K=2).save(tmp_path / "two" / "learned" / "seed0" / "geometry.safetensors")
    bundles = executed(tmp_path, study="two", outputs=str(tmp_path))
    assert ["image/png" in data for data in bundles] == [True] * 3


@pytest.mark.parametrize("run", [None, "learned"])
def test_notebook_says_in_words_that_there_is_nothing_to_draw(tmp_path, run):
    """Before any training, and after a training that was not validated."""
    if run:
        (tmp_path / "coming" / run / "seed0").mkdir(parents=True)
    bundles = executed(tmp_path, study="coming", outputs=str(tmp_path))
    assert ["Nothing to draw" in data.get("text/markdown", "") for data in bundles] == [False, True, True]
    assert not any("image/png" in data for data in bundles[1:])
