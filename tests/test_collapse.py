"""`measure_collapse`: the numbers of `nclib.metrics`, from any model and any data, with the fewest passes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from nclib import metrics
from nclib.collapse import Collapse, measure_collapse
from nclib.features import extract
from nclib.heads import ETFHead

LABELS = torch.arange(60) % 3
PAIRS = F.one_hot(LABELS, 3).index_put((torch.arange(9), (LABELS[:9] + 1) % 3), torch.tensor(1))
IMAGES = torch.rand(60, 2, 4, 4, generator=torch.Generator().manual_seed(0)) + LABELS.view(-1, 1, 1, 1) / 5
OOD = torch.rand(7, 2, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    maps = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(maps, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 3))


class Batches:
    """Images and labels in batches, and how often they were gone through."""

    def __init__(self, images, labels):
        self.batches, self.passes = list(zip(images.split(16), labels.split(16), strict=True)), 0

    def __iter__(self):
        self.passes += 1
        return iter(self.batches)


@pytest.mark.parametrize("labels", [LABELS, PAIRS.bool()], ids=["ids", "multi-hot"])
@pytest.mark.parametrize("max_bytes", [2**30, 500], ids=["kept", "streamed"])
def test_the_numbers_are_those_of_the_metrics_in_the_fewest_passes(model, labels, max_bytes):
    train, test, ood = Batches(IMAGES, labels), Batches(IMAGES[:25], labels[:25]), Batches(OOD, torch.zeros(7))
    found = measure_collapse(model, train, test=test, ood=ood, layers=["0"], max_bytes=max_bytes)
    streamed = max_bytes < 2**30
    assert [train.passes, test.passes, ood.passes] == [1 + streamed, 1, 1]

    (h, _), (h_test, _), (h_ood, _) = (extract(model, x, head="4") for x in (IMAGES, IMAGES[:25], OOD))
    last_layer = model[4].weight, model[4].bias
    expected = metrics.measure(h, labels, *last_layer, nuclear_norm=False) | {"nc5": metrics.nc5(h, labels, h_ood)}
    of_test = metrics.measure(h_test, labels[:25], *last_layer, nuclear_norm=False)
    means = metrics.class_means(h, labels)
    of_test["nc4"] = metrics.nc4(h_test, labels[:25], *last_layer, class_means=means)
    of_test["ncc_accuracy"] = metrics.ncc_accuracy(h_test, labels[:25], class_means=means)
    expected |= {f"test_{name}": value for name, value in of_test.items()}
    if streamed:
        del expected["cosine_margin_mean"], expected["test_cosine_margin_mean"]
    assert found.scalars == pytest.approx({name: float(x) for name, x in expected.items()}, rel=1e-4, abs=1e-6)

    maps = extract(model, IMAGES, head="4", layers=["0"]).layers["0"]
    of_maps = [metrics.nc1, metrics.separation, metrics.ncc_accuracy, metrics.class_mean_rank]
    expected = {function.__name__: float(function(maps, labels)) for function in of_maps}
    assert found.layers["0"] == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(found.arrays["class_means"], means.double())


def test_loaders_that_shuffle_or_sample(model):
    data = TensorDataset(IMAGES, LABELS)
    expected = measure_collapse(model, data).scalars
    for max_bytes in (2**30, 500):
        shuffled = DataLoader(data, batch_size=16, shuffle=True)
        found = measure_collapse(model, shuffled, max_bytes=max_bytes).scalars
        assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-4, abs=1e-6)
    drawn = DataLoader(data, batch_size=16, sampler=WeightedRandomSampler(torch.ones(60), 40))
    torch.manual_seed(0)
    kept, streamed = (measure_collapse(model, drawn, max_bytes=size).scalars for size in (2**30, 500))
    assert streamed == pytest.approx({name: kept[name] for name in streamed}, rel=1e-4, abs=1e-6)
    with pytest.raises(ValueError, match="Expected train data, but got none: an iterator can be gone through only"):
        measure_collapse(model, iter(Batches(IMAGES, LABELS)), max_bytes=500)


def test_classes_without_samples(model):
    labels = torch.tensor([0, 2])[torch.arange(60) % 2]
    with pytest.raises(ValueError, match=r"classes \[1\] of 3 have none"):
        measure_collapse(model, (IMAGES, labels))
    expected = extract(model, IMAGES, head="4")
    for max_bytes in (2**30, 500):
        found = measure_collapse(
            model, (IMAGES, labels), test=(IMAGES, LABELS), layers=["0"], classes="present", max_bytes=max_bytes
        )
        assert found.scalars["num_classes_present"] == 2
        assert found.arrays["classes"].tolist() == [0, 2]
        nearest = torch.tensor([0, 2])[
            metrics.nearest_class_mean(expected.features, found.arrays["class_means"].float())
        ]
        assert found.scalars["test_ncc_accuracy"] == pytest.approx(float((nearest == LABELS).float().mean()))
        assert found.layers["0"]["class_mean_rank"] == 1


def test_exact_collapse():
    head = ETFHead(4, 5)
    found = measure_collapse(nn.Sequential(nn.Identity(), head), (head.weight.repeat(3, 1), torch.arange(5).repeat(3)))
    zeros = ("nc1", "nc2_w_centered", "nc2_h_centered", "nc3_centered", "nc4", "gnc2_h", "unc3", "nc3_distance")
    assert [found.scalars[name] for name in zeros] == pytest.approx([0] * len(zeros), abs=1e-6)
    assert found.scalars["ncc_accuracy"] == found.scalars["top1"] == 1
    assert found.scalars["class_mean_rank"] == 4


class Auxiliary(nn.Module):
    """Its last linear layer is not the one it predicts from."""

    def __init__(self, fc):
        super().__init__()
        self.fc, self.auxiliary = fc, nn.Linear(32, 3)

    def forward(self, x):
        return self.fc(x.flatten(1)), self.auxiliary(x.flatten(1))


class Cosines(nn.Linear):
    def forward(self, x):
        return F.linear(F.normalize(x), F.normalize(self.weight))


def test_last_layers_are_found_or_refused():
    data, fc = (IMAGES, LABELS), nn.Linear(32, 3)
    expected = measure_collapse(nn.Sequential(nn.Flatten(), fc), data).scalars
    assert measure_collapse(nn.Sequential(nn.Flatten(), fc, nn.LogSoftmax(dim=1)), data).scalars == expected
    with pytest.raises(ValueError, match=r"predict from its last nn.Linear, 'auxiliary', .* head=\.\.\. names"):
        measure_collapse(Auxiliary(fc), data)
    assert measure_collapse(Auxiliary(fc), data, head="fc").scalars == expected
    tied = nn.Sequential(nn.Flatten(), nn.Embedding(3, 32), nn.Linear(32, 3, bias=False))
    tied[2].weight, tied[1] = tied[1].weight, nn.Identity()
    assert measure_collapse(tied, data).scalars["nc1"] == pytest.approx(expected["nc1"])
    with pytest.raises(ValueError, match=r"'1' \(Cosines\) miss the logits .* nclib.metrics.measure takes"):
        measure_collapse(nn.Sequential(nn.Flatten(), Cosines(32, 3)), data)
    with pytest.raises(ValueError, match=r"it has no nn\.Linear"):
        measure_collapse(nn.Flatten(), data)
    with pytest.raises(ValueError, match=r"'0' to be a linear layer with a weight \(k, d\), but it is Flatten"):
        measure_collapse(nn.Sequential(nn.Flatten(), fc), data, head="0")
    with pytest.raises(ValueError, match="Expected train data with labels, but a batch had none"):
        measure_collapse(nn.Sequential(nn.Flatten(), fc), IMAGES)


def test_autocast_is_kept_and_does_not_reach_a_training_around(model):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = measure_collapse(model, (IMAGES, LABELS)).scalars
        model(IMAGES).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.zero_grad()
    full = measure_collapse(model, (IMAGES, LABELS)).scalars
    assert narrow["nc1"] == pytest.approx(full["nc1"], rel=0.1)
    assert narrow["nc1"] != full["nc1"]
    assert narrow["nc2_w"] == full["nc2_w"]


def test_a_subset(model):
    found = measure_collapse(model, DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8), max_samples=20)
    assert found.scalars == measure_collapse(model, (IMAGES[:24], LABELS[:24]), batch_size=8).scalars


def test_table_files_and_plot(model, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    found = measure_collapse(model, (IMAGES, LABELS), test=(IMAGES, LABELS), ood=OOD, layers=["0"])
    table = found.table()
    assert list(table) == ["train", "test", "0"]
    assert table.loc["nc1"].tolist() == [found.scalars["nc1"], found.scalars["test_nc1"], found.layers["0"]["nc1"]]
    assert table.loc["nc5"].isna().tolist() == [False, True, True]
    found.save(tmp_path / "found.csv")
    assert (tmp_path / "found.csv").read_text().startswith("metric,train,test,0\nnc1,")
    found.save(tmp_path / "found.safetensors")
    again = Collapse.load(tmp_path / "found.safetensors")
    assert (again.scalars, again.layers) == (found.scalars, found.layers)
    torch.testing.assert_close(again.arrays, found.arrays, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"ends in \.csv or \.safetensors, but got found\.txt"):
        found.save("found.txt")
    axes = found.plot()
    assert [ax.get_title() for ax in axes] == [
        "cosines of the centered class means",
        "cosine margins",
        "layer by layer",
    ]
    with pytest.raises(ValueError, match="Nothing to draw: more than 200 classes"):
        Collapse({}, {}, {"class_means": torch.zeros(201, 2)}).plot()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(model):
    expected = measure_collapse(model, (IMAGES, LABELS), layers=["0"])
    state = torch.cuda.get_rng_state()
    for max_bytes in (2**30, 500):
        found = measure_collapse(model.cuda(), (IMAGES, LABELS), layers=["0"], max_bytes=max_bytes)
        same = {name: expected.scalars[name] for name in found.scalars}
        assert found.scalars == pytest.approx(same, rel=1e-3, abs=1e-5)
        assert found.layers["0"] == pytest.approx(expected.layers["0"], rel=1e-3)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    model.cpu()
