"""The explorer without a browser: its data, views and widgets against files of a made-up study."""

import base64
import io
import json
import re
import shutil
import tracemalloc
from dataclasses import replace
from itertools import product
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
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
from nclib.explore.canvas import Metric
from nclib.explore.curves import _panel
from nclib.explore.details import numbers
from nclib.explore.logaxis import LogRange, log_ticks
from nclib.explore.png import encode
from nclib.explore.theme import run_colors, text_color
from nclib.figures.gram import simplex_cosines
from nclib.figures.panels import panel
from nclib.figures.style import RunStyles
from nclib.results import metrics_table
from nclib.results.geometry import Geometry
from nclib.study.files import StageError
from nclib.study.runner import run_notebook
from nclib.study.study import ParameterError, Study
from tests.synthetic_study import IMBALANCED, MULTI_LABEL, SINGLE_LABEL, TRIPLES, write_study

VIEWS = (MetricsView, MatricesView, FeaturesView, PairsView)
NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "05_explore.ipynb"
DOCS = Path(__file__).parent.parent / "docs" / "explore.md"


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


def note_figures(study: Path, *names: str) -> None:
    """Leave what 04_figures notes of the order of a study's runs."""
    manifest = {"parameters": {"runs": {name: {} for name in names}}}
    (study / "04_figures.manifest.json").write_text(json.dumps(manifest))


def make_runs(study: Path, *names: str) -> Path:
    for name in names:
        exact_etf().save(study / name / "seed0" / "geometry.safetensors")
    return study


def test_runs_come_in_the_order_of_the_study(tmp_path):
    study = make_runs(tmp_path / "made_order", "added", "ce_etf", "ce_learned", "mse_learned")
    assert list(runs(study)) == ["added", "ce_etf", "ce_learned", "mse_learned"]
    note_figures(study, "mse_learned", "mse_etf", "ce_learned", "ce_etf")
    assert list(runs(study)) == ["mse_learned", "ce_learned", "ce_etf", "added"]
    assert [data.run for data in Explorer(study).state.runs] == ["mse_learned", "ce_learned"]


def test_before_any_figure_the_order_is_that_of_the_study_file(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "Snakefile").touch()
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "mine.yaml").write_text("study: mine\nruns: {second: {}, first: {}}\n")
    study = make_runs(tmp_path / "outputs" / "mine", "first", "second")
    assert list(runs(study)) == ["second", "first"]
    (study / "04_figures.manifest.json").write_text("[]")
    assert list(runs(study)) == ["second", "first"]


def test_a_run_has_the_color_of_the_figures_whatever_is_chosen(tmp_path):
    names = ["learned", "etf", "lbfgs"]
    study = make_runs(tmp_path / "made_colors", *names)
    note_figures(study, *names)
    expected = {run: to_hex(color) for run, color in RunStyles.from_runs(names).colors.items()}
    assert {run: load_run(study, run, 0).color for run in names} == expected
    state = Explorer(study, run="lbfgs").state
    assert state.colors == tuple(expected[data.run] for data in state.runs)


def test_runs_in_groups_have_colors_of_their_own():
    names = ["mse_learned", "mse_etf", "ce_learned", "ce_etf"]
    assert RunStyles.from_runs(names).groups  # so that the figures tell them by dashes
    assert len(set(run_colors(names).values())) == 4


def test_two_seeds_of_a_run_have_two_shades(outputs):
    data = tuple(load_run(outputs / "made_multi", "learned", seed) for seed in (0, 1))
    assert data[0].color == data[1].color and len(set(State(data, 0).colors)) == 2


@pytest.mark.parametrize("color", ["#0173b2", "#de8f05", "#ece133", "#000000"])
def test_names_of_runs_can_be_read(color):
    """The contrast to white that WCAG 2 asks of text, by its own formula."""
    rgb = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in to_rgb(text_color(color))
    ]
    assert 1.05 / (0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2] + 0.05) > 4.45


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
    centered = means - means.mean(1, keepdims=True)
    values = np.linalg.svd(centered, compute_uv=False) ** 2
    seen = project(data, "principal")
    own = np.square(seen.means - seen.origin[:, None]).sum((1, 2))
    np.testing.assert_allclose(own, (values[:, :2].sum(1) / values.sum(1)) * data.num_classes, rtol=1e-6)


@pytest.mark.parametrize("plane", [(0, 0, 1), (0, 1, 99), "sideways"])
def test_impossible_planes_are_refused(collapsed, plane):
    with pytest.raises(ValueError, match="Expected"):
        project(collapsed, plane)


# Views --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("study", "kind"), [*product(("made_multi", "made_single"), VIEWS), ("made_triples", MetricsView)]
)
def test_views_follow_the_epoch_and_come_back(outputs, study, kind):
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


def with_metrics(data: RunData, values: dict[Metric, list[float]]) -> RunData:
    """`data` with other values of some metrics at its first epochs, on both splits, and no later epochs."""
    epochs = data.epochs[: len(next(iter(values.values())))]
    table = data.metrics[data.metrics["epoch"].isin(epochs)].copy()
    for (metric, labels), of_metric in values.items():
        for split in ("train", "test"):
            rows = metrics_table.of_metric(table, metric, split=split, labels=labels)
            table.loc[rows.index, "value"] = of_metric
    return replace(data, metrics=table)


def drawn_panels(*data: RunData, **changes):
    view = MetricsView()
    view.pixels(State(data, 0, **changes))
    return view.figure.axes[:5]


def labeled(ax) -> list[str]:
    low, high = ax.get_ylim()
    ticks = zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)
    return [label.get_text() for tick, label in ticks if low <= tick <= high and label.get_text()]


def test_an_exact_etf_leaves_the_axis_to_the_other_curves(pair):
    learned = with_metrics(
        pair[0], {("nc2_w_centered", None): [0.7, 0.3, 0.1], ("nc2_h_centered", None): [0.9, 0.4, 0.2]}
    )
    etf = with_metrics(pair[1], {("nc2_w_centered", None): [3.7e-16] * 3, ("nc2_h_centered", None): [0.9, 0.3, 0.07]})
    ax = drawn_panels(learned, etf)[1]
    low, high = ax.get_ylim()
    assert 0.02 < low < 0.07 and 0.9 < high < 2
    etf_line = ax.lines[2].get_ydata()
    assert np.ptp(etf_line) == 0 and low < etf_line[0] < 0.07
    assert labeled(ax)[0] == "0" and ax.get_yticks()[0] == etf_line[0]
    assert np.array_equal(ax.lines[3].get_ydata(), [0.9, 0.3, 0.07])


def test_zeros_are_drawn_at_the_lower_edge(pair):
    data = with_metrics(pair[0], {("nc4", None): [0.9, 0.01, 0.0, 0.0]})
    ax = drawn_panels(data, metric=("nc4", None))[4]
    low, line = ax.get_ylim()[0], ax.lines[0].get_ydata()
    assert np.array_equal(line[:2], [0.9, 0.01]) and line[2] == line[3] == ax.get_yticks()[0]
    assert low < line[2] < 0.01 and labeled(ax)[0] == "0"
    ax = drawn_panels(with_metrics(pair[0], {("nc4", None): [0.0, 0.0]}), metric=("nc4", None))[4]
    assert ax.get_ylim()[0] < ax.lines[0].get_ydata()[0] < 1e-3 and labeled(ax)[0] == "0"


def test_small_values_are_drawn_in_their_place(pair):
    ax = drawn_panels(with_metrics(pair[0], {("nc1", None): [60_000.0, 1e-2, 1e-5]}))[0]
    assert np.array_equal(ax.lines[0].get_ydata(), [60_000.0, 1e-2, 1e-5])
    assert 1e-6 < ax.get_ylim()[0] < 1e-5 and "0" not in labeled(ax) and 3 <= len(labeled(ax)) <= 6


@pytest.mark.parametrize("values", [(0.98, 0.125), (0.9, 0.7), (0.2, 0.2), (3e-5, 9e-5), (1.49, 0.011)])
def test_short_log_axes_have_labels(values):
    ax = Figure().subplots()
    LogRange.from_values(np.array(values)).apply(ax)
    assert ax.get_yscale() == "log" and len(labeled(ax)) >= 3


@pytest.mark.parametrize("decades", [0.02, 0.3, 0.8, 1, 1.7, 2.5, 4, 9])
def test_ticks_are_few_and_within_the_axis(decades):
    for low in 10.0 ** np.arange(-9, 3, 0.37):
        high = low * 10**decades
        ticks = log_ticks(low, high)
        assert 2 <= len(ticks) <= 7 and low <= min(ticks) and max(ticks) <= high


def test_the_marks_of_the_epoch_lie_on_the_curves(pair):
    data = with_metrics(pair[0], {("nc4", None): [0.9, 0.01, 0.0, 0.0]})
    view = MetricsView()
    view.pixels(State((data,), int(data.epochs[2]), metric=("nc4", None)))
    points = np.column_stack(view._marks[0][0].get_data())
    lines = [(ax, line) for ax in view.figure.axes[:5] for line in ax.lines]
    expected = [view.on_glass(ax, np.column_stack([line.get_xdata(), line.get_ydata()]))[2] for ax, line in lines]
    np.testing.assert_allclose(points, expected)


@pytest.mark.parametrize("kind", VIEWS)
def test_pictures_say_the_epoch_of_each_run(pair, kind):
    """Where a run has no checkpoint at the epoch, its picture is that of the one before."""
    view = kind()
    view.pixels(State(pair, 20))
    told = [text.get_text() for text in view.figure.findobj(Text) if text.get_text().startswith("epoch ")]
    assert told == ["epoch 20"] * 2
    before = view.pixels(State(pair, 20)).copy()
    assert not np.array_equal(before, view.still(State(pair, 20)))
    view.pixels(State(pair, 24))
    told = [text.get_text() for text in view.figure.findobj(Text) if text.get_text().startswith("epoch ")]
    assert told == ["epoch 20"] * 2 and "epoch" not in view.overlay(State(pair, 20))


def test_metric_of_the_last_panel(pair):
    view = MetricsView()
    view.pixels(State(pair, 0, metric=("bias_residual", None)))
    last = [ax for ax in view.figure.axes if ax.get_title(loc="left")][-1]
    assert last.get_title(loc="left") == panel("bias_residual").title
    rows = metrics_table.of_metric(pair[0].metrics, "bias_residual")
    assert np.array_equal(last.lines[0].get_ydata(), rows["value"])


@pytest.mark.parametrize("metric", [("tag_wise_angle_max", 2), ("threshold_subset_accuracy", None)])
def test_titles_are_those_of_the_figures_and_fit_the_picture(pair, metric):
    view = MetricsView()
    view.pixels(State(pair, 0, metric=metric))
    shown = [ax.get_title(loc="left") for ax in view.figure.axes if ax.get_title(loc="left")]
    titles = [title.replace("\n", " ") for title in shown]
    metrics = (("nc1", None), ("nc3_centered", None), ("tag_wise_ratio", 2), metric)
    assert [titles[0], *titles[2:]] == [_panel(metric).title for metric in metrics]
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
    with shared._quiet():
        shared._selection.start("made_multi", "etf", 1)
        c.second_seed.value, c.plane.value, c.labels.value = 0, "circle", (0, 1)
    shared.redraw()
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


def test_the_play_button_moves_the_slider(explorer):
    c = explorer.controls
    c.play.value = 3
    assert c.epoch.value == 15 and "data-epoch='15'" in c.status.value
    c.epoch.value = 0
    assert c.play.value == 0


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


@pytest.mark.parametrize("epoch", [-5, 7, 1000])
def test_an_epoch_without_checkpoint_is_refused(explorer, epoch):
    with pytest.raises(ValueError, match=rf"Expected an epoch of 0, 5, 10, .*, 60, but got {epoch!r}\."):
        explorer.picture("features", epoch=epoch)


def test_an_epoch_of_either_run_is_drawn(tmp_path):
    study = make_runs(tmp_path / "made_uneven", "long", "short")
    replace(exact_etf(), epochs=torch.tensor([3])).save(study / "short" / "seed0" / "geometry.safetensors")
    explorer = Explorer(study)
    explorer.picture("matrices", epoch=3)
    explorer.picture("matrices", epoch=7)
    told = [text.get_text() for text in explorer.views["matrices"].figure.findobj(Text)]
    assert "epoch 7" in told and "epoch 3" in told


def test_unknown_runs_seeds_and_folders_are_refused(outputs):
    with pytest.raises(ParameterError, match=r"run: study 'made_multi' has no run 'nope'; it has learned, etf$"):
        Explorer(outputs / "made_multi", run="nope")
    with pytest.raises(ParameterError, match=r"seed: run 'etf' of study 'made_multi' has no seed 7; it has 0, 1$"):
        Explorer(outputs / "made_multi", run="etf", seed=7)
    has = r"has no study 'nope'; it has made_multi, made_single, made_triples\. To add a study, run it first"
    with pytest.raises(StageError, match=has):
        Explorer(outputs / "nope")
    with pytest.raises(StageError, match="nowhere is no folder"):
        Explorer(outputs / "nowhere" / "nope")


def test_without_a_seed_the_first_one_is_shown(collapsed, tmp_path):
    assert Explorer(tmp_path / "study").state.runs[0].seed == 3


def test_the_table_of_views_in_the_docs_names_each(explorer):
    rows = re.findall(r"^\| [A-Z]\w+ \| `(\w+)` \|", DOCS.read_text(), re.MULTILINE)
    assert set(rows) == set(explorer.views)
    assert all(explorer.picture(name)[1:4] == b"PNG" for name in rows)


def test_unknown_view_is_refused(explorer):
    with pytest.raises(ValueError, match="Expected a view of metrics"):
        explorer.picture("everything")


def test_imbalanced_pairs_have_their_counts(tmp_path):
    write_study(tmp_path, Study.from_mapping({**IMBALANCED, "seeds": [0]}))
    data = load_run(tmp_path / "made_imbalanced", "learned", 0)
    assert numbers(data, (0, 1), 60)["training pictures"] == "20"
    assert numbers(data, (8, 9), 60)["training pictures"] == "2"


# Notebook -----------------------------------------------------------------------------------------------------------


def last_values(**parameters) -> list[object]:
    """What the last line of each code cell gives, run in this process."""
    shell, values = InteractiveShell(), []
    for cell in nbformat.read(NOTEBOOK, 4).cells:
        if cell.cell_type == "code":
            done = shell.run_cell(cell.source)
            done.raise_error()
            values += [] if done.result is None else [done.result]
            if "parameters" in cell.metadata.get("tags", ()):
                shell.push(parameters)
    return values


def test_executed_notebook_leaves_pictures(outputs, tmp_path):
    run_notebook(NOTEBOOK, tmp_path / "executed.ipynb", {"study": "made_multi", "outputs": str(outputs)})
    notebook = nbformat.read(tmp_path / "executed.ipynb", 4)
    assert "widgets" not in notebook.metadata
    bundles = [o.data for cell in notebook.cells for o in cell.get("outputs", ()) if "data" in o]
    pictures = [Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) for data in bundles]
    assert len(pictures) == 3 and "application/vnd.jupyter.widget-view+json" in bundles[0]
    expected = Explorer(outputs / "made_multi", run="learned").picture()
    assert np.array_equal(np.asarray(pictures[0]), np.asarray(Image.open(io.BytesIO(expected))))


def test_notebook_of_two_classes_shows_their_line(tmp_path):
    exact_etf(K=2).save(tmp_path / "two" / "learned" / "seed0" / "geometry.safetensors")
    explorer, *pictures = last_values(study="two", outputs=str(tmp_path))
    assert "image/png" in explorer._repr_mimebundle_()
    assert [picture.data[1:4] for picture in pictures] == [b"PNG"] * 2


@pytest.mark.parametrize("run", [None, "learned"])
def test_notebook_says_in_words_that_there_is_nothing_to_draw(tmp_path, run):
    """Before any training, and after a training that was not validated."""
    if run:
        (tmp_path / "coming" / run / "seed0").mkdir(parents=True)
    _, *shown = last_values(study="coming", outputs=str(tmp_path))
    assert ["Nothing to draw" in value.data for value in shown] == [True, True]
