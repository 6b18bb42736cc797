"""Feature extraction from any model."""

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nclib import metrics
from nclib.features import extract

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


def test_loaders_that_shuffle_and_batches_without_images_are_refused():
    data = TensorDataset(IMAGES, torch.arange(11))
    with pytest.raises(ValueError, match="keeps its order"):
        extract(TwoOutputs(), DataLoader(data, batch_size=4, shuffle=True))
    with pytest.raises(ValueError, match=r"but got a dict with 'image': pass the images alone, as \(batch"):
        extract(TwoOutputs(), [{"image": IMAGES}])


def test_a_hook_takes_the_input_of_the_head_and_goes_away():
    model = LogitsOnly()
    features, logits = extract(model, IMAGES, head="2", batch_size=4)
    torch.testing.assert_close(features, IMAGES.mean(dim=(2, 3)))
    torch.testing.assert_close(logits, model(IMAGES).detach())
    assert not model[2]._forward_pre_hooks
    with pytest.raises(RuntimeError):
        extract(model, IMAGES[:, :2], head="2")
    assert not model[2]._forward_pre_hooks


class Mappings(LogitsOnly):
    """Calls its head by keyword and returns a mapping."""

    def __init__(self, key):
        super().__init__()
        self.key = key

    def forward(self, x):
        return {self.key: self[2](input=self[1](self[0](x)))}


def test_models_that_return_mappings_and_call_their_head_by_keyword():
    model = Mappings("logits")
    features, logits = extract(model, IMAGES, head="2", batch_size=4)
    torch.testing.assert_close(features, IMAGES.mean(dim=(2, 3)))
    torch.testing.assert_close(logits, model(IMAGES)["logits"].detach())
    with pytest.raises(ValueError, match="under 'logits' in a mapping, but it returned a dict with 'scores'"):
        extract(Mappings("scores"), IMAGES, head="2")
    with pytest.raises(ValueError, match=r"returns \(logits, features\), .* but it returned a dict with 'logits'"):
        extract(model, IMAGES)


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
    with pytest.raises(ValueError, match="Expected the model to call head 'fc' once per batch, but it did 0 times"):
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
