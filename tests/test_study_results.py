"""A study's results read back: the long table of metrics, predictions, and files that are refused."""

import math
from dataclasses import replace

import pandas as pd
import pytest

from nclib.results.metrics_table import long, measured_labels, read_metrics, wide
from nclib.results.predictions import predict_geometry, predictions
from nclib.results.study_results import StudyResults
from nclib.results.tables import result_table
from nclib.study.files import StageError, read_csv, write_csv
from nclib.study.study import Study
from nclib.theory import predict_training
from tests.synthetic_study import IMBALANCED, MULTI_LABEL, SINGLE_LABEL, TRIPLES, save_run, write_study

ONE_SEED = {**MULTI_LABEL, "seeds": [0]}


def test_the_table_comes_back_from_its_file(tmp_path):
    rows = [
        (0, "train", "nc1", None, 1 / 3),
        (0, "train", "tag_wise_ratio", 2, math.nan),
        (0, "test", "top1", None, 1.0),
    ]
    table = long(rows)
    write_csv(tmp_path / "metrics.csv", table)
    pd.testing.assert_frame_equal(read_metrics(tmp_path / "metrics.csv"), table, check_dtype=False, check_exact=True)
    assert [measured_labels(table, metric) for metric in ("nc1", "tag_wise_ratio", "top1")] == [(), (2,), ()]
    assert list(wide(table[table["split"] == "train"], ["epoch"]).columns) == ["nc1", "tag_wise_ratio_2"]


def test_results_know_what_was_measured(load):
    assert load(MULTI_LABEL).multiplicities == (2,)
    assert load(TRIPLES).multiplicities == (2, 3)
    assert load(IMBALANCED).imbalance_groups == (20, 8, 2)
    assert load(MULTI_LABEL).is_multi_label and not load(SINGLE_LABEL).is_multi_label
    assert load(MULTI_LABEL).imbalance_groups == load(SINGLE_LABEL).multiplicities == ()


def test_values_are_those_of_one_metric_of_every_run_and_seed(load):
    results = load(TRIPLES)
    file = pd.read_csv(results.folder.run("etf", 0) / "metrics.csv")
    for metric, split, labels in (("nc1", "train", None), ("soft_iou", "test", None), ("tag_wise_ratio", "train", 3)):
        values = results.values(metric, split=split, labels=labels)
        assert list(values) == ["run", "seed", "epoch", "value"]
        chosen = (file["metric"] == metric) & (file["split"] == split)
        chosen &= file["labels"].isna() if labels is None else file["labels"] == labels
        of_run = values[values["run"] == "etf"]
        assert list(of_run["epoch"]) == list(range(0, 61, 5))
        assert list(of_run["value"]) == list(file[chosen]["value"])
    for labels in (None, 4):
        with pytest.raises(
            ValueError, match=r"Expected a metric measured on 'train' \(nc1, .*but got 'tag_wise_ratio'"
        ):
            results.values("tag_wise_ratio", labels=labels)


def test_the_last_checkpoint_is_that_of_each_run(load):
    results = load(MULTI_LABEL)
    metrics = results.metrics[(results.metrics["run"] != "etf") | (results.metrics["epoch"] <= 20)]
    last = result_table(replace(results, metrics=metrics))
    assert list(last["epoch"]) == [60, 60, 20, 20]
    at_20 = metrics.query("metric == 'soft_iou' and split == 'test' and run == 'etf' and epoch == 20")
    assert list(last["test_soft_iou"])[2:] == list(at_20["value"])


# Files


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("history.csv", r"run stage 02_train first \(history.csv is gone\)"),
        ("02_train.manifest.json", r"run stage 02_train first \(there is no result yet\)"),
        ("metrics.csv", r"run stage 03_validate first \(metrics.csv is gone\)"),
    ],
)
def test_a_missing_file_names_the_stage_to_run(tmp_path, file, message):
    study = Study.from_mapping(ONE_SEED)
    (write_study(tmp_path, study).run("etf", 0) / file).unlink()
    with pytest.raises(StageError, match=rf"etf/seed0: {message}"):
        StudyResults.load(study, tmp_path)


def test_files_of_another_form_are_refused(tmp_path):
    study = Study.from_mapping(ONE_SEED)
    folder = write_study(tmp_path, study).run("etf", 0)
    wrong = pd.DataFrame({"epoch": [0], "split": ["train"], "nc1": [0.5]})
    write_csv(folder / "metrics.csv", wrong)
    with pytest.raises(StageError, match=r"run stage 03_validate first \(metrics.csv has another size"):
        StudyResults.load(study, tmp_path)
    history = read_csv(folder / "history.csv", stage="02_train")
    save_run(study, "etf", 0, tmp_path, {"history.csv": history}, {"metrics.csv": wrong})
    with pytest.raises(
        StageError, match=r"metrics.csv is damaged \(its columns are not epoch, .*run stage 03_validate"
    ):
        StudyResults.load(study, tmp_path)
    (folder / "02_train.manifest.json").write_text("{}")
    with pytest.raises(StageError, match=r"run stage 02_train first \(there is no result yet\)"):
        StudyResults.load(study, tmp_path)


def test_results_of_other_parameters_are_refused(tmp_path):
    write_study(tmp_path, Study.from_mapping(ONE_SEED))
    other = Study.from_mapping({**ONE_SEED, "training": {"epochs": 60, "lr": 0.7}})
    with pytest.raises(StageError, match=r"seed0: run stage 02_train first \(training.lr was 0.1 and is 0.7\)"):
        StudyResults.load(other, tmp_path)


# Predictions


def test_predictions_are_the_theorys_where_it_applies(load):
    found = predictions(load(MULTI_LABEL))
    settings = {"weight_decay": 5e-4, "feature_decay": 1e-3, "batch_size": 128}
    learned = predict_training(10, {1: 20, 2: 4}, **settings)
    etf = predict_training(10, {1: 20, 2: 4}, **settings, head="etf", nonnegative=True)
    for run, minimum in (("learned", learned), ("etf", etf)):
        assert found["train_loss"][run] == pytest.approx(minimum.data_loss, rel=1e-6)
        assert found["train_soft_iou"][run] == pytest.approx(minimum.soft_iou, rel=1e-6)
        assert found["tag_wise_scale_2"][run] == pytest.approx(minimum.scales[2], rel=1e-6)
    steps = math.ceil(380 / 128)
    norms = 200 * learned.feature_norms[1] ** 2 + 180 * learned.feature_norms[2] ** 2
    assert found["train_feature_decay"]["learned"] == pytest.approx(1e-3 / steps * norms, rel=1e-6)


def test_an_etf_with_more_dimensions_than_classes_has_the_same_prediction(load):
    wide_etf = {"etf": {"model": {"head": "etf", "feature_dim": 16}}}
    found = predictions(load({**ONE_SEED, "study": "made_wide", "runs": wide_etf}))
    assert found["train_loss"]["etf"] == pytest.approx(predictions(load(MULTI_LABEL))["train_loss"]["etf"], rel=1e-9)


def test_an_etf_after_batch_norm_may_have_negative_features(load):
    last = {"model": {"arch": "mlp_norm_last", "head": "etf", "feature_dim": 10}}
    found = predictions(replace(load(MULTI_LABEL), study=Study.from_mapping({**MULTI_LABEL, "runs": {"etf": last}})))
    settings = {"weight_decay": 5e-4, "feature_decay": 1e-3, "batch_size": 128}
    predicted = predict_training(10, {1: 20, 2: 4}, **settings, head="etf")
    assert found["train_loss"]["etf"] == pytest.approx(predicted.data_loss, rel=1e-9)


@pytest.mark.parametrize(
    "training",
    [{"optimizer": "adam"}, {"augment": True}, {"feature_decay": 0.0}, {"weight_decay": 0.0}, {"loss": "focal"}],
)
def test_no_prediction_where_the_settings_are_not_the_theorys(load, training):
    study = Study.from_mapping({**MULTI_LABEL, "runs": {"learned": {"training": training}}})
    assert predictions(replace(load(MULTI_LABEL), study=study)) == {}


def test_imbalanced_label_sets_have_a_certified_prediction(load):
    results = load(IMBALANCED)
    found = predictions(results)
    for run, settings in results.resolved.items():
        geometry = results.geometry(run, 0)
        K, d = geometry.weight.shape[1:]
        minimum = predict_geometry(settings, geometry.label_set_counts(), num_classes=K, feature_dim=d)
        assert abs(minimum.gap) < 1e-10
        assert minimum.counts.unique().tolist() == [2, 8, 20]
        assert found["train_soft_iou"][run] == minimum.soft_iou
        assert found["tag_wise_scale_2"][run] == minimum.scales[2]
    assert found["nc2_w_centered"].keys() == {"learned"}
    assert found["nc2_w_centered"]["learned"] > 1e-3
    learned = results.resolved["learned"]
    assert predict_geometry(learned, geometry.label_set_counts(), num_classes=K, feature_dim=K - 2) is None
