"""Figures: what they draw is what was measured, and their files are whole, vector and reproducible."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from itertools import chain, pairwise
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from seaborn.utils import relative_luminance

from nclib import figures, heads
from nclib.data.compose import MultiLabelData
from nclib.figures import concept, landscape, layout
from nclib.figures.gram import simplex_cosines
from nclib.figures.layout import fit_texts
from nclib.figures.style import group_names
from nclib.study.files import StageError, sha256
from nclib.study.study import Study
from tests.small_project import run_cells
from tests.synthetic_study import (
    IMBALANCED,
    MANY_RUNS,
    MULTI_LABEL,
    SINGLE_LABEL,
    TRIPLES,
)

SWEPT = {"training.lr": [0.05, 0.1], "training.weight_decay": [0.0005, 0.001, 0.002]}
SWEPT_STUDY = Study.from_mapping({**MULTI_LABEL, "sweep": SWEPT})
SWEPT_RUNS = [SWEPT_STUDY.resolve(run).label for run in SWEPT_STUDY.runs]  # learned, lr=0.05, weight_decay=0.0005; ...


@pytest.fixture(autouse=True)
def closed():
    """Draw without a screen, and leave no figure open."""
    plt.switch_backend("agg")
    yield
    plt.close("all")


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


def names_in(legend):
    return [text.get_text() for text in legend.get_texts()]


def titles_of(figure):
    """The titles of all axes, left or centered."""
    shown = [text for axes in figure.axes for text in (axes._left_title, axes.title)]
    return [text for text in shown if text.get_text()]


def plain(text):
    """The letters of a title, without breaks."""
    return "".join(text.get_text().split())


def curves(history, panels):
    """The display of some columns of a history."""
    values = [history.rename(columns={shown.metric: "value"}).assign(panel=at) for at, shown in enumerate(panels)]
    return figures.MetricCurves(pd.concat(values)[["run", "seed", "epoch", "panel", "value"]], panels)


# --- styles


def looks_of(runs):
    styles = figures.RunStyles.from_runs(runs)
    return [(styles.colors[run], styles.dashes[run], styles.markers[run]) for run in runs]


@pytest.mark.parametrize(
    "runs", [[f"run{i}" for i in range(12)], [f"{base}, lr={lr}" for base in ("learned", "etf") for lr in range(1, 7)]]
)
def test_twelve_runs_differ_with_and_without_color(runs):
    assert len(set(looks_of(runs))) == 12
    assert len({look[1:] for look in looks_of(runs)}) == 12


def test_of_more_runs_the_colors_are_a_gradient():
    runs = [f"run{i}" for i in range(100)]
    red = [color[0] for color, _, _ in looks_of(runs)]
    assert red == sorted(red, reverse=True) and red[0] > red[-1] + 0.5
    lines, title = figures.RunStyles.from_runs(runs).legend(runs, 3)
    assert [line.get_label() for line in lines.values()] == ["run0", "run20", "run40", "run59", "run79", "run99"]
    assert title == "6 of 100 runs, in order"


def test_grouped_runs_share_dashes_in_a_variant():
    first, second, third, fourth = looks_of(["vgg16_learned", "vgg16_etf", "vgg19_learned", "vgg19_etf"])
    assert first[1] == third[1] != second[1] == fourth[1]
    assert len({first[0], second[0], third[0], fourth[0]}) == 4


@pytest.mark.parametrize(
    ("runs", "groups"),
    [
        (["sgd", "adam"], None),
        (["a_b", "a_c"], None),
        (["mlp_256", "mlp_512", "resnet18_8", "resnet18_16"], None),
        (["a_b_x", "a_b_y", "a_c_x", "a_c_y"], ["a_b", "a_b", "a_c", "a_c"]),
        (SWEPT_RUNS, [f"{head}, lr={lr}" for head in ("learned", "etf") for lr in [0.05] * 3 + [0.1] * 3]),
        (["MSE, ETF", "MSE, L-BFGS", "CE, ETF"], ["MSE", "MSE", "CE"]),
        ([f"x, weight_decay={n}e-0{m}" for n in (1, 2) for m in (5, 6)], None),
    ],
)
def test_names_form_groups_only_where_variants_recur(runs, groups):
    found = group_names({run: run for run in runs})
    assert (found and [found[run][0] for run in runs]) == groups


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


@pytest.mark.parametrize(
    ("text", "fitted"),
    [
        ("etf", "etf"),
        ("resnet18_learned", "resnet18_\nlearned"),
        ("a, lr=1e-05, weight_decay=0.1", "a, lr=1e-05,\nweight_decay=\n0.1"),
        ("African hunting dog", "African\nhunting dog"),
        ("cat\nAfrican dog", "cat\nAfrican dog"),
    ],
)
def test_texts_are_broken_between_words_only(text, fitted):
    assert fit_texts([text], 0.8, size=7.0)[0] == [fitted]


def test_all_texts_are_made_smaller_for_a_long_word():
    texts, size = fit_texts(["electroencephalogram", "cat", "$\\mathrm{a}_{very}^{long} formula$"], 0.5, size=7.0)
    assert texts == ["electroencephalogram", "cat", "$\\mathrm{a}_{very}^{long} formula$"]
    assert 2 < size < 7


# --- curves


def test_curves_are_means_over_seeds_and_bands_their_extremes(load):
    results = load(MULTI_LABEL)
    display = figures.CollapseCurves.from_results(results).plot()
    shown = [("nc1", None), ("nc2_w_centered", None), ("nc2_h_centered", None), ("nc3_centered", None)]
    shown.append(("tag_wise_ratio", 2))
    assert [(panel.metric, panel.labels) for panel in display.panels] == shown
    styles = figures.RunStyles.from_runs(results.runs)
    for axes, (metric, labels) in zip(display.axes_, shown, strict=True):
        assert axes.get_title(loc="left")
        bands = [c for c in axes.collections if isinstance(c, PolyCollection)]
        table = results.values(metric, labels=labels)
        for run, line, band in zip(results.runs, lines_of(axes), bands, strict=True):
            seeds = table[table["run"] == run].pivot(index="epoch", columns="seed", values="value")
            np.testing.assert_allclose(line.get_xdata(), seeds.index)
            np.testing.assert_allclose(line.get_ydata(), seeds.mean(axis=1))
            assert (line.get_color(), line.get_marker()) == (styles.colors[run], styles.markers[run])
            assert line.is_dashed() == bool(styles.dashes[run])
            corners = band.get_paths()[0].vertices
            at_start = corners[corners[:, 0] == 0, 1]
            np.testing.assert_allclose([at_start.min(), at_start.max()], [seeds.loc[0].min(), seeds.loc[0].max()])
    assert [axes.get_yscale() for axes in display.axes_] == ["log", *["linear"] * 4]
    legend = display.figure_.axes[-1].get_legend()  # in the sixth place
    assert names_in(legend) == ["learned", "etf"]
    assert "smallest to largest" in legend.get_title().get_text()


def test_curves_follow_what_was_measured(load):
    triples = figures.CollapseCurves.from_results(load(TRIPLES))
    assert [panel.name for panel in triples.panels][-2:] == ["tag_wise_ratio_2", "tag_wise_ratio_3"]
    assert not triples.plot().axes_[0].collections  # one seed has no band
    assert [panel.name for panel in figures.TagWiseCurves.from_results(load(TRIPLES)).panels] == [
        *("tag_wise_angle_mean_2", "tag_wise_angle_mean_3", "tag_wise_scale_2", "tag_wise_scale_3")
    ]
    results = load(SINGLE_LABEL)
    assert len(figures.CollapseCurves.from_results(results).panels) == 4
    further = ["bias_residual", "cosine_margin_mean", "nuclear_over_frobenius"]
    single = figures.GeometryCurves.from_results(results)
    assert [panel.name for panel in single.panels] == further
    expected = results.values("cosine_margin_mean").query("run == 'adam'").groupby("epoch")["value"].mean()
    np.testing.assert_allclose(lines_of(single.plot().axes_[1])[1].get_ydata(), expected)
    with pytest.raises(ValueError, match="nc9"):
        figures.MetricCurves.from_results(results, panels=[figures.panel("nc9")])


@pytest.mark.parametrize("metric", ["accuracy", "nc1", "nc3"])
def test_a_shared_axis_holds_the_lines_of_all(metric):
    ends = {f"{group}, {variant}": 0.1 + 0.1 * group for group in range(4) for variant in ("learned", "ETF")}
    rows = [{"run": run, "seed": 0, "epoch": e, metric: end * e / 2} for run, end in ends.items() for e in (1, 2)]
    for axes in curves(pd.DataFrame(rows), [figures.panel(metric)]).plot().axes_:
        low, high = axes.get_ylim()
        assert low < min(ends.values()) / 2 and max(ends.values()) < high


@pytest.mark.parametrize("number", [1, 8, 100])
def test_curves_fit_a_page(number):
    runs = [f"{group}, {variant}" for group in range(25) for variant in ("learned", "ETF", "d = 5", "d = 9")][:number]
    rows = [{"run": run, "seed": 0, "epoch": epoch, "nc1": 1.0, "top1": 0.9} for run in runs for epoch in range(3)]
    panels = [figures.panel(name) for name in ("nc1", "top1") * 3]
    display = curves(pd.DataFrame(rows), panels).plot()
    width, height = display.figure_.get_size_inches()
    assert width <= 6.75 and height <= 4.5
    assert_readable(display.figure_, [*display.figure_.legends, *titles_of(display.figure_)])
    assert min(axes.get_window_extent().height for axes in display.axes_) / display.figure_.dpi > 0.3


def test_released_values_stand_below_the_corrected_ones(load):
    display = figures.ReleasedCurves.from_results(load(MULTI_LABEL))
    names = [panel.name for panel in display.panels]
    assert names[:4] == ["nc1", "nc2_w_centered", "nc2_h_centered", "nc3_centered"]
    assert names[4:] == ["released_nc1", "nc2_w", "nc2_h", "released_nc3"]


def test_runs_are_called_by_their_labels_and_an_early_end_is_named(load):
    history = load(MULTI_LABEL).history
    short = history[(history["run"] != "etf") | (history["epoch"] <= 12)]
    display = curves(short, [figures.panel("train_loss")])
    display.styles = figures.RunStyles.from_runs({"learned": "learned", "etf": "ETF"})
    display.plot()
    assert names_in(display.figure_.legends[0]) == ["learned", "ETF (to epoch 12)"]


def test_many_grouped_runs_get_a_column_per_group(load):
    results = load(MANY_RUNS)
    display = figures.ScoreCurves.from_results(results).plot()
    grid = display.axes_.reshape(2, 4)
    assert [axes.get_title(loc="left") for axes in grid[0]] == ["resnet18", "resnet50", "vgg16", "vgg19"]
    assert all(len(lines_of(axes)) == 2 for axes in display.axes_)
    line = lines_of(grid[1, 2])[1]
    np.testing.assert_allclose(line.get_ydata(), results.history.query("run == 'vgg16_etf'")["test_soft_iou"])
    styles = figures.RunStyles.from_runs(results.runs)
    assert line.get_color() == styles.colors["vgg16_etf"]  # as in every other figure of the study
    assert len({axes.get_ylim() for axes in grid.flat}) == 1
    assert names_in(display.figure_.legends[0]) == list(results.runs)
    geometry = figures.TagWiseCurves.from_results(results).plot()
    geometry.figure_.draw_without_rendering()
    names = [axes.yaxis.label.get_window_extent() for axes in geometry.axes_[::4]]
    assert all(above.y0 > below.y1 for above, below in pairwise(names))  # they do not cover each other


def test_curves_of_a_sweep_have_names_that_fit():
    runs = [f"resnet18_wide-lr={lr}e-05-weight_decay={decay}" for lr in range(1, 7) for decay in (0.1, 0.2)]
    rows = [{"run": run, "seed": 0, "epoch": epoch, "nc1": 1.0} for run in runs for epoch in range(3)]
    display = curves(pd.DataFrame(rows), [figures.panel("nc1")]).plot()
    assert len(display.axes_) == 6
    (legend,) = display.figure_.legends
    assert names_in(legend) == runs
    assert_readable(display.figure_, [legend, *titles_of(display.figure_)])


def test_log_axes_need_a_decade(load):
    history = load(MULTI_LABEL).history
    near = history.assign(train_loss=1.0 + 0.01 * history["epoch"])
    panels = [figures.panel("train_loss"), figures.panel("lr")]
    display = curves(near, panels).plot()
    assert [axes.get_yscale() for axes in display.axes_] == ["linear", "log"]


def test_predicted_values_are_drawn_as_lines(load):
    display = figures.LossCurves.from_results(load(MULTI_LABEL), references={"train_loss": {"etf": 0.7}}).plot()
    (line,) = (line for line in display.axes_[1].lines if len(line.get_xdata()) == 2)
    assert set(line.get_ydata()) == {0.7}
    assert line.get_color() == figures.RunStyles.from_runs(["learned", "etf"]).colors["etf"]
    assert names_in(display.figure_.legends[0]) == ["learned", "etf", "theory"]


def test_coincident_predictions_are_told_apart_and_a_departure_is_explained(load):
    at = {"train_loss": {"learned": 0.5, "etf": 0.501}}
    display = figures.LossCurves.from_results(load(MULTI_LABEL), references=at).plot()
    lines = [line for line in display.axes_[1].lines if len(line.get_xdata()) == 2]
    styles = figures.RunStyles.from_runs(["learned", "etf"])
    assert [line.get_color() for line in lines] == [styles.colors["learned"], styles.colors["etf"]]
    starts = {line._unscaled_dash_pattern[0] for line in lines}
    assert len(starts) == 2  # the dots of one are in the gaps of the other
    drawn = [line.get_color() for line in display.figure_.legends[0].findobj(Line2D)[-2:]]
    assert drawn == [line.get_color() for line in lines]
    assert "Dotted" in display.caption("x") and "ReLU" in display.caption("x")
    assert "Dotted" not in figures.LossCurves.from_results(load(MULTI_LABEL)).caption("x")


def test_scores_near_one_can_be_told_apart_and_markers_are_whole():
    rows = [{"run": run, "seed": 0, "epoch": e, "accuracy": end * (0.2 + 0.8 * e / 9), "nc3": 1 - e / 9}
            for run, end in (("a", 0.9971), ("b", 0.9933), ("c", 1.0)) for e in range(10)]  # fmt: skip
    display = curves(pd.DataFrame(rows), [figures.panel("accuracy"), figures.panel("nc3")])
    score, distance = display.plot().axes_
    display.figure_.draw_without_rendering()
    places = [score.transData.transform((9, end))[1] * 72 / display.figure_.dpi for end in (0.9933, 0.9971, 1.0)]
    assert min(np.diff(places)) > 4  # points
    for axes, edge in ((score, 1.0), (distance, 0.0)):
        frame = axes.get_window_extent()
        inside = abs(axes.transData.transform((9, edge))[1] - (frame.y1 if edge else frame.y0))
        assert inside * 72 / display.figure_.dpi > 2  # points: half a marker


def test_the_start_does_not_squeeze_what_follows():
    nc1 = [1e6, 0.5, 0.1, 0.02]
    history = pd.DataFrame({"run": "a", "seed": 0, "epoch": range(4), "nc1": nc1})
    (axes,) = curves(history, [figures.panel("nc1")]).plot().axes_
    assert axes.get_ylim()[1] < 10
    assert [text.get_text() for text in axes.texts] == ["↑ 1,000,000 at epoch 0"]


def test_a_run_without_a_value_has_no_line(load):
    history = load(MULTI_LABEL).history.copy()
    history.loc[history["run"] == "etf", "lr"] = np.nan
    display = curves(history, [figures.panel("lr"), figures.panel("train_loss")]).plot()
    assert [len(lines_of(axes)) for axes in display.axes_] == [1, 2]


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


def test_images_that_were_shifted_beyond_an_edge_say_so(load):
    results = load(MULTI_LABEL)
    display = figures.SampleGrid.from_data(results.splits("digits").train, layout="mnist").plot()
    assert display.figure_.get_supxlabel() == "shifted cyclically, as in the paper's data"
    assert display.caption("x").endswith("They are shifted cyclically, as in the paper's data.")


def test_samples_of_few_classes_show_several_of_each():
    images = torch.zeros(30, 3, 4, 4, dtype=torch.uint8)
    labels = torch.nn.functional.one_hot(torch.arange(30) % 2, 2).byte()
    data = MultiLabelData(images, labels, torch.arange(30)[:, None], ("cat", "dog"))
    assert len(figures.SampleGrid.from_data(data, number=8).rows[0]) == 8


def test_long_label_lists_above_samples_have_a_line_per_label():
    names = ("airplane", "automobile", "bird")
    labels = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=torch.uint8).repeat(4, 1)
    data = MultiLabelData(torch.zeros(12, 3, 4, 4, dtype=torch.uint8), labels, torch.zeros(12, 2).long(), names)
    display = figures.SampleGrid(data.images, data.labels, names, [[*range(8)]]).plot()
    assert display.axes_[0].get_title() == "airplane\nautomobile"
    few = figures.SampleGrid(data.images, data.labels, names, [[0, 1, 2]]).plot()
    assert few.axes_[0].get_title() == "airplane, automobile"


def test_long_class_names_fit_above_their_images():
    number = 14
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


def test_numbers_in_cells_can_be_read():
    counts = torch.tensor([[500, 50, 5], [50, 20, 2], [5, 2, 1]])
    axes = figures.LabelHeatMap(counts, ("a", "b", "c")).plot().axes_[0]
    for text, cell in zip(axes.texts, axes.collections[0].get_facecolors(), strict=True):
        dark, light = sorted(map(relative_luminance, (text.get_color(), cell)))
        assert (light + 0.05) / (dark + 0.05) > 4.5  # the contrast that WCAG 2 asks of text


def test_names_that_no_font_has_become_numbers():
    names = ("猫", "犬")
    if layout.RC["font.family"] != ["DejaVu Sans"]:
        pytest.skip("a font with these characters is installed")
    with pytest.warns(UserWarning, match="No font on this machine has 犬猫: figures show numbers instead"):
        display = figures.GramMatrices({"a": (simplex_cosines(2),) * 2}, names).plot()
    assert [label.get_text() for label in display.axes_[1].get_yticklabels()] == ["0", "1"]


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
    assert display.axes_[3].get_xlabel() == f"off by {distance:.2g}"


@pytest.mark.parametrize("number", [1, 12])
def test_gram_matrices_have_titles_that_fit(number):
    perfect = simplex_cosines(4)
    display = figures.GramMatrices(dict.fromkeys(SWEPT_RUNS[:number], (perfect, perfect))).plot()
    titles = titles_of(display.figure_)
    assert {plain(text) for text in titles} == {"simplexETF", *(run.replace(" ", "") for run in SWEPT_RUNS[:number])}
    assert_readable(display.figure_, titles + [axes.images[0] for axes in display.axes_])
    assert display.axes_[1].get_xlabel() == "off by 0"
    width, height = display.figure_.get_size_inches()
    assert width <= 6.75 and height <= 4.5


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_ideal_gram_matrix_is_that_of_the_etf_head(num_classes):
    frame = heads.simplex_etf(num_classes, num_classes).double()
    torch.testing.assert_close(simplex_cosines(num_classes).double(), frame @ frame.T, atol=1e-6, rtol=0)


def test_imbalance_has_a_line_per_group_and_a_panel_per_run(load):
    results = load(IMBALANCED)
    display = figures.ImbalanceCurves.from_results(results).plot()
    assert [axes.get_title(loc="left") for axes in display.axes_] == ["learned", "etf"]
    for n, line in zip((20, 8, 2), lines_of(display.axes_[1]), strict=True):
        table = results.values("imbalance_ratio", labels=n).query("run == 'etf'")
        np.testing.assert_allclose(line.get_ydata(), table.groupby("epoch")["value"].mean())
    assert names_in(display.figure_.legends[0]) == [f"{n} images per pair" for n in (20, 8, 2)]
    with pytest.raises(ValueError, match="'made_multi' is balanced"):
        figures.ImbalanceCurves.from_results(load(MULTI_LABEL))


def test_imbalance_of_a_sweep_has_titles_that_fit():
    rows = [
        {"run": f"{images} images per pair", "seed": 0, "epoch": epoch, "panel": place, "value": 0.5}
        for place in range(len(SWEPT_RUNS))
        for epoch in range(3)
        for images in (20, 2)
    ]
    panels = [figures.Panel("imbalance_ratio", run) for run in SWEPT_RUNS]
    display = figures.ImbalanceCurves(pd.DataFrame(rows), panels).plot()
    titles = titles_of(display.figure_)
    assert [plain(text) for text in titles] == [run.replace(" ", "") for run in SWEPT_RUNS]
    assert_readable(display.figure_, titles)


@pytest.mark.parametrize("samples", [50, 2000])
def test_margins_of_a_sweep_have_a_legend_that_fits(samples):
    further = "-feature_decay=1e-05-label_smoothing=0.1-momentum=0.9"
    margins = {run + further: np.linspace(0, 1, samples)[None].repeat(2, axis=0) for run in SWEPT_RUNS}
    display = figures.MarginDistribution(margins, 10).plot()
    (legend,) = display.figure_.legends
    assert names_in(legend) == [*margins, "exact collapse: K/(K-1)"]
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


def test_an_outlier_leaves_the_margins_readable():
    margins = np.concatenate([[-5.0], np.linspace(0.9, 1.1, 999)])[None]
    (axes,) = figures.MarginDistribution({"a": margins}, 10).plot().axes_
    assert axes.get_ylim()[0] > 0.8
    assert [text.get_text() for text in axes.texts] == ["↓ smallest -5"]


def contact_images():
    images = torch.arange(6, dtype=torch.uint8).mul(40)[:, None, None, None].expand(6, 1, 4, 4).contiguous()
    return images, torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 2, 1, 0, 0, 1])


def test_contact_sheet_has_the_misclassified_in_their_class_rows():
    display = figures.ContactSheet.from_predictions(*contact_images(), ("cat", "dog", "cow")).plot()
    axes = display.axes_[0]
    assert axes.get_title(loc="left") == "4 misclassified, by class\nbelow each: the class predicted"
    assert [text.get_text() for text in axes.texts] == ["cat (1)", "cow", "dog (1)", "cat", "cow (2)", "cat", "dog"]
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


def test_of_many_classes_those_with_most_errors_are_on_the_contact_sheet():
    labels = torch.cat([torch.arange(100), torch.arange(90, 100)])
    images = torch.zeros(110, 1, 4, 4, dtype=torch.uint8)
    sheet = figures.ContactSheet.from_predictions(images, labels, (labels + 1) % 100, [str(k) for k in range(100)])
    axes = sheet.plot().axes_[0]
    assert [text.get_text() for text in axes.texts][::3] == [f"{k} (2)" for k in range(90, 100)]
    assert "110 misclassified, by class, the 10 classes with most" in axes.get_title(loc="left")
    assert sheet.figure_.get_figheight() <= 4.5


def test_misclassified_images_are_listed_in_full_by_class():
    labels = torch.tensor([2, 0, 0, 1, 0])
    predicted = torch.tensor([1, 0, 2, 1, 1])
    images = torch.zeros(5, 1, 4, 4, dtype=torch.uint8)
    sheet = figures.ContactSheet.from_predictions(images, labels, predicted, ("cat", "dog", "cow"))
    expected = {"index": [2, 4, 0], "label": [0, 0, 2], "predicted": [2, 1, 1]}
    assert sheet.table().to_dict("list") == expected


def test_contact_sheet_uses_numbers_for_long_names_and_may_be_empty():
    images, labels, predicted = contact_images()
    names = ("airplane", "automobile", "bird")
    texts = figures.ContactSheet.from_predictions(images, labels, predicted, names).plot().axes_[0].texts
    assert [text.get_text() for text in texts][:4] == ["0 airplane (1)", "2", "1 automobile (1)", "0"]
    empty = figures.ContactSheet.from_predictions(images, labels, labels, names).plot()
    assert empty.axes_[0].get_title(loc="left").startswith("0 misclassified")


# --- files


def test_pdf_keeps_text_and_another_process_writes_the_same_bytes(load, tmp_path):
    """That process also sees that tables load no plotting library."""
    results = load(MULTI_LABEL)
    display = figures.LossCurves.from_results(results).plot()
    paths = figures.save(display.figure_, tmp_path / "here", "loss")
    assert [path.name for path in paths] == ["loss.pdf", "loss.png"]
    display.values.to_csv(tmp_path / "values.csv", index=False)
    code = (
        "import sys, nclib.results.tables\nassert not {'matplotlib', 'seaborn', 'ipywidgets'} & set(sys.modules)\n"
        "import matplotlib, pandas; matplotlib.use('agg')\nfrom nclib import figures\n"
        "panels = [figures.panel(n) for n in ('lr', 'train_loss', 'train_feature_decay', 'test_loss')]\n"
        "shown = figures.LossCurves(pandas.read_csv(sys.argv[1]), panels).plot()\n"
        "figures.save(shown.figure_, sys.argv[2], 'loss')"
    )
    command = [sys.executable, "-c", code, tmp_path / "values.csv", tmp_path / "there"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert [sha256(path) for path in paths] == [sha256(tmp_path / "there" / path.name) for path in paths]
    pdf, png = (path.read_bytes() for path in paths)
    assert b"/FontFile2" in pdf  # the font itself, TrueType: text can be searched and edited
    assert b"/Type3" not in pdf
    assert b"CreationDate" not in pdf
    assert png.startswith(b"\x89PNG")
    assert b"Software" not in png


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


# --- the papers' pictures


def marks_of(axes, size):
    """Where the marks of this size are."""
    return np.array([line.get_xydata()[0] for line in axes.lines if line.get_markersize() == size])


def test_rings_are_the_scaled_sums_of_the_class_means_marked(load):
    display = figures.TagWisePlane.from_results(load(TRIPLES)).plot()
    assert [axes.get_title(loc="left") for axes in display.axes_] == ["epoch 0", "epoch 60"]
    for axes, checkpoint in zip(display.axes_, (0, -1), strict=True):
        first, second, third, *pairs = marks_of(axes, concept.LARGE)
        scale = display.geometry.scales[checkpoint, 1].item()
        expected = scale * np.array([first + second, first + third, second + third])
        np.testing.assert_allclose(marks_of(axes, concept.RING), expected, rtol=1e-5)
        assert len(pairs) == 3
    collapsed = np.linalg.norm(pairs - expected, axis=1).max() / np.linalg.norm(expected, axis=1).min()
    assert collapsed < 0.2
    assert_readable(display.figure_, display.figure_.legends[0].get_texts())


def test_the_concept_of_two_classes_is_drawn_too(load):
    g = load(MULTI_LABEL).geometry("learned", 0)
    sets, samples = (labels[:, 2:].sum(1) == 0 for labels in (g.label_sets, g.sample_labels))
    cut = {"k": slice(2), "s": sets, "q": samples}
    arrays = {field.name: field.type.dim_str.split() for field in fields(g) if field.name != "class_names"}
    kept = {name: getattr(g, name)[tuple(cut.get(axis, slice(None)) for axis in axes)] for name, axes in arrays.items()}
    both = replace(g, class_names=g.class_names[:2], **kept)
    axes = figures.TagWisePlane(both, checkpoints=(-1,)).plot().axes_[0]
    assert (len(marks_of(axes, concept.LARGE)), len(marks_of(axes, concept.RING))) == (3, 1)


def test_the_landscape_of_both_losses_is_lowest_where_theory_says():
    display = figures.LossLandscape.from_theory(10, feature_decay=1e-3).plot()
    r, angle = landscape.LENGTHS, np.radians(landscape.ANGLES)[:, None]
    np.testing.assert_allclose(display.excess["MSE"], r**2 - 2 * r * np.cos(angle) + 1, atol=1e-6)  # circles
    for excess in display.excess.values():
        assert excess.min() > -1e-7 and np.unravel_index(excess.argmin(), excess.shape) == (0, np.abs(r - 1).argmin())
    length = display.optimal["CE"]
    right, wrong = (np.log(1 + 9 * np.exp(-sign * length * 10 / 9)) + 1e-3 * length**2 for sign in (1, -1))
    opposite = display.excess["CE"][-1, np.abs(r - 1).argmin()]
    assert opposite == pytest.approx((wrong - right) / (np.log(10) - right), rel=1e-6)


# --- the notebook


def test_notebook_writes_every_figure_that_applies(load, tmp_path, monkeypatch):
    results = load(IMBALANCED)
    outputs = results.folder.root.parent
    results.study.to_file(tmp_path / "study.yaml")
    parameters = {"study": str(tmp_path / "study.yaml"), "outputs": str(outputs)}
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *outputs: shown.extend(outputs))
    run_cells("04_figures", parameters)
    names = ["collapse", "collapse_released", "concept", "gram", "imbalance", "labels_digits", "loss", "samples_digits"]
    names += ["geometry", "scores"]
    drawn = results.folder.root / "figures"
    written = sorted(path.name for path in drawn.iterdir())
    assert written == sorted(f"{name}.{kind}" for name in names for kind in ("pdf", "png", "txt"))
    assert all(path.read_text().startswith("made_imbalanced") for path in drawn.glob("*.txt"))
    manifest = json.loads((results.folder.root / "04_figures.manifest.json").read_text())
    tables = {"table.csv", "table.md", "table.txt", "checkpoints.csv"}
    assert manifest["outputs"].keys() == tables | {f"figures/{name}" for name in written}
    assert manifest["inputs"]["etf/seed0/geometry.safetensors"] == sha256(
        results.folder.run("etf", 0) / "geometry.safetensors"
    )
    assert sum(isinstance(output, Figure) for output in shown) == len(names)  # each is seen in the notebook, too
