"""Measuring checkpoints: one measurement per split feeds the table and the geometry, and it costs little."""

import math
import time
from pathlib import Path

import pytest
import torch

from nclib import decode, metrics
from nclib.data import dataset as datasets
from nclib.data.batches import DeviceBatches
from nclib.data.tensors import load_tensors, save_tensors
from nclib.features import extract
from nclib.results.measure_checkpoints import measure_checkpoints, spread_sample
from nclib.results.metrics_table import of_metric, wide
from nclib.study.files import StageError
from nclib.study.study import Study
from nclib.training import loop as train
from nclib.training.device import place

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
LIMIT = 1.5  # forward passes over the data that measuring a checkpoint may take
SMALL = {1: 8, 2: 3}


def prepared(settings, folder, *, epochs=(0,)):
    """The data set of a run, its network, and checkpoints of networks with other weights each."""
    splits = datasets.build(**settings.dataset.model_dump())
    checkpoints = {epoch: folder / f"epoch_{epoch:04d}.safetensors" for epoch in epochs}
    for epoch, path in checkpoints.items():
        model = train.build_network(settings.model, splits, seed=epoch)
        save_tensors(path, model.state_dict())
    return splits, model, checkpoints


def settings_of(**dataset):
    """Of the default study, with a narrow network and another data set."""
    settings = Study.from_file(ROOT / "params/mlab_digits.yaml").resolve("learned")
    model = settings.model.model_copy(update={"width": 4})
    return settings.model_copy(update={"model": model, "dataset": settings.dataset.model_copy(update=dataset)})


def measured(settings, model, checkpoints, splits, *, feature_sample=9):
    options = {"dataset": settings.dataset, "device": CPU, "batch_size": 64, "feature_sample": feature_sample}
    return measure_checkpoints(model, checkpoints, splits, **options)


def passes(model, splits, *, batch_size=512):
    """Batches of the training and of the test images."""
    return {
        name: DeviceBatches(
            split.images, split.labels, mean=splits.mean, std=splits.std, device=CPU, batch_size=batch_size
        )
        for name, split in (("train", splits.train), ("test", splits.test))
    }


def test_one_measurement_per_split_gives_what_each_function_gives(tmp_path, monkeypatch):
    settings = settings_of(train_counts=SMALL, test_counts=SMALL)
    splits, model, checkpoints = prepared(settings, tmp_path, epochs=(0, 3))
    counted = []
    take = metrics.take_measurement
    monkeypatch.setattr(metrics, "take_measurement", lambda *args, **named: counted.append(1) or take(*args, **named))
    found = measured(settings, model, checkpoints, splits, feature_sample=20)
    assert len(counted) == 4
    monkeypatch.undo()

    batches = passes(model, splits, batch_size=64)
    (features, logits), (test_features, test_logits) = (extract(model, part.ordered()) for part in batches.values())
    labels, test_labels, weight, bias = splits.train.labels, splits.test.labels, model.head.weight, model.head.bias
    rows = {split: wide(of_split, ["epoch"]).loc[3] for split, of_split in found.metrics.groupby("split")}
    expected = metrics.measure(features, labels, weight, bias, logits=logits)
    assert dict(rows["train"]) == expected
    onn = decode.nearest_tag_average(test_features, decode.tag_averages(features, labels))
    by_threshold = decode.threshold_softmax(test_logits, decode.tune_threshold(logits, labels))
    for name, predicted in {"onn": onn, "threshold": by_threshold}.items():
        assert rows["test"][f"{name}_jaccard"] == float(decode.set_jaccard(predicted, test_labels))
        accuracy = float(decode.set_subset_accuracy(predicted, test_labels))
        assert rows["test"][f"{name}_subset_accuracy"] == accuracy

    geometry = found.geometry
    sets = metrics.label_set_means(features, labels)
    assert torch.equal(geometry.set_means[1], sets.means)
    assert torch.equal(geometry.label_sets.bool(), sets.label_sets)
    assert torch.equal(geometry.counts, sets.counts)
    assert torch.equal(geometry.class_means[1], metrics.class_means(features, labels))
    assert torch.equal(
        geometry.angles[1][sets.label_sets.sum(dim=1) == 2], metrics.tag_wise_angles(features, labels, 2)
    )
    assert geometry.scales[1].tolist() == [1, float(metrics.tag_wise_scale(features, labels, 2))]
    margins = metrics.cosine_margins(features, labels, weight.detach(), bias.detach()).sort().values
    torch.testing.assert_close(geometry.margins[1], margins)
    for index, path in enumerate(checkpoints.values()):  # each checkpoint keeps its own last layer
        weights, _ = load_tensors(path, stage="02_train")
        assert torch.equal(geometry.weight[index], weights["head.weight"])
        assert torch.equal(geometry.bias[index], weights["head.bias"])
        deviations = weights["head.weight"] - weights["head.weight"].mean(dim=0)
        assert torch.equal(geometry.gram_weight[index], metrics.cosine_gram(deviations))
    sample = spread_sample(labels, 20)
    assert torch.equal(geometry.sample_features[1], features[sample])
    assert torch.equal(found.predicted, logits.argmax(dim=1))


def test_a_network_whose_features_are_all_equal_is_named(tmp_path):
    settings = settings_of(train_counts=SMALL, test_counts=SMALL)
    splits, model, checkpoints = prepared(settings, tmp_path, epochs=(0, 1))
    dead = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    save_tensors(checkpoints[1], dead)
    with pytest.raises(StageError, match=r"(?s)train images at .*epoch_0001.*all are equal.*lower training.feature"):
        measured(settings, model, checkpoints, splits)


def test_imbalance_ratios_of_the_training_rows(tmp_path):
    settings = settings_of(train_counts={1: 8}, test_counts=SMALL, pair_groups=(6, 4, 2))
    splits, model, checkpoints = prepared(settings, tmp_path)
    found = measured(settings, model, checkpoints, splits)
    features, _ = extract(model, passes(model, splits)["train"].ordered())
    for count, ratio in metrics.imbalance_ratio(features, splits.train.labels).items():
        (value,) = of_metric(found.metrics, "imbalance_ratio", labels=count)["value"]
        assert value == pytest.approx(float(ratio), rel=1e-5)
        assert of_metric(found.metrics, "imbalance_ratio", split="test", labels=count).empty


def test_no_checkpoints_or_those_of_another_network(tmp_path):
    settings = settings_of(train_counts=SMALL, test_counts=SMALL)
    splits, model, _ = prepared(settings, tmp_path)
    with pytest.raises(StageError, match="There are no checkpoints: run stage 02_train first"):
        measured(settings, model, {}, splits)
    other = tmp_path / "epoch_0001.safetensors"
    save_tensors(other, {"weight": torch.zeros(2)})
    with pytest.raises(StageError, match=r"(?s)holds another network .*: run stage 02_train again"):
        measured(settings, model, {1: other}, splits)


@pytest.mark.timing
def test_measuring_costs_little_beside_the_forward_passes(tmp_path, record_property, capsys):
    """The best of several on both sides, since other work on the machine only ever adds to the time."""
    settings = Study.from_file(ROOT / "params/mlab_digits.yaml").resolve("learned")
    splits, model, checkpoints = prepared(settings, tmp_path)
    model = place(model, CPU)
    batches = passes(model, splits, batch_size=settings.validation.batch_size)
    options = settings.validation.model_dump() | {"dataset": settings.dataset, "device": CPU}
    forward = measuring = ratio = math.inf
    for _ in range(8):
        start = time.perf_counter()
        for part in batches.values():
            extract(model, part.ordered())
        forward = min(forward, time.perf_counter() - start)
        start = time.perf_counter()
        measure_checkpoints(model, checkpoints, splits, **options)
        measuring = min(measuring, time.perf_counter() - start)
        ratio = measuring / forward
        if ratio <= LIMIT:
            break
    record_property("forward_passes", ratio)
    with capsys.disabled():
        print(f"\n  measuring a checkpoint: {ratio:.2f} forward passes of {forward:.2f} s")
    assert ratio <= LIMIT
