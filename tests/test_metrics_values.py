"""Metric values: the golden files of the released codes, and an independent slow implementation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nclib import metrics
from tests import reference_metrics

GOLDEN = Path(__file__).parent / "golden"
MULTI_LABEL = ["mlab_balanced", "mlab_triples", "mlab_imbalanced"]
SINGLE_LABEL = ["mse_balanced", "mse_wide"]
DTYPES = [torch.float32, torch.float64]


def golden(name, dtype):
    with np.load(GOLDEN / f"{name}.npz") as data:
        arrays = {key: torch.as_tensor(data[key]) for key in data.files}
    expected = json.loads((GOLDEN / f"{name}.json").read_text())
    features, weight, bias = (arrays[key].to(dtype) for key in ("features", "weight", "bias"))
    return (features, arrays["labels"], weight, bias), expected


def draw(*, n, d, k, max_labels, seed, dtype=torch.float64):
    """Features around class means, label sets of 1 to `max_labels` classes, each class alone at least twice."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(n, k, dtype=torch.uint8)
    for i in range(n):
        size = 1 if i < 2 * k else int(torch.randint(1, max_labels + 1, (), generator=generator))
        chosen = torch.tensor([i % k]) if i < 2 * k else torch.randperm(k, generator=generator)[:size]
        labels[i, chosen] = 1
    means = torch.randn(k, d, generator=generator, dtype=dtype) + 0.5
    features = labels.to(dtype) @ means + 0.7 * torch.randn(n, d, generator=generator, dtype=dtype)
    weight = means + 0.5 * torch.randn(k, d, generator=generator, dtype=dtype)
    return features, labels, weight, torch.randn(k, generator=generator, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MULTI_LABEL)
def test_released_code_of_paper_1(name, dtype):
    inputs, expected = golden(name, dtype)
    values, reference = metrics.measure(*inputs), expected["reference"]
    for ours, theirs in {
        "released_nc1": "nc1",
        "nc2_w": "nc2_w",
        "nc2_h": "nc2_h",
        "released_nc3": "nc3",
        "tag_wise_angle_mean_2": "angle_mean_degrees",
        "tag_wise_ratio_2": "angle_metric",
        "soft_iou": "iou_mean",
    }.items():
        assert values[ours] == pytest.approx(reference[theirs], rel=1e-4), ours


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize("name", MULTI_LABEL)
def test_corrected_values(name, dtype, rel):
    inputs, expected = golden(name, dtype)
    values, corrected = metrics.measure(*inputs), expected["corrected"]
    for key in ("nc1", "nc2_w_centered", "nc2_h_centered", "nc3_centered"):
        assert values[key] == pytest.approx(corrected[key], rel=rel), key
    assert values["bias_residual"] == pytest.approx(corrected["wh_b"], rel=rel)
    for m, scores in corrected["tag_wise_average"].items():
        assert values[f"tag_wise_ratio_{m}"] == pytest.approx(scores["ratio"], rel=rel)
        assert values[f"tag_wise_angle_mean_{m}"] == pytest.approx(scores["mean_angle_degrees"], rel=rel)
        assert values[f"tag_wise_angle_max_{m}"] == pytest.approx(scores["max_angle_degrees"], rel=rel)


def test_released_imbalance_ratios():
    (features, labels, _, _), expected = golden("mlab_imbalanced", torch.float32)
    ratios = metrics.imbalance_ratio(features, labels)
    released = {int(count): value for count, value in expected["reference"]["imbalance_angle"].items()}
    assert list(ratios) == sorted(released, reverse=True)
    for count, value in released.items():
        assert float(ratios[count]) == pytest.approx(value, rel=1e-4)
    assert list(metrics.imbalance_ratio(features, labels, counts=[3])) == [3]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SINGLE_LABEL)
def test_released_code_of_paper_2(name, dtype):
    inputs, expected = golden(name, dtype)
    values = metrics.measure(*inputs)
    for key in ("nc1", "nc2_w_centered", "nc3_centered", "nuclear_over_frobenius"):
        assert values[key] == pytest.approx(expected[key], rel=1e-4), key
    assert values["bias_residual"] == pytest.approx(expected["wh_b"], rel=1e-4)
    assert values["cosine_margin_mean"] == pytest.approx(expected["avg_cos_margin"], rel=1e-4)
    assert 100 * values["top1"] == pytest.approx(expected["top1"])
    assert 100 * values["top5"] == pytest.approx(expected["top5"])
    margins = metrics.cosine_margins(*inputs).sort().values
    assert margins[:5].tolist() == pytest.approx(expected["cos_margin_sorted_first5"], rel=1e-4)
    assert margins[-5:].tolist() == pytest.approx(expected["cos_margin_sorted_last5"], rel=1e-4)


@pytest.mark.parametrize("name", MULTI_LABEL + SINGLE_LABEL)
def test_values_of_a_general_library(name):
    (features, labels, weight, _), _ = golden(name, torch.float64)
    expected = json.loads((GOLDEN / "general_metrics.json").read_text())[name]
    if labels.ndim == 2:
        single = labels.sum(dim=1) == 1
        features, labels = features[single], labels[single].long().argmax(dim=1)
    values = metrics.measure(features, labels, weight)  # that library leaves out the bias
    train, test = slice(0, None, 2), slice(1, None, 2)
    held_out = metrics.class_means(features[train], labels[train])
    values["held_out"] = metrics.nc4(features[test], labels[test], weight, class_means=held_out)
    values["nc5"] = metrics.nc5(features, labels, features.flip(1))
    same = {
        "nc1": expected["nc1_pinv"],
        "nc1_quotient": expected["nc1_quotient"],
        "nc1_cdnv": expected["nc1_cdnv"],
        "nc2_h_centered": expected["nc2_etf_err"],
        "nc3": expected["nc3_dual_err"],
        **dict(zip(("gnc2_h_mean", "gnc2_h"), expected["gnc2_log"], strict=True)),
        **dict(zip(("gnc2_w_mean", "gnc2_w"), expected["gnc2_log_weight"], strict=True)),
        "gnc2_h_distance": expected["gnc2_dist"][1],
        "unc3": expected["unc3_dot_var"],
        "unc3_cosine": expected["unc3_cos_var"],
        "nc3_cosine": expected["unc3_cos_mean"],
        "nc4": 1 - expected["nc4_agree"],
        "held_out": 1 - expected["nc4_agree_heldout"],
        "nc5": expected["nc5_ood_dev"],
        "mean_norm": expected["mean_norm"],
    }
    for key, value in same.items():
        assert float(values[key]) == pytest.approx(value, rel=1e-6), key


@pytest.mark.parametrize(
    "shape",
    [
        {"n": 60, "d": 12, "k": 4, "max_labels": 1},
        {"n": 150, "d": 16, "k": 6, "max_labels": 3},
        {"n": 90, "d": 4, "k": 6, "max_labels": 2},  # fewer dimensions than classes
        {"n": 80, "d": 5, "k": 6, "max_labels": 5},  # d = K - 1
        {"n": 30, "d": 40, "k": 2, "max_labels": 2},  # fewer samples than dimensions
    ],
    ids=lambda shape: "-".join(f"{name}{value}" for name, value in shape.items()),
)
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float32, 3e-4), (torch.float64, 1e-9)])
def test_every_scalar_equals_the_slow_reference(shape, dtype, rel, monkeypatch):
    # blocks of 7 rows and tiles of 4, so that sums over several and a remainder are seen; the rest as for many classes
    monkeypatch.setattr(metrics.statistics, "MIN_ROWS", 7)
    monkeypatch.setattr(metrics.rows, "TILE", 4)
    monkeypatch.setattr(metrics.rows, "BLOCK_NUMBERS", 3 * shape["d"])
    for module in (metrics.samples, metrics.tag_wise):
        monkeypatch.setattr(module, "MAX_TABLE", 8 if shape["max_labels"] > 2 else 1 << 22)
    monkeypatch.setitem(metrics.statistics.BLOCK_BYTES, "cpu", 7 * max(shape["d"], 8) * dtype.itemsize)
    inputs = [array if array.dtype == torch.uint8 else array.to(dtype) for array in draw(**shape, seed=1)]
    values = metrics.measure(*inputs)
    expected = reference_metrics.measure(*inputs)
    assert sorted(values) == sorted(expected)
    for key, value in expected.items():
        assert values[key] == pytest.approx(value, rel=rel, abs=1e-9), key


def test_single_functions_equal_measure():
    features, labels, weight, bias = draw(n=120, d=10, k=5, max_labels=3, seed=2)
    values = metrics.measure(features, labels, weight, bias)
    of_features = ["nc1", "released_nc1", "nc1_quotient", "nc1_cdnv", "nuclear_over_frobenius"]
    of_features += ["nc2_h", "nc2_h_centered", "equinorm_h", "equiangle_h", "gnc2_h", "gnc2_h_mean", "gnc2_h_distance"]
    of_features += ["separation", "class_mean_rank", "ncc_accuracy", "feature_norm", "mean_norm"]
    of_weight = ["nc2_w", "nc2_w_centered", "equinorm_w", "equiangle_w", "gnc2_w", "gnc2_w_mean", "gnc2_w_distance"]
    of_weight += ["margin_one_vs_rest"]
    of_both = ["nc3", "nc3_centered", "released_nc3", "nc3_distance", "nc3_cosine", "unc3", "unc3_cosine"]
    single = {
        **{name: getattr(metrics, name)(features, labels) for name in of_features},
        **{name: getattr(metrics, name)(weight) for name in of_weight},
        **{name: getattr(metrics, name)(features, labels, weight) for name in of_both},
        **{
            name: getattr(metrics, name)(features, labels, weight, bias)
            for name in ("nc4", "bias_residual", "cosine_margin_mean")
        },
        "tag_wise_ratio_3": metrics.tag_wise_ratio(features, labels, 3),
        "tag_wise_scale_3": metrics.tag_wise_scale(features, labels, 3),
        "tag_wise_residual_3": metrics.tag_wise_residual(features, labels, 3),
        "tag_wise_angle_max_3": metrics.tag_wise_angles(features, labels, 3).max(),
    }
    for name, value in single.items():
        assert value.shape == ()
        assert value.dtype == (torch.int64 if name == "class_mean_rank" else torch.float64)
        assert float(value) == pytest.approx(values[name], rel=1e-12), name


def test_given_logits_count_instead_of_the_classifier():
    features, labels, weight, bias = draw(n=60, d=8, k=4, max_labels=2, seed=3)
    logits = labels.double() * 9
    values = metrics.measure(features, labels, weight, bias, logits=logits)
    assert values["top1"] == values["jaccard"] == values["subset_accuracy"] == 1
    without = metrics.measure(features, labels, weight, bias)
    assert without["top1"] < 1
    assert values["nc3"] == without["nc3"]


def test_nuclear_norm_can_be_left_out():
    inputs = draw(n=40, d=8, k=4, max_labels=1, seed=4)
    values = metrics.measure(*inputs)
    del values["nuclear_over_frobenius"]
    assert metrics.measure(*inputs, nuclear_norm=False) == values


def test_class_ids_equal_one_hot_labels_of_any_dtype():
    features, labels, weight, bias = draw(n=50, d=6, k=3, max_labels=1, seed=5)
    expected = metrics.measure(features, labels, weight, bias)
    ids = labels.argmax(dim=1)
    for same in (ids, ids.int(), labels.bool(), labels.float(), labels.long()):
        assert metrics.measure(features, same, weight, bias) == expected


def test_label_set_means_are_sorted_and_exact():
    features, labels, _, _ = draw(n=90, d=6, k=4, max_labels=3, seed=6)
    sets, counts, means = metrics.label_set_means(features, labels)
    rows = [tuple(row.nonzero().flatten().tolist()) for row in sets]
    assert rows == sorted(rows, key=lambda row: (len(row), row))
    assert int(counts.sum()) == 90
    for m in (1, 2, 3):
        for row, (mean, count) in reference_metrics.means_of_sets(features.numpy(), labels.numpy(), m).items():
            place = rows.index(row)
            assert int(counts[place]) == count
            np.testing.assert_allclose(means[place].numpy(), mean, rtol=1e-12)


def test_imbalance_ratio_equals_the_slow_reference():
    features, labels, _, _ = draw(n=200, d=8, k=4, max_labels=2, seed=7)
    _, expected = reference_metrics.tag_wise(features.numpy(), labels.numpy(), 2)
    ratios = metrics.imbalance_ratio(features, labels)
    assert {count: float(ratio) for count, ratio in ratios.items()} == pytest.approx(expected, rel=1e-10)
