"""Result tables: numbers are those measured, parameters saved those of the paper."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from nclib.metrics import nc2_w_centered
from nclib.results import tables
from nclib.results.metrics_table import of_metric, read_metrics, wide
from nclib.results.predictions import minima
from nclib.results.study_results import StudyResults
from nclib.results.tables import _mean_and_deviation
from nclib.study.files import read_csv
from nclib.theory import predict_training
from tests.synthetic_study import IMBALANCED, MANY_RUNS, MULTI_LABEL, SINGLE_LABEL, TRIPLES


def parse(markdown: str, place: int) -> list[dict[str, str]]:
    """The rows of one of the tables of a Markdown text."""
    blocks = [block.splitlines() for block in markdown.split("\n\n") if block.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in blocks[place]]
    assert {len(row) for row in rows} == {len(rows[0])}
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def test_the_table_holds_every_metric_of_the_last_checkpoint(load):
    results = load(MULTI_LABEL)
    table = tables.result_table(results)
    assert list(zip(table["run"], table["seed"], strict=True)) == [
        ("learned", 0),
        ("learned", 1),
        ("etf", 0),
        ("etf", 1),
    ]
    source = read_metrics(results.folder.run("etf", 1) / "metrics.csv")
    row = table.iloc[3]
    for split in ("train", "test"):
        last = source[(source["epoch"] == 60) & (source["split"] == split)]
        assert len(last) > 25
        for metric, labels, value in zip(last["metric"], last["labels"], last["value"], strict=True):
            assert row[f"{split}_{metric}" if pd.isna(labels) else f"{split}_{metric}_{labels}"] == value
    history = read_csv(results.folder.run("etf", 1) / "history.csv", stage="02_train")
    assert row["epochs"] == 60
    assert row["seconds"] == pytest.approx(history["seconds"].sum())
    assert row["best_test_score"] == history["test_soft_iou"].max()
    assert history["epoch"][history["test_soft_iou"] == row["best_test_score"]].iloc[0] == row["best_epoch"]
    assert (row["arch"], row["head"], row["dataset"]) == ("resnet18", "etf", "digits")
    assert "train_onn_jaccard" not in table.columns


def test_parameters_saved_are_those_of_the_paper(load):
    rows = parse(tables.summary(load(MANY_RUNS)), 0)
    saved = {row["run"]: row["saved"] for row in rows}
    assert [saved[f"{arch}_etf"] for arch in ("resnet18", "resnet50", "vgg16", "vgg19")] == [
        "20.71 %",
        "4.45 %",
        "15.75 %",
        "11.58 %",
    ]
    assert {saved[f"{arch}_learned"] for arch in ("resnet18", "vgg19")} == {"–"}
    assert rows[1]["trainable parameters"] == "8,859,762"


def test_parameters_are_compared_with_the_same_network_only(load):
    results = load(
        {
            **MULTI_LABEL,
            "study": "made_widths",
            "runs": {
                "wide": {"model": {"width": 32}},
                "etf": {"model": {"head": "etf", "feature_dim": 10}},
                "small": {"model": {"feature_dim": 10}},
                "large": {"model": {"feature_dim": 12}},
            },
        }
    )
    counts = {"wide": 900, "etf": 80, "small": 100, "large": 160}
    one = replace(results, trainable_parameters=counts)
    assert tables.saved_percent(one, "etf") == pytest.approx(50)  # of the largest
    assert tables.saved_percent(one, "small") == pytest.approx(37.5)
    assert math.isnan(tables.saved_percent(one, "large"))
    assert math.isnan(tables.saved_percent(one, "wide"))


def test_several_seeds_are_mean_and_standard_deviation(load):
    results = load(MULTI_LABEL)
    text = tables.summary(results)
    assert "mean ± standard deviation of 2 seeds (0, 1)" in text
    values = of_metric(results.metrics, "soft_iou", split="test").query("run == 'etf' and epoch == 60")["value"]
    assert parse(text, 0)[1]["test IoU"] == f"{values.mean():.4f} ± {np.std(values, ddof=1):.4f}"


def test_multi_label_tables(load):
    results = load(TRIPLES)
    text = tables.summary(results)
    main, decoding, released = (parse(text, place)[0] for place in range(3))
    assert list(main) == [
        "run",
        "train IoU",
        "ceiling",
        "test IoU",
        "best test IoU (epoch)",
        "train subset accuracy",
        "test subset accuracy",
        "test Jaccard",
        "NC1",
        "NC2 classifier",
        "NC2 means",
        "NC3",
        "tag-wise ratio, 2 labels",
        "tag-wise ratio, 3 labels",
        "trainable parameters",
        "saved",
    ]
    last = results.metrics.query("epoch == 60").groupby("split")
    test, train = (wide(last.get_group(split), ["run", "seed"]).iloc[0] for split in ("test", "train"))
    assert decoding["Jaccard, nearest average"] == f"{test['onn_jaccard']:.4f}"
    assert decoding["subset accuracy, threshold"] == f"{test['threshold_subset_accuracy']:.4f}"
    assert decoding["Jaccard, true m"] == f"{test['jaccard']:.4f}"
    assert float(released["NC1"]) == pytest.approx(train["released_nc1"], rel=5e-3)
    assert float(released["NC2 means"]) == pytest.approx(train["nc2_h"], rel=5e-3)
    assert float(main["NC2 means"]) == pytest.approx(train["nc2_h_centered"], rel=5e-3)


def test_the_ceiling_is_what_theory_predicts(load):
    results = load({**MULTI_LABEL, "training": {**MULTI_LABEL["training"], "batch_size": 128}})
    ceiling = tables.result_table(results).groupby("run")["ceiling"].first()
    settings = {"weight_decay": 5e-4, "feature_decay": 1e-3, "batch_size": 128}
    predicted = predict_training(10, {1: 20, 2: 4}, **settings, head="etf", nonnegative=True)
    assert ceiling["etf"] == pytest.approx(predicted.soft_iou, rel=1e-6)
    assert ceiling["etf"] < 0.5 < ceiling["learned"]
    assert parse(tables.summary(results), 0)[1]["ceiling"] == f"{predicted.soft_iou:.4f}"


def test_every_checkpoint_is_kept_as_a_row(load):
    results = load(MULTI_LABEL)
    table = tables.checkpoint_table(results).set_index(["run", "seed", "epoch"])
    assert len(table) == 4 * 13
    nc1 = results.values("nc1").set_index(["run", "seed", "epoch"])["value"]
    assert table["train_nc1"].to_dict() == nc1.to_dict()


@pytest.mark.parametrize("study", [MULTI_LABEL, TRIPLES, MANY_RUNS, {**SINGLE_LABEL, "seeds": [0]}])
def test_the_terminal_has_the_same_numbers_in_80_columns(load, study):
    results = load(study)
    text = tables.terminal_text(results)
    assert max(map(len, text.splitlines())) <= 80
    assert ("of one seed (0), so without a deviation" in " ".join(text.split())) == (len(results.seeds) == 1)
    _, *blocks = text.strip().split("\n\n")
    heads = [column.head for column in tables.main_columns(results) if column.head]
    assert " ".join(" ".join(block.splitlines()[0] for block in blocks).replace("\\", "").split()) == " ".join(heads)
    for row in parse(tables.summary(results), 0):
        shown = [row[column.title] for column in tables.main_columns(results) if column.head]
        lines = [line for block in blocks for line in block.splitlines()[1:] if line.startswith(row["run"])]
        assert " ".join(" ".join(line.removeprefix(row["run"]) for line in lines).split()) == " ".join(shown)


def test_the_best_test_score_stands_with_its_epochs(load):
    results = load(MULTI_LABEL)
    best = results.history.query("run == 'etf'").groupby("seed")["test_soft_iou"]
    epochs = sorted(results.history.loc[best.idxmax(), "epoch"])
    shown = parse(tables.summary(results), 0)[1]["best test IoU (epoch)"]
    values = best.max()
    assert shown == f"{values.mean():.4f} ± {values.std():.4f} ({epochs[0]}–{epochs[1]})"


def test_single_label_table(load):
    text = tables.summary(load({**SINGLE_LABEL, "seeds": [0]}))
    assert text.count("\n| run") == 1  # no label sets to decode
    assert list(parse(text, 0)[0])[1:3] == ["train accuracy", "test accuracy"]


def test_two_classes_are_pointed_out(load, monkeypatch):
    results = load({**SINGLE_LABEL, "seeds": [0]})
    assert "centered." in tables.summary(results)
    binary = replace(results.geometry(results.runs[0], 0), class_names=("cat", "dog"))
    monkeypatch.setattr(StudyResults, "geometry", lambda *_: binary)
    assert "NC2 and NC3 are centered, and so 0 by construction where there are two classes." in tables.summary(results)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.012345], "0.0123"),
        ([12.345], "12.3"),
        ([1234.5], "1234"),
        ([0.0], "0.000"),
        ([3.3e-8], "3.3e-08"),
        ([1.0, 1.5], "1.25 ± 0.35"),
        ([math.nan], "–"),
        ([-0.5], "-0.500"),
    ],
)
def test_numbers_have_three_digits(values, text):
    assert _mean_and_deviation(values) == text


def test_distances_are_from_the_certified_minimum(load):
    results = load(IMBALANCED)
    table, minimum = tables.result_table(results), minima(results)["learned"]
    weight = results.geometry("learned", 0).weight[-1]
    assert table["train_to_minimum_w"][0] == minimum.distance_of_classifier(weight).item() > 0.01
    assert minimum.distance_of_classifier(3 * minimum.weight) < 1e-12
    assert minimum.distance_of_means(torch.eye(10)).item() == pytest.approx(nc2_w_centered(minimum.class_means).item())
    assert "means, to the minimum" in parse(tables.summary(results), 3)[0]
    balanced = tables.result_table(load(MULTI_LABEL))
    assert balanced["train_to_minimum_h"].tolist() == pytest.approx(balanced["train_nc2_h_centered"].tolist(), abs=1e-6)
    assert "to the minimum" not in tables.summary(load(MULTI_LABEL))
