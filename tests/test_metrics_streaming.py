"""Streaming metrics: many batches equal one, also across two processes, and nothing grows with the samples."""

import socket
from datetime import timedelta

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from nclib import metrics
from nclib.metrics import CollapseMetrics
from tests.test_metrics_values import draw

NOT_STREAMED = {"nc4", "ncc_accuracy", "cosine_margin_mean", "nuclear_over_frobenius"}
FEATURES, LABELS, WEIGHT, BIAS = draw(n=100, d=8, k=4, max_labels=3, seed=0)
LOGITS = FEATURES @ WEIGHT.T + BIAS


def streamed(features, labels, logits, *, batch_size):
    metric = CollapseMetrics(num_classes=4, feature_dim=8)
    for batch in zip(*(array.split(batch_size) for array in (features, labels, logits)), strict=True):
        metric.update(*batch)
    return metric


def floats(values):
    return {name: float(value) for name, value in values.items()}


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_batches_of_any_size_equal_measure(batch_size):
    metric = streamed(FEATURES, LABELS, LOGITS, batch_size=batch_size)
    expected = metrics.measure(FEATURES, LABELS, WEIGHT, BIAS)
    values = floats(metric.compute(WEIGHT, BIAS))
    assert set(expected) - set(values) == NOT_STREAMED
    assert values == pytest.approx({name: expected[name] for name in values}, rel=1e-9, abs=1e-9)


def test_the_classifier_may_change_between_two_computes():
    metric = streamed(FEATURES, LABELS, LOGITS, batch_size=50)
    first, second = metric.compute(WEIGHT, BIAS), metric.compute(2 * WEIGHT.roll(1, 0))
    assert float(first["nc3"]) != float(second["nc3"])
    assert "nc3" not in metric.compute()
    assert float(metric.compute()["nc1"]) == float(first["nc1"])


def test_reset_forgets_everything():
    metric = streamed(FEATURES + 3, LABELS, LOGITS, batch_size=50)
    metric.reset()
    with pytest.raises(ValueError, match="Expected an update with labeled samples"), pytest.warns(UserWarning):
        metric.compute()
    metric.update(FEATURES, LABELS)
    expected = metrics.measure(FEATURES, LABELS, WEIGHT)
    values = floats(metric.compute())
    assert "soft_iou" not in values
    assert values == pytest.approx({name: expected[name] for name in values}, rel=1e-9)


def test_large_offset_in_float32_keeps_its_precision():
    shifted = (FEATURES + 1e4).float()
    exact = metrics.measure(shifted.double(), LABELS, WEIGHT, logits=LOGITS)
    values = floats(streamed(shifted, LABELS, LOGITS, batch_size=9).compute(WEIGHT.float()))
    for name in ("nc1", "nc1_quotient", "nc1_cdnv", "nc2_h_centered", "nc3_centered"):
        assert values[name] == pytest.approx(exact[name], rel=1e-5), name


@pytest.mark.parametrize("batch_size", [1, 9, 100])
def test_a_spread_far_below_the_offset_keeps_its_digits(batch_size):
    classes = LABELS.sum(dim=1) == 1
    labels = LABELS[classes]
    features = labels.double() @ WEIGHT + 1e-4 * FEATURES[classes] + 1e4
    expected = metrics.measure(features, labels, WEIGHT)
    values = streamed(features, labels, LOGITS[classes], batch_size=batch_size).compute(WEIGHT)
    for name in ("nc1", "released_nc1", "nc1_quotient", "nc1_cdnv"):
        assert float(values[name]) == pytest.approx(expected[name], rel=1e-6), name


def test_order_and_grouping_of_the_batches_change_nothing():
    features = 1e-3 * FEATURES + LABELS.double() @ WEIGHT + 1e4
    one = streamed(features, LABELS, LOGITS, batch_size=11)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    other = streamed(features[order], LABELS[order], LOGITS[order], batch_size=3)
    parts = [streamed(features[rows], LABELS[rows], LOGITS[rows], batch_size=7) for rows in order.split(40)]
    parts[2].merge_state(parts[0])
    parts[2].merge_state(parts[1])
    for same in (other, parts[2]):
        assert floats(same.compute(WEIGHT)) == pytest.approx(floats(one.compute(WEIGHT)), rel=1e-7)


def test_class_ids_and_half_precision():
    features, labels, weight, _ = draw(n=60, d=8, k=4, max_labels=1, seed=1)
    metric = CollapseMetrics(num_classes=4, feature_dim=8)
    for half, ids in zip(features.half().split(13), labels.argmax(dim=1).split(13), strict=True):
        metric.update(half, ids)
    expected = metrics.measure(features.half().double(), labels, weight)
    assert float(metric.compute()["nc1"]) == pytest.approx(expected["nc1"], rel=1e-6)


def test_memory_does_not_grow_with_the_samples():
    metric = streamed(FEATURES, LABELS, LOGITS, batch_size=10)

    def state_bytes():
        states = [getattr(metric, name) for name in metric._reductions]
        return sum(s.nbytes if torch.is_tensor(s) else sum(t.nbytes for t in s) for s in states)

    before = state_bytes()
    for _ in range(5):
        metric.update(FEATURES, LABELS, LOGITS)
    assert state_bytes() == before


def test_in_a_metric_collection_and_a_training_loop():
    features, labels, weight, bias = draw(n=60, d=8, k=4, max_labels=1, seed=2)
    ids, logits = labels.argmax(dim=1), features @ weight.T + bias
    collection = MetricCollection([CollapseMetrics(num_classes=4, feature_dim=8)], prefix="train_")
    for rows in torch.arange(60).split(7):
        assert collection(features[rows], ids[rows], logits[rows]) == {}
    values = floats(collection.compute())
    expected = metrics.measure(features, labels, weight, bias)
    assert values["train_nc1"] == pytest.approx(expected["nc1"])
    assert values["train_top1"] == pytest.approx(expected["top1"])
    # beside another metric, each takes the arguments that it names
    both = MetricCollection({"collapse": CollapseMetrics(4, 8), "accuracy": MulticlassAccuracy(4, average="micro")})
    both.update(features=features, labels=ids, preds=logits, target=ids)
    assert float(both.compute()["accuracy"]) == pytest.approx(expected["top1"])
    collection.reset()
    assert [len(rows) for rows in collection["CollapseMetrics"].set_counts] == [0]
    # two of a kind share one state
    pair = MetricCollection({"first": CollapseMetrics(4, 8), "second": CollapseMetrics(4, 8)})
    for rows in torch.arange(60).split(7):
        pair.update(features[rows], ids[rows], logits[rows])
    for name in ("first_nc1", "second_nc1"):
        assert float(pair.compute()[name]) == pytest.approx(expected["nc1"])


def test_invalid_batches():
    metric = CollapseMetrics(num_classes=4, feature_dim=8)
    with pytest.raises(ValueError, match="Expected features of 8 columns, but got 5"):
        metric.update(FEATURES[:, :5], LABELS)
    logits = torch.where(torch.arange(100).unsqueeze(1) == 99, torch.nan, LOGITS)
    with pytest.raises(ValueError, match="Expected logits without NaN"):
        metric.update(FEATURES, LABELS, logits)
    assert len(metric.set_counts[0]) == metric.scores.sum() == 0  # nothing of it was taken in
    with pytest.raises(ValueError, match="Expected num_classes >= 2 and feature_dim >= 1, but got 1, 8"):
        CollapseMetrics(num_classes=1, feature_dim=8)
    metric.update(FEATURES[:5] * torch.nan, LABELS[:5] * 0)  # no labels: nothing to take in
    metric.update(FEATURES[:2], LABELS[:2])
    with pytest.raises(ValueError, match=r"classes \[2, 3\] of 4 have none"):
        metric.compute()
    metric.update(FEATURES * torch.nan, LABELS)
    with pytest.raises(ValueError, match="Expected finite features, but a batch had NaN"):
        metric.compute()


def _values_on_rank(rank, port):
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    # unequal shares, and label sets that only one of the ranks has seen
    rows = slice(0, 30) if rank == 0 else slice(30, 100)
    metric = streamed(FEATURES[rows], LABELS[rows], LOGITS[rows], batch_size=11)
    values = [floats(metric.compute(WEIGHT, BIAS))]
    metric.update(FEATURES[rows], LABELS[rows], LOGITS[rows])
    values.append(floats(metric.compute(WEIGHT, BIAS)))
    metric.reset()
    if rank == 0:  # the other has seen no batch
        metric.update(FEATURES, LABELS, LOGITS)
    values.append(floats(metric.compute(WEIGHT, BIAS)))
    metric.update(FEATURES, 0 * LABELS, LOGITS)  # now one without labels
    values.append(floats(metric.compute(WEIGHT, BIAS)))
    torch.distributed.destroy_process_group()
    return values


def _save_values_on_rank_1(_, port, path):
    torch.set_num_threads(1)
    torch.save(_values_on_rank(1, port), path)


def test_two_processes_equal_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    expected = floats(streamed(FEATURES, LABELS, LOGITS, batch_size=11).compute(WEIGHT, BIAS))
    other = multiprocessing.spawn(_save_values_on_rank_1, args=(port, tmp_path / "values.pt"), nprocs=1, join=False)
    values = _values_on_rank(0, port)
    other.join()
    assert values == torch.load(tmp_path / "values.pt")
    for found in values:
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
