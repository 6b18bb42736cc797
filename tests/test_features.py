"""Feature extraction from any model."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from nclib import metrics
from nclib.features import extract, passes

IMAGES = torch.rand(11, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class TwoOutputs(nn.Module):
    """Returns (logits, features); its features tell training from evaluation mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        h = self.dropout(self.norm(x)).mean(dim=(2, 3))
        return self.fc(h), h


class LogitsOnly(nn.Sequential):
    def __init__(self):
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))


@pytest.mark.parametrize("batch_size", [1, 4, 11, 512])
def test_features_and_logits_in_order(batch_size):
    model = TwoOutputs()
    features, logits = extract(model, IMAGES, batch_size=batch_size)
    torch.testing.assert_close(features, model.eval()(IMAGES)[1].detach())
    torch.testing.assert_close(logits, model.fc(features).detach())
    features += 1  # an ordinary tensor, no inference tensor
    assert not logits.requires_grad


def test_modes_come_back_submodule_by_submodule():
    model = TwoOutputs().train()
    model.norm.eval()
    mean = model.norm.running_mean.clone()
    extract(model, IMAGES)
    assert (model.training, model.norm.training, model.dropout.training) == (True, False, True)
    assert torch.equal(model.norm.running_mean, mean)
    with pytest.raises(RuntimeError):
        extract(model, IMAGES[:, :2])
    assert (model.training, model.norm.training) == (True, False)


def test_a_loader_of_tuples_or_of_tensors():
    model = TwoOutputs()
    expected = extract(model, IMAGES)
    labeled = DataLoader(TensorDataset(IMAGES, torch.arange(11)), batch_size=4)
    for loader in (labeled, list(IMAGES.split(3)), iter(IMAGES.split(5))):
        for result, value in zip(extract(model, loader, batch_size=1), expected, strict=True):
            torch.testing.assert_close(result, value)


def test_labels_belong_to_the_features_whatever_the_loader_does():
    model, ids = TwoOutputs(), torch.arange(11)
    data = TensorDataset(IMAGES, ids)
    weights = torch.ones(11)
    loaders = [
        DataLoader(data, batch_size=4, shuffle=True),
        DataLoader(data, batch_size=4, sampler=SubsetRandomSampler(range(7))),
        DataLoader(data, batch_size=4, sampler=WeightedRandomSampler(weights, 20)),
        DataLoader(data, batch_sampler=BatchSampler(SubsetRandomSampler(range(7)), 3, drop_last=False)),
        (IMAGES, ids),
        data,
        [{"image": image, "label": label} for image, label in DataLoader(data, batch_size=2, shuffle=True)],
    ]
    expected = extract(model, IMAGES).features
    for loader in loaders:
        found = extract(model, loader, batch_size=3)
        torch.testing.assert_close(found.features, expected[found.labels])
    assert extract(model, IMAGES).labels is None


def test_images_whose_order_nobody_knows_are_refused():
    data = TensorDataset(IMAGES)
    for sampler in (RandomSampler(data), SubsetRandomSampler(range(7)), WeightedRandomSampler(torch.ones(11), 20)):
        with pytest.raises(ValueError, match=r"keeps its order \(shuffle=False\), or one whose batches have labels"):
            extract(TwoOutputs(), DataLoader(data, batch_size=4, sampler=sampler))
    assert len(extract(TwoOutputs(), DataLoader(data, batch_size=4)).features) == 11
    with pytest.raises(ValueError, match="but got a dict with 'path'"):
        extract(TwoOutputs(), [{"path": "a.png"}])
    with pytest.raises(ValueError, match="as many labels as images, but got 3 and 11"):
        extract(TwoOutputs(), (IMAGES, torch.arange(3)))


def test_layers_give_one_vector_per_sample():
    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.maps, self.relu, self.fc = nn.Conv2d(3, 5, 1), nn.ReLU(inplace=True), nn.Linear(5, 4)
            self.tokens, self.flat = nn.Linear(5, 6), nn.Linear(6, 5)

        def forward(self, x):
            maps = self.maps(x)
            sequence = self.tokens(maps.flatten(2).mT)
            return self.fc(self.relu(self.flat(sequence.mean(dim=1))))

    model = Layers()
    found = extract(model, IMAGES, head="fc", layers=["maps", "tokens", "flat"], batch_size=4)
    with torch.no_grad():
        maps = model.maps(IMAGES)
        sequence = model.tokens(maps.flatten(2).mT)
    expected = {"maps": maps.mean(dim=(2, 3)), "tokens": sequence.mean(dim=1)}
    expected["flat"] = model.flat(expected["tokens"]).detach()  # not what the ReLU has left in its place
    torch.testing.assert_close(found.layers, expected)
    with pytest.raises(ValueError, match=r"name of a submodule of Layers .* but got 'no'"):
        extract(model, IMAGES, head="fc", layers=["no"])


def test_a_hook_takes_the_input_of_the_head_and_goes_away():
    model = LogitsOnly()
    features, logits = extract(model, IMAGES, head="2", batch_size=4)
    torch.testing.assert_close(features, IMAGES.mean(dim=(2, 3)))
    torch.testing.assert_close(logits, model(IMAGES).detach())
    assert not model[2]._forward_pre_hooks
    with pytest.raises(RuntimeError):
        extract(model, IMAGES[:, :2], head="2")
    assert not model[2]._forward_pre_hooks


@dataclass
class Output:
    logits: torch.Tensor


@pytest.mark.parametrize("wrap", [lambda z: {"scores": z}, Output, lambda z: (None, z), lambda z: z.log_softmax(dim=1)])
def test_a_named_head_is_enough_whatever_the_model_returns(wrap):
    class Wrapped(LogitsOnly):
        def forward(self, x):
            return wrap(self[2](input=self[1](self[0](x))))  # by keyword

    model = Wrapped()
    features, logits = extract(model, IMAGES, head="2", batch_size=4)
    torch.testing.assert_close(features, IMAGES.mean(dim=(2, 3)))
    torch.testing.assert_close(logits, model[2](features).detach())
    with pytest.raises(ValueError, match=r"returns \(logits, features\), or head="):
        extract(model, IMAGES)


def test_mappings_reach_the_model_by_the_names_it_gives_them():
    class Named(LogitsOnly):
        def forward(self, scale, image):
            return super().forward(image * scale.view(-1, 1, 1, 1))

    model, scale = Named(), torch.rand(11)
    batch = {"index": torch.arange(11), "image": IMAGES, "scale": scale, "labels": torch.arange(11)}
    features, _ = extract(model, [batch], head="2")
    torch.testing.assert_close(features, IMAGES.mean(dim=(2, 3)) * scale.unsqueeze(1))


class NormalizedFeatures(TwoOutputs):
    """As in the released code of paper 2."""

    def forward(self, x):
        logits, h = super().forward(x)
        return logits, nn.functional.normalize(h)


class Cosines(nn.Linear):
    def forward(self, x):
        return 10 * nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.weight))


def test_features_whose_logits_are_others_are_told():
    with pytest.warns(UserWarning, match=r"last layer 'fc' \(Linear\) miss the logits .* head=\.\.\. takes those"):
        extract(NormalizedFeatures(), IMAGES)
    extract(NormalizedFeatures(), IMAGES, head="fc")
    model = LogitsOnly()
    model[2] = Cosines(3, 4, bias=False)
    with pytest.warns(UserWarning, match=r"'2' \(Cosines\) miss the logits .*nclib.metrics.measure takes"):
        extract(model, IMAGES, head="2")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert extract(LogitsOnly(), IMAGES, head="2").logits.dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"Expected logits \(b, k\), but got \(2, 5, 4\)"):
        extract(nn.Sequential(nn.Linear(3, 4)), torch.rand(2, 5, 3), head="0")


def test_compiled_models_are_seen_by_hooks():
    model = LogitsOnly()
    compiled = torch.compile(model, backend="eager")
    compiled(IMAGES)
    torch.testing.assert_close(extract(compiled, IMAGES, head="2").features, IMAGES.mean(dim=(2, 3)))


def test_random_generators_are_as_before():
    class Noisy(Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            noise = torch.rand(3, 8, 8) + np.random.rand()  # noqa: NPY002
            return IMAGES[index] + noise, index

    model, own = TwoOutputs(), torch.Generator()
    loader = DataLoader(Noisy(), batch_size=4, shuffle=True, generator=own)
    before = own.get_state(), torch.get_rng_state(), torch.from_numpy(np.random.get_state()[1])  # noqa: NPY002
    first, second = extract(model, loader), extract(model, loader)
    after = own.get_state(), torch.get_rng_state(), torch.from_numpy(np.random.get_state()[1])  # noqa: NPY002
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert torch.equal(first.features, second.features)  # the same order and the same noise
    assert torch.equal(first.labels, second.labels)
    state = random.getstate()  # alone, since the checks of annotations draw from it, too
    with passes._random_state(None, torch.device("cpu")):
        random.random()
    assert random.getstate() == state


def test_transform_runs_on_every_batch():
    model = TwoOutputs()
    bytes_ = (IMAGES * 255).to(torch.uint8)
    features, _ = extract(model, bytes_, transform=lambda x: x.float() / 255, batch_size=4)
    torch.testing.assert_close(features, extract(model, bytes_.float() / 255)[0])


def test_a_plain_torchvision_model_is_measured():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=3)
    features, logits = extract(model, IMAGES, head="fc", device="cpu")
    assert features.shape == (11, 512)
    values = metrics.measure(features, torch.arange(11) % 3, model.fc.weight, model.fc.bias)
    same = metrics.measure(features, torch.arange(11) % 3, model.fc.weight, model.fc.bias, logits=logits)
    assert values["nc1"] > 0
    assert values == pytest.approx(same, rel=1e-3, abs=1e-5)


def test_models_and_heads_that_do_not_fit():
    with pytest.raises(ValueError, match=r"its linear layers: \['2'\].*but got 'fc'"):
        extract(LogitsOnly(), IMAGES, head="fc")
    with pytest.raises(ValueError, match=r"returns \(logits, features\), or head=.* but it returned a Tensor"):
        extract(LogitsOnly(), IMAGES)
    with pytest.raises(ValueError, match="Expected the model to call 'fc' once per batch, but it did 0 times"):
        model = LogitsOnly()
        model.fc = nn.Identity()
        model.forward = lambda x: model[2](model[1](model[0](x)))
        extract(model, IMAGES, head="fc")
    with pytest.raises(ValueError, match="Expected at least one image"):
        extract(TwoOutputs(), IMAGES[:0])
    with pytest.raises(ValueError, match="Expected at least one image"):
        extract(TwoOutputs(), [])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_results_stay_on_the_device_of_the_model():
    features, logits = extract(TwoOutputs().cuda(), IMAGES)
    assert features.is_cuda
    assert logits.is_cuda
