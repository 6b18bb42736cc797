"""Losses: golden values, torch's own losses, gradients, and use in a training step."""

import importlib.util
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nclib import losses

GOLDEN = Path(__file__).parent / "golden"
CLASS_LOSSES = {
    "cross_entropy": losses.cross_entropy,
    "mse": losses.mse,
    "focal": losses.focal(2.0),
    "label_smoothing": losses.label_smoothing(0.1),
}


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as data:
        arrays = {key: torch.as_tensor(data[key]) for key in data.files}
    logits = arrays["features"] @ arrays["weight"].T + arrays["bias"]
    return arrays, logits, json.loads((GOLDEN / f"{name}.json").read_text())


def random_batch(n=12, k=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    labels = (torch.rand(n, k, generator=generator) < 0.4).to(torch.uint8)
    labels[torch.arange(n), torch.randint(k, (n,), generator=generator)] = 1
    return logits, labels


@pytest.mark.parametrize("name", ["mlab_balanced", "mlab_triples", "mlab_imbalanced"])
def test_released_pick_all_label_losses(name):
    arrays, logits, expected = golden(name)
    labels, reference = arrays["labels"], expected["reference"]
    multi_hot = losses.pick_all_label_cross_entropy(logits, labels)
    soft_targets = losses.pick_all_label_cross_entropy(logits, labels, label_mean=True)
    penalty = losses.feature_decay(arrays["features"], weight=1.0)
    assert float(multi_hot) == pytest.approx(reference["pal_ce_multi_hot"], rel=1e-5)
    assert float(soft_targets) == pytest.approx(reference["pal_ce_soft_targets"], rel=1e-5)
    assert float(penalty) == pytest.approx(reference["feature_penalty_batch_sum"], rel=1e-5)


@pytest.mark.parametrize("name", ["mse_balanced", "mse_wide"])
def test_released_mse_losses(name):
    arrays, logits, expected = golden(name)
    labels = arrays["labels"]
    for k, M in [(1, 1), (5, 1), (15, 1), (1, 3), (5, 10)]:
        loss = losses.rescaled_mse(logits, labels, k=k, M=M)
        assert float(loss) == pytest.approx(expected[f"rescaled_mse_k{k}_M{M}"], rel=1e-4)
    pal_mse = losses.pick_all_label(losses.mse, label_mean=False)
    assert float(pal_mse(logits, labels)) == pytest.approx(expected["mse_one_hot"], rel=1e-5)
    assert float(losses.pick_all_label_cross_entropy(logits, labels)) == pytest.approx(expected["ce"], rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), label_mean=st.booleans(), name=st.sampled_from(sorted(CLASS_LOSSES)))
def test_the_reduction_picks_every_label(seed, label_mean, name):
    logits, labels = random_batch(seed=seed)
    values, total = CLASS_LOSSES[name](logits), 0.0
    for i in range(len(labels)):
        picked = [float(values[i, j]) for j in range(labels.shape[1]) if labels[i, j]]
        total += sum(picked) / (len(picked) if label_mean else 1)
    loss = losses.pick_all_label(CLASS_LOSSES[name], label_mean=label_mean)(logits, labels)
    assert float(loss) == pytest.approx(total / len(labels), rel=1e-12)


@pytest.mark.parametrize("label_mean", [False, True])
def test_one_label_gives_torchs_own_losses(label_mean):
    logits, _ = random_batch()
    ids = torch.arange(12) % 5
    one_hot = F.one_hot(ids, 5)
    log_p = torch.log_softmax(logits, dim=1)[torch.arange(12), ids]
    expected = {
        "cross_entropy": F.cross_entropy(logits, ids),
        "mse": F.mse_loss(logits, one_hot.double()),
        "focal": (-((1 - log_p.exp()) ** 2) * log_p).mean(),
        "label_smoothing": F.cross_entropy(logits, ids, label_smoothing=0.1),
    }
    for name, value in expected.items():
        pal = losses.pick_all_label(CLASS_LOSSES[name], label_mean=label_mean)
        for labels in (ids, ids.to(torch.uint8), one_hot, one_hot.bool(), one_hot.float()):
            torch.testing.assert_close(pal(logits, labels), value, msg=name)


def test_any_loss_of_class_ids_can_be_reduced():
    logits, labels = random_batch()
    ours = losses.pick_all_label(losses.cross_entropy, label_mean=True)(logits, labels)
    adapted = losses.of_each_class(partial(F.cross_entropy, reduction="none"))
    torch.testing.assert_close(losses.pick_all_label(adapted, label_mean=True)(logits, labels), ours)


@pytest.mark.parametrize("label_mean", [False, True])
@pytest.mark.parametrize("name", sorted(CLASS_LOSSES))
def test_gradients_of_pick_all_label(name, label_mean):
    logits, labels = random_batch(n=4)
    pal = losses.pick_all_label(CLASS_LOSSES[name], label_mean=label_mean)
    assert torch.autograd.gradcheck(lambda z: pal(z, labels), logits.requires_grad_())


def test_gradients_of_the_other_losses():
    logits, labels = random_batch(n=4)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: losses.rescaled_mse(z, labels, k=5.0, M=3.0), logits)
    assert torch.autograd.gradcheck(lambda z: losses.binary_cross_entropy(z, labels), logits)
    assert torch.autograd.gradcheck(lambda h: losses.feature_decay(h, weight=0.1, mean=True), logits)


def test_the_gradient_stays_finite_for_certain_samples():
    logits = torch.tensor([[60.0, 0.0, -60.0]], requires_grad=True)
    for name, loss in CLASS_LOSSES.items():
        (gradient,) = torch.autograd.grad(
            losses.pick_all_label(loss, label_mean=False)(logits, torch.tensor([0])), logits
        )
        assert gradient.isfinite().all(), name


@pytest.mark.parametrize("gamma", [0.01, 0.5, 1.0])
def test_focal_of_a_certain_sample_has_hardly_a_gradient(gamma):
    logits = torch.tensor([[30.0, 0.0, 0.0]], requires_grad=True)
    loss = losses.pick_all_label(losses.focal(gamma), label_mean=True)(logits, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss == 0 and gradient.abs().max() < 1e-9


def test_focal_takes_a_masked_logit():
    logits = torch.tensor([[1.0, -torch.inf, 0.0]], requires_grad=True)
    loss = losses.pick_all_label(losses.focal(2.0), label_mean=True)(logits, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(loss, logits)
    two = torch.tensor([[1.0, 0.0]], requires_grad=True)
    (expected,) = torch.autograd.grad(
        losses.pick_all_label(losses.focal(2.0), label_mean=True)(two, torch.tensor([0])), two
    )
    torch.testing.assert_close(gradient[:, [0, 2]], expected)
    assert gradient[0, 1] == 0
    assert losses.focal(2.0)(torch.tensor([[0.0, -torch.inf]]))[0, 1] == torch.inf


def test_feature_decay_sums_over_the_batch_unless_told():
    features = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    assert float(losses.feature_decay(features, weight=0.5)) == 7
    assert float(losses.feature_decay(features, weight=0.5, mean=True)) == 3.5


def test_rescaled_mse_takes_ids_and_multi_hot_targets():
    logits, labels = random_batch()
    ids = torch.arange(12) % 5
    torch.testing.assert_close(
        losses.rescaled_mse(logits, ids, k=5, M=2), losses.rescaled_mse(logits, F.one_hot(ids, 5), k=5, M=2)
    )
    y = labels.double()
    expected = ((1 + 4 * y) * (logits - 2 * y) ** 2).mean()
    torch.testing.assert_close(losses.rescaled_mse(logits, labels, k=5, M=2), expected)


def test_binary_cross_entropy_is_torchs_own_for_ids_and_multi_hot_targets():
    logits, labels = random_batch()
    logits *= 10  # beyond 20, where torch's softplus ends
    ids = torch.arange(12) % 5
    for targets, multi_hot in [(labels, labels), (ids, F.one_hot(ids, 5))]:
        expected = F.binary_cross_entropy_with_logits(logits, multi_hot.double())
        torch.testing.assert_close(losses.binary_cross_entropy(logits, targets), expected, rtol=1e-14, atol=0)
    masked = torch.tensor([[torch.inf, -torch.inf, 0.0]], requires_grad=True)
    losses.binary_cross_entropy(masked, torch.tensor([0])).backward()
    torch.testing.assert_close(masked.grad, torch.tensor([[0.0, 0.0, 1 / 6]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_logits_are_computed_in_float32(dtype):
    logits, labels = random_batch()
    narrow = (100 * logits).to(dtype)  # squares overflow float16
    for loss in CLASS_LOSSES.values():
        pal = losses.pick_all_label(loss, label_mean=False)
        assert pal(narrow, labels).dtype == torch.float32
        torch.testing.assert_close(pal(narrow, labels), pal(narrow.float(), labels))
    assert losses.rescaled_mse(narrow, labels).isfinite()
    assert losses.binary_cross_entropy(narrow, labels) == losses.binary_cross_entropy(narrow.float(), labels)
    assert losses.feature_decay(narrow, weight=1.0).isfinite()


def test_a_masked_logit_and_a_sample_without_labels():
    logits = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]])
    labels = torch.tensor([[1, 0], [0, 0]])
    for label_mean in (False, True):
        assert float(losses.pick_all_label_cross_entropy(logits, labels, label_mean=label_mean)) == 0


def test_compiles_without_graph_breaks_under_autocast(monkeypatch):
    logits, labels = random_batch()
    logits = logits.float()
    # a copy without the shape checks of the test run, which cannot be traced
    spec = importlib.util.spec_from_file_location("unchecked_losses", losses.__file__)
    unchecked = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, unchecked)  # torch 2.11 imports it by its name
    spec.loader.exec_module(unchecked)

    def step(z, y):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return (
                unchecked.pick_all_label_cross_entropy(z, y, label_mean=True)
                + unchecked.pick_all_label(unchecked.focal(2.0), label_mean=False)(z, y)
                + unchecked.rescaled_mse(z, y, k=5.0)
                + unchecked.binary_cross_entropy(z, y)
                + unchecked.feature_decay(z, weight=0.1)
            )

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits, labels), step(logits, labels))


def test_losses_of_torch_say_how_they_are_taken():
    with pytest.raises(ValueError, match=r"wrap it as of_each_class\(CrossEntropyLoss\(reduction='none'\)\)"):
        losses.pick_all_label(torch.nn.CrossEntropyLoss(), label_mean=True)
    with pytest.raises(ValueError, match=r"shape \(3,\), but got \(\): give it reduction='none'"):
        losses.of_each_class(F.cross_entropy)(torch.zeros(3, 4))
    logits, labels = random_batch()
    taken = losses.pick_all_label(losses.of_each_class(torch.nn.CrossEntropyLoss(reduction="none")), label_mean=True)
    expected = losses.pick_all_label(losses.cross_entropy, label_mean=True)(logits, labels)
    torch.testing.assert_close(taken(logits, labels), expected)


def test_invalid_settings():
    with pytest.raises(ValueError, match="Expected gamma >= 0, but got -1"):
        losses.focal(-1.0)
    with pytest.raises(ValueError, match=r"Expected smoothing in \[0, 1\], but got 1.5"):
        losses.label_smoothing(1.5)
    with pytest.raises(ValueError, match=r"but got \(3, 4\) and \(2, 4\)"):
        losses._check_shapes(torch.zeros(3, 4), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"but got \(3, 4\) and \(4,\)"):
        losses._check_shapes(torch.zeros(3, 4), torch.zeros(4))
