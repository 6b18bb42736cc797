"""Figures: what they draw is what was measured, and their files are whole, vector and reproducible."""

import errno
import json
import math
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from nclib import figures, heads
from nclib.data import dataset
from nclib.data.compose import MultiLabelData
from nclib.figures.gram import simplex_cosines, upper_bound
from nclib.figures.layout import fit_text
from nclib.figures.panels import panel
from nclib.figures.style import group_names
from nclib.results.predictions import balanced_counts
from nclib.results.study_results import StudyResults
from nclib.study.files import StageError, sha256, write_csv
from nclib.study.runner import run_notebook
from nclib.study.runs import Manifest
from nclib.study.study import Study
from nclib.theory import predict_training
from tests.synthetic_study import (
    IMBALANCED,
    MANY_RUNS,
    MULTI_LABEL,
    SINGLE_LABEL,
    TRIPLES,
    write_manifests,
    write_study,
)

DIGITS = {
    "study": "one_label",
    "dataset": {"name": "digits", "source": "digits", "sample_size": 10},
    "runs": {"any": {}},
}
SWEPT = {"training.lr": [0.05, 0.1], "training.weight_decay": [0.0005, 0.001]}
SWEPT_RUNS = list(Study.from_mapping({**MULTI_LABEL, "sweep": SWEPT}).runs)  # learned-lr=0.05-weight_decay=0.0005, ...
NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "04_figures.ipynb"


@pytest.fixture(autouse=True)
def closed():
    """Draw without a screen, and leave no figure open."""
    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Made-up results of a study, written once."""
    outputs, known = tmp_path_factory.mktemp("outputs"), {}

    def made(mapping) -> StudyResults:
        study = Study.from_mapping(mapping)
        if study.study not in known:
            write_study(outputs, study)
            known[study.study] = StudyResults.load(study, outputs)
        return known[study.study]

    return made


def lines_of(axes):
    """The curves on an axes, without reference lines."""
    return [line for line in axes.lines if len(line.get_xdata()) > 2]


def assert_readable(figure, artists):
    """No artist overlaps another or leaves the figure."""
    figure.draw_without_rendering()
    boxes = [artist.get_window_extent() for artist in artists]
    for place, box in enumerate(boxes):
        inside = figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1)
        assert inside and figure.bbox.containsy(box.y0) and figure.bbox.containsy(box.y1), artists[place]
        assert not box.count_overlaps(boxes[:place]), artists[place]


def titles_of(figure):
    """The titles of all axes, left or centered."""
    shown = [text for axes in figure.axes for text in (axes._left_title, axes.title)]
    return [text for text in shown if text.get_text()]


def test_importing_the_package_and_its_tables_loads_no_plotting_library():
    code = (
        "import sys, nclib\nassert not {'torch', 'matplotlib', 'ipywidgets'} & set(sys.modules)\n"
        "import nclib.results.tables\nassert not {'matplotlib', 'seaborn', 'ipywidgets'} & set(sys.modules), 'plotting'"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- reading results


def test_results_know_what_was_measured(load):
    assert load(MULTI_LABEL).multiplicities == (2,)
    assert load(TRIPLES).multiplicities == (2, 3)
    assert load(IMBALANCED).imbalance_groups == (20, 8, 2)
    assert not load(SINGLE_LABEL).is_multi_label
    assert not load(MULTI_LABEL).imbalance_groups
    last = load(MULTI_LABEL).last("test")
    assert list(zip(last["run"], last["seed"], strict=True)) == [("learned", 0), ("learned", 1), ("etf", 0), ("etf", 1)]
    assert set(last["epoch"]) == {60}


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("history.csv", "02_train"),
        ("02_train.manifest.json", "02_train"),
        ("metrics.csv", "03_validate"),
    ],
)
def test_a_missing_file_names_the_stage_to_run(tmp_path, file, stage):
    study = Study.from_mapping({**MULTI_LABEL, "seeds": [0]})
    missing = write_study(tmp_path, study).run("etf", 0) / file
    missing.unlink()
    with pytest.raises(StageError, match=rf"etf/seed0/{file} is missing: run stage {stage} first"):
        StudyResults.load(study, tmp_path)


def test_files_of_another_form_are_refused(tmp_path):
    study = Study.from_mapping({**MULTI_LABEL, "seeds": [0]})
    folder = write_study(tmp_path, study).run("etf", 0)
    manifest = (folder / "02_train.manifest.json").read_text()
    metrics = pd.read_csv(folder / "metrics.csv")
    write_csv(folder / "metrics.csv", metrics.drop(columns="nc1"))
    with pytest.raises(StageError, match=r"metrics.csv is damaged \(it is not what 03_validate.manifest.json says\)"):
        StudyResults.load(study, tmp_path)
    write_manifests(folder, study.resolve("etf"), 0)
    with pytest.raises(StageError, match=r"metrics.csv is no table .* lacks the column 'nc1'.* run stage 03_validate"):
        StudyResults.load(study, tmp_path)
    write_csv(folder / "metrics.csv", metrics)
    write_manifests(folder, study.resolve("etf"), 0)
    (folder / "02_train.manifest.json").write_text("{}")
    with pytest.raises(StageError, match=r"02_train\.manifest\.json is damaged"):
        StudyResults.load(study, tmp_path)
    (folder / "02_train.manifest.json").write_text(manifest.replace("trainable_parameters", "something"))
    with pytest.raises(StageError, match="does not say 'trainable_parameters'"):
        StudyResults.load(study, tmp_path)


def test_results_of_other_parameters_are_refused(tmp_path):
    study = Study.from_mapping({**MULTI_LABEL, "seeds": [0]})
    write_study(tmp_path, study)
    other = Study.from_mapping({**MULTI_LABEL, "seeds": [0], "training": {"epochs": 60, "lr": 0.7}})
    with pytest.raises(StageError, match=r"seed0 was made with another training.\w+: run stage 02_train again"):
        StudyResults.load(other, tmp_path)


# --- styles


def test_sixteen_runs_differ_in_more_than_color():
    runs = [f"run{i}" for i in range(16)]
    styles = figures.RunStyles.from_runs(runs)
    in_print = {(styles.dashes[run], styles.markers[run]) for run in runs}
    assert len(in_print) > 11
    assert len({(styles.colors[run], styles.dashes[run], styles.markers[run]) for run in runs}) == 16


def test_grouped_runs_share_color_in_a_group_and_dashes_in_a_variant():
    styles = figures.RunStyles.from_runs(["vgg16_learned", "vgg16_etf", "vgg19_learned", "vgg19_etf"])
    assert styles.colors["vgg16_learned"] == styles.colors["vgg16_etf"] != styles.colors["vgg19_etf"]
    assert styles.markers["vgg16_learned"] == styles.markers["vgg16_etf"] != styles.markers["vgg19_etf"]
    assert styles.dashes["vgg16_etf"] == styles.dashes["vgg19_etf"] != styles.dashes["vgg19_learned"]


@pytest.mark.parametrize(
    ("runs", "groups"),
    [
        (["sgd", "adam"], None),
        (["a_b", "a_c"], None),
        (["mlp_256", "mlp_512", "resnet18_8", "resnet18_16"], None),
        (["a_b_x", "a_b_y", "a_c_x", "a_c_y"], ["a_b", "a_b", "a_c", "a_c"]),
        (["x-lr=1", "x-lr=2", "y-lr=1", "y-lr=2"], ["x", "x", "y", "y"]),
        (SWEPT_RUNS, ["learned"] * 4 + ["etf"] * 4),
        ([run for run in SWEPT_RUNS if run.startswith("etf")], ["etf-lr=0.05"] * 2 + ["etf-lr=0.1"] * 2),
        (["a_b-lr=1e-05", "a_b-lr=2e-05", "a_c-lr=1e-05", "a_c-lr=2e-05"], ["a_b", "a_b", "a_c", "a_c"]),
        ([f"x-weight_decay={n}e-0{m}" for n in (1, 2) for m in (5, 6)], None),
    ],
)
def test_names_form_groups_only_where_variants_recur(runs, groups):
    found = group_names(runs)
    assert (found and [found[run][0] for run in runs]) == groups


def test_many_variants_of_a_group_differ():
    runs = [f"{base}-lr={lr}" for base in ("learned", "etf") for lr in range(1, 9)]
    styles = figures.RunStyles.from_runs(runs)
    assert len({(styles.colors[run], styles.dashes[run], styles.markers[run]) for run in runs}) == 16


def test_style_leaves_the_settings_as_they_were():
    before = dict(mpl.rcParams)
    with figures.style():
        assert mpl.rcParams["font.size"] == 8
        plt.ion()  # as Jupyter does at the first figure: it has to last, or no later figure shows
    try:
        assert mpl.is_interactive()
    finally:
        plt.ioff()
    assert dict(mpl.rcParams) == before


# --- curves


def test_curves_are_means_over_seeds_and_bands_their_extremes(load):
    results = load(MULTI_LABEL)
    display = figures.MetricCurves.from_results(results).plot()
    columns = ["nc1", "nc2_w_centered", "nc2_h_centered", "nc3_centered", "tag_wise_ratio_2"]
    assert [shown.column for shown in display.panels] == columns
    assert len(display.axes_) == 5
    table = results.metrics[results.metrics["split"] == "train"]
    for axes, column in zip(display.axes_, columns, strict=True):
        assert axes.get_title(loc="left")
        bands = [c for c in axes.collections if isinstance(c, PolyCollection)]
        for run, line, band in zip(results.runs, lines_of(axes), bands, strict=True):
            seeds = table[table["run"] == run].pivot(index="epoch", columns="seed", values=column)
            np.testing.assert_allclose(line.get_xdata(), seeds.index)
            np.testing.assert_allclose(line.get_ydata(), seeds.mean(axis=1))
            corners = band.get_paths()[0].vertices
            at_start = corners[corners[:, 0] == 0, 1]
            np.testing.assert_allclose([at_start.min(), at_start.max()], [seeds.loc[0].min(), seeds.loc[0].max()])
    assert [axes.get_yscale() for axes in display.axes_] == ["log", *["linear"] * 4]
    legend = next(axes.get_legend() for axes in display.figure_.axes if axes.get_legend())
    assert [text.get_text() for text in legend.get_texts()] == ["learned", "etf"]
    assert "smallest to largest" in legend.get_title().get_text()


def test_curves_follow_the_data(load):
    triples = figures.MetricCurves.from_results(load(TRIPLES))
    assert [shown.column for shown in triples.panels][-2:] == ["tag_wise_ratio_2", "tag_wise_ratio_3"]
    assert not triples.plot().axes_[0].collections  # one seed has no band
    single = figures.MetricCurves.from_results(load(SINGLE_LABEL))
    assert [shown.column for shown in single.panels][4:] == [
        "bias_residual",
        "train_accuracy",
        "test_accuracy",
        "cosine_margin_mean",
        "nuclear_over_frobenius",
    ]
    metrics = load(SINGLE_LABEL).metrics
    expected = metrics[(metrics["split"] == "test") & (metrics["run"] == "adam")].groupby("epoch")["top1"].mean()
    drawn = lines_of(single.plot().axes_[6])[1]
    np.testing.assert_allclose(drawn.get_ydata(), expected)


def test_released_values_stand_below_the_corrected_ones(load):
    display = figures.MetricCurves.from_results(load(MULTI_LABEL), released=True).plot()
    columns = [shown.column for shown in display.panels]
    assert columns[:4] == ["nc1", "nc2_w_centered", "nc2_h_centered", "nc3_centered"]
    assert columns[4:] == ["released_nc1", "nc2_w", "nc2_h", "released_nc3"]
    assert display.axes_[4].get_position().y1 < display.axes_[0].get_position().y0


def test_many_grouped_runs_become_small_multiples(load):
    results = load(MANY_RUNS)
    display = figures.ScoreCurves.from_results(results).plot()
    grid = display.axes_.reshape(2, 4)
    assert [axes.get_title(loc="left") for axes in grid[0]] == ["resnet18", "resnet50", "vgg16", "vgg19"]
    assert all(len(lines_of(axes)) == 2 for axes in display.axes_)
    history = results.history[results.history["run"] == "vgg16_etf"]
    np.testing.assert_allclose(lines_of(grid[1, 2])[1].get_ydata(), history["test_soft_iou"])
    assert len({axes.get_ylim() for axes in grid[0]}) == 1
    assert [text.get_text() for text in display.figure_.legends[0].get_texts()] == ["learned", "etf"]
    together = figures.ScoreCurves.from_results(results).plot(facet=False)
    assert [len(lines_of(axes)) for axes in together.axes_] == [8, 8]


def test_curves_of_a_sweep_have_whole_names(load):
    results = load({**MULTI_LABEL, "study": "made_sweep", "sweep": SWEPT, "seeds": [0]})
    display = figures.MetricCurves.from_results(results, names=["nc1"]).plot()
    assert [axes.get_title(loc="left") for axes in display.axes_] == ["learned", "etf"]
    (legend,) = display.figure_.legends
    names = [f"lr={lr}-weight_decay={decay}" for lr in (0.05, 0.1) for decay in (0.0005, 0.001)]
    assert [text.get_text() for text in legend.get_texts()] == names
    assert_readable(display.figure_, [legend, *titles_of(display.figure_)])
    together = figures.MetricCurves.from_results(results).plot(facet=False)  # five panels: one of six places is blank
    (legend,) = together.figure_.legends
    assert_readable(together.figure_, [legend, *titles_of(together.figure_)])


def test_names_of_many_groups_fit_above_their_panels():
    runs = [f"resnet18_wide-lr={lr}e-05-weight_decay={decay}" for lr in range(1, 9) for decay in (0.1, 0.2)]
    rows = [{"run": run, "seed": 0, "epoch": epoch, "nc1": 1.0} for run in runs for epoch in range(3)]
    display = figures.MetricCurves(pd.DataFrame(rows), [panel("nc1")]).plot()
    assert len(display.axes_) == 8
    assert_readable(display.figure_, titles_of(display.figure_))


@pytest.mark.parametrize(
    ("text", "fitted"),
    [
        ("etf", "etf"),
        ("resnet18_learned", "resnet18_\nlearned"),
        ("a-lr=1e-05-weight_decay=0.1", "a-lr=1e-05-\nweight_decay=0.1"),
        ("African hunting dog", "African hunting\ndog"),
    ],
)
def test_texts_are_broken_between_words_only(text, fitted):
    assert fit_text(text, 0.8, size=7.0)[0] == fitted


def test_a_long_word_is_made_smaller():
    text, size = fit_text("electroencephalogram", 0.5, size=7.0)
    assert text == "electroencephalogram"
    assert 2 < size < 7
    assert fit_text(text, 0.5, size=size)[1] == pytest.approx(size, rel=0.02)


def test_log_axes_need_a_decade(load):
    results = load(MULTI_LABEL)
    near = results.history.assign(train_loss=1.0 + 0.01 * results.history["epoch"])
    display = figures.MetricCurves(near, [panel("train_loss"), panel("lr")]).plot()
    assert [axes.get_yscale() for axes in display.axes_] == ["linear", "log"]


def test_predicted_values_are_drawn_as_lines(load):
    display = figures.LossCurves.from_results(load(MULTI_LABEL), references={"train_loss": {"etf": 0.7}}).plot()
    (line,) = (line for line in display.axes_[1].lines if len(line.get_xdata()) == 2)
    assert set(line.get_ydata()) == {0.7}
    assert line.get_color() == figures.RunStyles.from_runs(["learned", "etf"]).colors["etf"]
    legend = display.figure_.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["learned", "etf", "theory"]


def test_curves_draw_on_given_axes(load):
    figure, axes = plt.subplots(1, 2)
    display = figures.ScoreCurves.from_results(load(MULTI_LABEL)).plot(ax=axes)
    assert display.figure_ is figure
    assert plt.get_fignums() == [figure.number]


def test_curves_refuse_what_cannot_be_drawn(load):
    results = load(MULTI_LABEL)
    with pytest.raises(ValueError, match=r"Expected names among what was measured \(nc1, .*but got 'nc9'"):
        figures.MetricCurves.from_results(results, names=["nc1", "nc9"])
    with pytest.raises(ValueError, match="Expected 2 axes, one for each panel, but got 1"):
        figures.ScoreCurves.from_results(results).plot(ax=plt.subplots()[1])
    with pytest.raises(ValueError, match="Expected run names in groups"):
        figures.ScoreCurves.from_results(results).plot(facet=True)


def test_a_run_without_a_metric_has_no_line(load):
    table = load(MULTI_LABEL).metrics.query("split == 'train'").copy()
    table.loc[table["run"] == "etf", "nc1"] = np.nan
    display = figures.MetricCurves(table, [panel("nc1")]).plot()
    assert len(lines_of(display.axes_[0])) == 1


# --- the other displays


def test_samples_show_images_under_their_own_labels(load):
    data = load(TRIPLES).splits("digits").train
    display = figures.SampleGrid.from_data(data, number=4).plot()
    assert [len(row) for row in display.rows] == [4, 4, 4]
    for row, places in enumerate(display.rows, start=1):
        assert all(data.multiplicity[place] == row for place in places)
    for axes, place in zip(display.axes_, chain.from_iterable(display.rows), strict=True):
        names = [data.class_names[k] for k in range(10) if data.labels[place, k]]
        assert axes.get_title() == ", ".join(names)
        np.testing.assert_array_equal(axes.images[0].get_array(), data.images[place, 0])
    assert len({tuple(data.labels[place].tolist()) for place in display.rows[1]}) == 4


def test_samples_of_few_classes_show_several_of_each():
    images = torch.zeros(30, 3, 4, 4, dtype=torch.uint8)
    labels = torch.nn.functional.one_hot(torch.arange(30) % 2, 2).byte()
    data = MultiLabelData(images, labels, torch.arange(30)[:, None], ("cat", "dog"))
    assert len(figures.SampleGrid.from_data(data, number=8).rows[0]) == 8


def test_long_label_lists_above_samples_have_a_line_a_label():
    names = ("airplane", "automobile", "bird")
    labels = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=torch.uint8).repeat(4, 1)
    data = MultiLabelData(torch.zeros(12, 3, 4, 4, dtype=torch.uint8), labels, torch.zeros(12, 2).long(), names)
    display = figures.SampleGrid(data.images, data.labels, names, [[*range(8)]]).plot()
    assert display.axes_[0].get_title() == "airplane\nautomobile"
    few = figures.SampleGrid(data.images, data.labels, names, [[0, 1, 2]]).plot()
    assert few.axes_[0].get_title() == "airplane, automobile"


@pytest.mark.parametrize("number", [8, 14])
def test_long_class_names_fit_above_their_images(number):
    names = ("African hunting dog", "electrical switchgear box", "three-toed sloth")
    labels = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=torch.uint8).repeat(number, 1)
    images = torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8)
    rows = [[*range(0, 2 * number, 2)], [*range(1, 2 * number, 2)]]
    display = figures.SampleGrid(images, labels, names, rows).plot()
    titles = titles_of(display.figure_)
    assert titles[0].get_text().split() == names[0].split()
    assert_readable(display.figure_, titles + [axes.images[0] for axes in display.axes_])


def test_heat_map_counts_labels_alone_and_in_pairs(load):
    data = load(MANY_RUNS).splits("svhn").train
    expected = np.zeros((9, 9), dtype=int)
    for row in data.labels.tolist():
        found = [k for k in range(9) if row[k]]
        if len(found) == 1:
            expected[found[0], found[0]] += 1
        elif len(found) == 2:
            expected[found[0], found[1]] += 1
            expected[found[1], found[0]] += 1
    display = figures.LabelHeatMap.from_data(data).plot()
    np.testing.assert_array_equal(display.counts, expected)
    written = [text.get_text() for text in display.axes_[0].texts]
    assert written == [str(n) for n in expected.ravel() if n > 0]


def test_gram_matrices_are_those_of_the_last_checkpoint(load):
    results = load(MULTI_LABEL)
    display = figures.GramMatrices.from_results(results).plot()
    etf = results.geometry("etf", 0)
    shown = [axes.images[0].get_array() for axes in display.axes_]
    np.testing.assert_array_equal(shown[0], simplex_cosines(10))
    np.testing.assert_array_equal(shown[3], etf.gram_features[-1])
    np.testing.assert_array_equal(shown[4], etf.gram_weight[-1])
    assert [axes.get_title() for axes in display.axes_] == ["simplex ETF", "learned", "", "etf", ""]
    distance = (etf.gram_features[-1] - simplex_cosines(10)).abs().max().item()
    assert display.axes_[3].get_xlabel() == f"within {upper_bound(distance)} of the ETF"


@pytest.mark.parametrize(
    ("distance", "written"),
    [
        (0.0934, "0.094"),
        (0.13039, "0.14"),
        (0.094, "0.094"),
        (0.0996, "0.1"),
        (1.05, "1.1"),
        (2.9802e-07, "3e-07"),
        (2e-16, "2e-16"),
        (0.0, "0"),
    ],
)
def test_distances_are_rounded_up(distance, written):
    assert upper_bound(distance) == written
    assert float(upper_bound(distance)) >= distance


@pytest.mark.parametrize("number", [1, 3, 8])
def test_gram_matrices_have_titles_that_fit(number):
    perfect = simplex_cosines(4)
    display = figures.GramMatrices(dict.fromkeys(SWEPT_RUNS[:number], (perfect, perfect))).plot()
    titles = titles_of(display.figure_)
    assert {text.get_text().replace("\n", "") for text in titles} == {"simplex ETF", *SWEPT_RUNS[:number]}
    assert_readable(display.figure_, titles + [axes.images[0] for axes in display.axes_])
    assert display.axes_[1].get_xlabel() == "within 0 of the ETF"


def test_gram_matrices_on_given_axes_have_titles_that_fit():
    figure, axes = plt.subplots(1, 7)
    perfect = simplex_cosines(4)
    figures.GramMatrices(dict.fromkeys(SWEPT_RUNS[:3], (perfect, perfect))).plot(ax=axes)
    assert_readable(figure, titles_of(figure)[1:])


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_ideal_gram_matrix_is_that_of_the_etf_head(num_classes):
    frame = heads.simplex_etf(num_classes, num_classes).double()
    torch.testing.assert_close(simplex_cosines(num_classes).double(), frame @ frame.T, atol=1e-6, rtol=0)


def test_imbalance_has_a_line_for_each_group_and_a_panel_for_each_run(load):
    results = load(IMBALANCED)
    display = figures.ImbalanceCurves.from_results(results).plot()
    assert [axes.get_title(loc="left") for axes in display.axes_] == ["learned", "etf"]
    table = results.metrics.query("split == 'train' and run == 'etf'")
    for n, line in zip((20, 8, 2), lines_of(display.axes_[1]), strict=True):
        np.testing.assert_allclose(line.get_ydata(), table.groupby("epoch")[f"imbalance_ratio_{n}"].mean())
    names = [text.get_text() for text in display.figure_.legends[0].get_texts()]
    assert names == ["20 images a pair", "8 images a pair", "2 images a pair"]
    with pytest.raises(ValueError, match="'made_multi' is balanced"):
        figures.ImbalanceCurves.from_results(load(MULTI_LABEL))


def test_imbalance_of_a_sweep_has_titles_that_fit():
    rows = [
        {"run": run, "seed": 0, "epoch": epoch, "group": group, "ratio": 0.5}
        for run in SWEPT_RUNS
        for epoch in range(3)
        for group in (20, 2)
    ]
    display = figures.ImbalanceCurves(pd.DataFrame(rows), (20, 2)).plot()
    titles = titles_of(display.figure_)
    assert [text.get_text().replace("\n", "") for text in titles] == SWEPT_RUNS
    assert_readable(display.figure_, titles)


@pytest.mark.parametrize("samples", [50, 2000])
@pytest.mark.parametrize(
    "further", ["", "-feature_decay=1e-05", "-feature_decay=1e-05-label_smoothing=0.1-momentum=0.9"]
)
def test_margins_of_a_sweep_have_a_legend_that_fits(samples, further):
    margins = {run + further: np.linspace(0, 1, samples)[None].repeat(2, axis=0) for run in SWEPT_RUNS}
    display = figures.MarginDistribution(margins, 10).plot()
    (legend,) = display.figure_.legends
    assert [text.get_text() for text in legend.get_texts()] == list(margins)
    assert_readable(display.figure_, [legend, *display.axes_])
    assert display.axes_[0].get_window_extent().height / display.figure_.dpi > 0.8


def test_margins_are_sorted_with_the_smallest_beside_them(load):
    results = load(SINGLE_LABEL)
    display = figures.MarginDistribution.from_results(results)
    display.smallest = 100
    display.plot()
    rows = np.stack([results.geometry("sgd", seed).margins[-1].numpy() for seed in (0, 1, 2)])
    drawn = [lines_of(axes)[0].get_ydata() for axes in display.axes_]
    np.testing.assert_allclose(drawn[0], rows.mean(0))
    np.testing.assert_allclose(drawn[1], rows.mean(0)[:100])
    assert (np.diff(drawn[0]) >= 0).all()
    ideal = next(line for line in display.axes_[0].lines if len(line.get_xdata()) == 2)
    assert set(ideal.get_ydata()) == {10 / 9}
    whole = figures.MarginDistribution.from_results(results).plot()
    assert len(whole.axes_) == 1  # 600 samples: the smallest 1,000 would be the same panel


def contact_images():
    images = torch.arange(6, dtype=torch.uint8).mul(40)[:, None, None, None].expand(6, 1, 4, 4).contiguous()
    return images, torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 2, 1, 0, 0, 1])


def test_contact_sheet_has_the_misclassified_in_their_class_rows():
    display = figures.ContactSheet.from_predictions(*contact_images(), ("cat", "dog", "cow"), columns=3).plot()
    axes = display.axes_[0]
    assert axes.get_title(loc="left") == "4 misclassified, by class\nbelow each: the class predicted"
    assert [text.get_text() for text in axes.texts] == ["cat (1)", "dog (1)", "cow (2)", "cow", "cat", "cat", "dog"]
    sheet = np.asarray(axes.images[0].get_array())
    tall = sheet.shape[0] // 3
    assert sheet[:4, :4].tolist() == [[40] * 4] * 4
    assert sheet[2 * tall : 2 * tall + 4, 5:9].tolist() == [[200] * 4] * 4
    assert sheet[tall, 5] == 0  # no second image of a dog


def test_contact_sheet_is_as_wide_as_its_images():
    images, labels, predicted = contact_images()
    names = ("cat", "dog", "cow")
    few = figures.ContactSheet.from_predictions(images, labels, predicted, names).plot()
    assert few.axes_[0].images[0].get_array().shape[1] == 2 * 5  # the class with most has two
    assert few.figure_.get_figwidth() < 4
    many = torch.arange(40) // 20
    full = figures.ContactSheet.from_predictions(images[:1].expand(40, 1, 4, 4), many, 1 - many, names).plot()
    assert full.figure_.get_figwidth() == pytest.approx(6.75)


def test_misclassified_images_are_listed_in_full_by_class():
    labels = torch.tensor([2, 0, 0, 1, 0])
    predicted = torch.tensor([1, 0, 2, 1, 1])
    images = torch.zeros(5, 1, 4, 4, dtype=torch.uint8)
    sheet = figures.ContactSheet.from_predictions(images, labels, predicted, ("cat", "dog", "cow"), columns=1)
    expected = {"index": [2, 4, 0], "label": [0, 0, 2], "predicted": [2, 1, 1]}
    assert sheet.table().to_dict("list") == expected


@pytest.mark.parametrize("wrong", [0, 3])
def test_validation_writes_the_list_of_misclassified_images(tmp_path, wrong):
    """The last cell of 03_validate, with a network that mistakes the first images."""
    splits = dataset.build(**Study.from_mapping(DIGITS).resolve("any").dataset.model_dump())
    predicted = splits.train.labels.argmax(dim=1)
    predicted[:wrong] = (predicted[:wrong] + 1) % 10
    geometry = SimpleNamespace(save=lambda path: path.touch())
    manifest = Manifest("03_validate", {})
    names = {"folder": tmp_path, "splits": splits, "figures": figures, "write_csv": write_csv, "manifest": manifest}
    names["found"] = SimpleNamespace(table=pd.DataFrame({"epoch": [0]}), geometry=geometry, predicted=predicted)
    for name in ("data.safetensors", "02_train.manifest.json"):
        (tmp_path / name).touch()
    names |= {"data_file": tmp_path / "data.safetensors", "checkpoints": {}, "device": "cpu", "describe": str}
    exec(nbformat.read(NOTEBOOK.with_name("03_validate.ipynb"), 4).cells[-1].source, names)  # noqa: S102
    table = pd.read_csv(tmp_path / "misclassified.csv")
    assert list(table) == ["index", "label", "predicted"]
    assert sorted(table["index"]) == list(range(wrong))
    assert (table["label"].to_numpy() == splits.train.labels.argmax(dim=1)[table["index"].to_list()].numpy()).all()
    assert ((table["label"] + 1) % 10 == table["predicted"]).all()
    outputs = json.loads((tmp_path / "03_validate.manifest.json").read_text())["outputs"]
    assert outputs["misclassified.csv"] == sha256(tmp_path / "misclassified.csv")


def test_contact_sheet_uses_numbers_for_long_names_and_may_be_empty():
    images, labels, predicted = contact_images()
    names = ("airplane", "automobile", "bird")
    texts = figures.ContactSheet.from_predictions(images, labels, predicted, names).plot().axes_[0].texts
    assert [text.get_text() for text in texts][:4] == ["0 airplane (1)", "1 automobile (1)", "2 bird (2)", "2"]
    empty = figures.ContactSheet.from_predictions(images, labels, labels, names).plot()
    assert empty.axes_[0].get_title(loc="left").startswith("0 misclassified")
    with pytest.raises(ValueError, match="columns >= 1, but got 0"):
        figures.ContactSheet(images, labels, predicted, names, columns=0)


# --- theory


def test_predictions_are_the_theorys_where_it_applies(load):
    results = load(MULTI_LABEL)
    found = figures.predictions(results)
    settings = {"weight_decay": 5e-4, "feature_decay": 1e-3, "batch_size": 128}
    learned = predict_training(10, {1: 20, 2: 4}, **settings)
    etf = predict_training(10, {1: 20, 2: 4}, **settings, head="etf", nonnegative=True)
    assert found["train_loss"] == {"learned": learned.data_loss, "etf": etf.data_loss}
    assert found["train_soft_iou"] == {"learned": learned.soft_iou, "etf": etf.soft_iou}
    assert found["tag_wise_scale_2"] == {"learned": learned.scales[2], "etf": etf.scales[2]}
    steps = math.ceil(380 / 128)
    norms = 200 * learned.feature_norms[1] ** 2 + 180 * learned.feature_norms[2] ** 2
    assert found["train_feature_decay"]["learned"] == pytest.approx(1e-3 / steps * norms, rel=1e-12)


def test_an_etf_with_more_dimensions_than_classes_has_the_same_prediction(load):
    wide = {"etf": {"model": {"head": "etf", "feature_dim": 16}}}
    found = figures.predictions(load({**MULTI_LABEL, "study": "made_wide", "seeds": [0], "runs": wide}))
    assert found["train_loss"]["etf"] == figures.predictions(load(MULTI_LABEL))["train_loss"]["etf"]


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"optimizer": "adam"}},
        {"training": {"augment": True}},
        {"training": {"feature_decay": 0.0}},
        {"training": {"weight_decay": 0.0}},
        {"training": {"loss": "focal"}},
    ],
)
def test_no_prediction_where_the_settings_are_not_the_theorys(load, change):
    results = load(MULTI_LABEL)
    study = Study.from_mapping({**MULTI_LABEL, "runs": {"learned": change}})
    assert figures.predictions(StudyResults(study, results.folder, results.history, results.metrics, {})) == {}


def test_no_prediction_for_imbalanced_multiplicities(load):
    assert balanced_counts(load(MULTI_LABEL).geometry("etf", 0)) == {1: 20, 2: 4}
    assert balanced_counts(load(IMBALANCED).geometry("etf", 0)) is None
    assert figures.predictions(load(IMBALANCED)) == {}


# --- files


def test_pdf_keeps_text_and_the_same_figure_gives_the_same_bytes(load, tmp_path):
    results = load(MULTI_LABEL)
    display = figures.ScoreCurves.from_results(results).plot()
    engine = display.figure_.get_layout_engine()
    first = figures.save(display.figure_, tmp_path / "a", "scores")
    assert display.figure_.get_layout_engine() is engine
    again = figures.save(figures.ScoreCurves.from_results(results).plot().figure_, tmp_path / "b", "scores")
    assert [path.name for path in first] == ["scores.pdf", "scores.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    pdf, png = (path.read_bytes() for path in first)
    assert b"/FontFile2" in pdf  # the font itself, TrueType: text can be searched and edited
    assert b"/Type3" not in pdf
    assert b"CreationDate" not in pdf
    assert png.startswith(b"\x89PNG")
    assert b"Software" not in png


def test_another_process_writes_the_same_bytes(load, tmp_path):
    results = load(MULTI_LABEL)
    heat_map = figures.LabelHeatMap.from_data(results.splits("digits").train).plot()
    paths = figures.save(heat_map.figure_, tmp_path / "here", "labels")
    code = (
        "import matplotlib, sys; matplotlib.use('agg')\n"
        "from nclib import figures\nfrom nclib.data import dataset\n"
        "shown = figures.LabelHeatMap.from_data(dataset.load(sys.argv[1]).train).plot()\n"
        "figures.save(shown.figure_, sys.argv[2], 'labels')"
    )
    command = [sys.executable, "-c", code, results.folder.dataset("digits"), tmp_path / "there"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert [sha256(path) for path in paths] == [sha256(tmp_path / "there" / path.name) for path in paths]


def test_a_full_disk_leaves_the_earlier_figure(tmp_path, monkeypatch):
    figure = plt.figure()
    pdf, png = figures.save(figure, tmp_path, "x")
    before = pdf.read_bytes(), png.read_bytes()

    def fails(self, path, **options):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Figure, "savefig", fails)
    with pytest.raises(StageError, match=r"Cannot write .*x.pdf: No space left on device; free some space"):
        figures.save(figure, tmp_path, "x")
    assert (pdf.read_bytes(), png.read_bytes()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.pdf", "x.png"]


# --- the notebook


def test_notebook_writes_every_figure_that_applies(load, tmp_path):
    results = load(IMBALANCED)
    outputs = results.folder.root.parent
    parameters = results.study.model_dump(mode="json", exclude={"smoke", "sweep"})
    run_notebook(NOTEBOOK, tmp_path / "04_figures.ipynb", {**parameters, "outputs": str(outputs)})
    names = ["collapse", "collapse_released", "gram", "imbalance", "labels_digits", "loss", "samples_digits"]
    names += ["scales", "scores"]
    written = sorted(path.name for path in results.folder.figures.iterdir())
    assert written == sorted(f"{name}.{kind}" for name in names for kind in ("pdf", "png"))
    manifest = json.loads((results.folder.root / "04_figures.manifest.json").read_text())
    assert manifest["outputs"].keys() == {"table.csv", "table.md", *(f"figures/{name}" for name in written)}
    assert manifest["inputs"]["etf/seed1/geometry.safetensors"] == sha256(
        results.folder.run("etf", 1) / "geometry.safetensors"
    )
    cells = nbformat.read(tmp_path / "04_figures.ipynb", as_version=4).cells
    images = [o for cell in cells if cell.cell_type == "code" for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(images) == len(names)  # every figure is seen in the notebook, too
