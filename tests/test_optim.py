import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from packaging.version import Version
from torch import nn

from nclib.models import build_model
from nclib.optim import OPTIMIZERS, SdLBFGS, build_optimizer, build_schedule, decay_groups, step
from nclib.optim.sdlbfgs import damped_pair, inverse_hessian_product
from nclib.training.device import place

RATES = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3, "lbfgs": 0.1, "sdlbfgs": 0.1}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(*, head="learned", seed=0):
    # The smallest with residual blocks that is trained in channels_last, and batch norm
    options = {"in_channels": 1, "num_classes": 3, "width": 16, "depth": 8}
    model = build_model("wide_resnet", head=head, generator=seeded(seed), **options)
    return place(model, torch.device("cpu"))


def batch(seed=0):
    images = torch.randn(12, 1, 8, 8, generator=seeded(seed))
    return images, F.one_hot(torch.arange(12) % 3).float()


def closure_of(optimizer, model, images, targets):
    def closure():
        optimizer.zero_grad(set_to_none=True)
        loss = (model(images)[0] - targets).square().mean()
        loss.backward()
        return loss

    return closure


def in_short(optimizer):
    """The same with fewer L-BFGS iterations per step, to save time."""
    for group in optimizer.param_groups:
        group |= {"max_iter": 4, "max_eval": 5} if "max_iter" in group else {}
    return optimizer


class Point(nn.Module):
    """A free vector, for functions with a known minimum."""

    def __init__(self, start):
        super().__init__()
        self.x = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def minimize(self, function, optimizer, *, steps, **options):
        """`optimizer`: a name, or a class for options that names do not take."""
        if isinstance(optimizer, str):
            optimizer = build_optimizer(optimizer, self, **options)
        else:
            optimizer = optimizer([{"params": [self.x]}], **options)

        def closure():
            optimizer.zero_grad()
            loss = function(self.x)
            loss.backward()
            return loss

        return [float(step(optimizer, closure, model=self)) for _ in range(steps)]


# Schedules


def torchs_schedule(make, epochs):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = make(optimizer)
    rates = []
    for _ in range(epochs):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("name", "options", "make"),
    [
        (
            "cosine",
            {},
            lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=90, eta_min=0.1 / 1000),
        ),
        ("step", {}, lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=40, gamma=0.1)),
        (
            "multistep",
            {"milestones": (20, 60), "gamma": 0.2},
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, milestones=[20, 60], gamma=0.2),
        ),
        ("constant", {}, lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1)),
    ],
)
def test_schedules_are_the_released_ones(name, options, make):
    schedule = build_schedule(name, lr=0.1, epochs=90, **options)
    assert [schedule(epoch) for epoch in range(90)] == pytest.approx(torchs_schedule(make, 90), rel=1e-9)
    assert schedule(89) == schedule(89)  # of the epoch alone: no state moves


def test_cosine_ends_where_asked():
    schedule = build_schedule("cosine", lr=0.1, epochs=10, min_lr=0.02)
    assert (schedule(0), schedule(10)) == pytest.approx((0.1, 0.02))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("linear", {}, "Expected schedule to be one of cosine, .*, but got 'linear'"),
        ("constant", {"lr": 0.0}, r"Expected lr and gamma to be positive, but got 0\.0"),
        ("constant", {"epochs": 0}, "Expected epochs and step_size to be at least 1, but got 0"),
        ("multistep", {}, r"milestones of schedule 'multistep' to be increasing epochs, but got \[\]"),
        ("multistep", {"milestones": [9, 3]}, r"but got \[9, 3\]"),
        ("cosine", {"min_lr": 0.2}, r"Expected min_lr of schedule 'cosine' between 0 and lr = 0\.1, but got 0\.2"),
    ],
)
def test_impossible_schedules_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_schedule(name, **({"lr": 0.1, "epochs": 10} | options))


# What decays


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_on_features_spares_the_backbone(name):
    model = network()
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    optimizer = build_optimizer(name, decay_groups(model, mode="features"), lr=0.01, weight_decay=0.5)

    def closure():  # a loss of zero gradient: only the decay moves anything
        optimizer.zero_grad()
        loss = 0.0 * sum(p.sum() for p in model.parameters())
        loss.backward()
        return loss

    step(optimizer, closure, model=model)
    for key, value in model.named_parameters():
        if key.startswith("head."):
            assert value.norm() < 0.999 * before[key].norm(), key
        else:
            assert torch.equal(value, before[key]), key


def test_decay_groups_leave_out_what_does_not_train():
    model = network(head="etf")
    model.backbone.conv1.weight.requires_grad_(False)
    (everything,) = decay_groups(model)
    assert len(everything["params"]) == len(list(model.parameters())) - 1
    backbone, head = decay_groups(model, mode="features")
    assert backbone["weight_decay"] == 0.0 and "weight_decay" not in head
    assert [p is model.head.bias for p in head["params"]] == [True]
    model.head.bias.requires_grad_(False)
    assert len(decay_groups(model, mode="features")) == 1
    with pytest.raises(ValueError, match="Expected decay mode to be one of parameters, features, but got 'all'"):
        decay_groups(model, mode="all")


# Each optimizer against its formula


def test_sgd_is_momentum_with_coupled_decay():
    point = Point([1.0, -2.0])
    x, velocity = np.array([1.0, -2.0]), 0.0
    losses = point.minimize(lambda x: x.square().sum(), "sgd", steps=4, lr=0.1, weight_decay=0.3)
    for loss in losses:
        assert loss == pytest.approx((x**2).sum())  # at the start of the step, without decay
        velocity = 0.9 * velocity + 2 * x + 0.3 * x
        x = x - 0.1 * velocity
    assert point.x.tolist() == pytest.approx(x.tolist())


def test_decay_of_adam_is_coupled_and_of_adamw_not():
    moved = {}
    for name in ("adam", "adamw"):
        point = Point([2.0])
        point.minimize(lambda x: 0.0 * x.sum(), name, steps=1, lr=0.01, weight_decay=0.5)
        moved[name] = 2.0 - point.x.item()
    assert moved["adam"] == pytest.approx(0.01, rel=1e-6)  # lr times the sign of the gradient
    assert moved["adamw"] == pytest.approx(0.01 * 0.5 * 2.0)


def test_fused_kernels_compute_the_same():
    plain = {"sgd": (torch.optim.SGD, {"momentum": 0.9}), "adam": (torch.optim.Adam, {})}
    for name, (make, more) in (plain | {"adamw": (torch.optim.AdamW, {})}).items():
        results = []
        for fused in (True, False):
            model, options = network().double(), {"lr": 0.05, "weight_decay": 1e-3}
            optimizer = (
                build_optimizer(name, model, **options)
                if fused
                else make(model.parameters(), **options, **more, fused=False)
            )
            assert optimizer.param_groups[0]["fused"] is fused
            images, targets = batch()
            for _ in range(3):
                step(optimizer, closure_of(optimizer, model, images.double(), targets.double()), model=model)
            results.append(model.state_dict())
        for key, value in results[0].items():
            torch.testing.assert_close(value, results[1][key], msg=f"{name} {key}")


def quadratic(size=20, condition=100.0):
    q, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=seeded()))
    matrix = q @ torch.diag(torch.logspace(0, math.log10(condition), size, dtype=torch.float64)) @ q.T
    vector = torch.randn(size, dtype=torch.float64, generator=seeded(1))
    return matrix, vector, lambda x: 0.5 * x @ matrix @ x - vector @ x


def test_lbfgs_minimizes_the_decayed_loss():
    matrix, vector, function = quadratic()
    point = Point([0.0] * 20)
    losses = point.minimize(function, "lbfgs", steps=8, lr=1.0, weight_decay=3.0)
    minimum = torch.linalg.solve(matrix + 3 * torch.eye(20), vector)
    torch.testing.assert_close(
        point.x.detach(), minimum, atol=1e-4, rtol=0
    )  # PyTorch's L-BFGS stops where the loss moves by 1e-9
    assert losses[0] == 0 and losses[-1] == pytest.approx(function(minimum).item(), abs=1e-4)  # without the decay


def test_lbfgs_has_the_papers_settings():
    (group,) = build_optimizer("lbfgs", network(), lr=0.1).param_groups
    assert (group["history_size"], group["line_search_fn"], group["max_iter"]) == (10, "strong_wolfe", 20)


def test_damped_pair_is_the_papers_formula():
    for seed in range(20):
        s = torch.randn(6, dtype=torch.float64, generator=seeded(seed))
        y = torch.randn(6, dtype=torch.float64, generator=seeded(100 + seed)) + 0.3 * s
        ybar, rho, gamma = damped_pair(s, y, delta=0.5)
        sn, yn = s.numpy(), y.numpy()
        expected_gamma = max(yn @ yn / (sn @ yn), 0.5)
        curvature = expected_gamma * sn @ sn
        theta = 0.75 * curvature / (curvature - sn @ yn) if sn @ yn < 0.25 * curvature else 1.0
        expected = theta * yn + (1 - theta) * expected_gamma * sn
        assert gamma.item() == pytest.approx(expected_gamma)
        np.testing.assert_allclose(ybar.numpy(), expected)
        assert rho.item() == pytest.approx(1 / (sn @ expected))
        assert sn @ expected >= 0.25 * curvature * (1 - 1e-12)


def test_damped_pair_without_a_step_has_no_part():
    zero = torch.zeros(3, dtype=torch.float64)
    ybar, rho, gamma = damped_pair(zero, zero, delta=1.0)
    assert rho == 0 and gamma == 1 and ybar.isfinite().all()


@pytest.mark.parametrize("written", [0, 1, 4])
def test_two_loop_recursion_is_the_dense_update(written):
    size = 5
    pairs = []
    for index in range(written):
        s = torch.randn(size, dtype=torch.float64, generator=seeded(index))
        y = s + 0.1 * torch.randn(size, dtype=torch.float64, generator=seeded(50 + index))
        pairs.append([s, y, 1 / s.dot(y)])
    gamma = torch.tensor(2.5, dtype=torch.float64)
    inverse = np.eye(size) / 2.5
    for s, y in ((s.numpy(), y.numpy()) for s, y, _ in pairs):
        left = np.eye(size) - np.outer(s, y) / (s @ y)
        inverse = left @ inverse @ left.T + np.outer(s, s) / (s @ y)
    gradient = torch.randn(size, dtype=torch.float64, generator=seeded(99))
    product = inverse_hessian_product(gradient, pairs, gamma)
    np.testing.assert_allclose(product.numpy(), inverse @ gradient.numpy(), rtol=1e-9)


def test_sdlbfgs_steps_are_those_of_a_loop_written_from_the_paper():
    matrix, vector, function = quadratic(size=6)
    a, b, memory, lr, delta, decay = matrix.numpy(), vector.numpy(), 3, 0.4, 2.0, 0.5
    point = Point([1.0] * 6)
    point.minimize(function, SdLBFGS, steps=9, lr=lr, history_size=memory, delta=delta, weight_decay=decay)
    x, pairs, gamma = np.ones(6), [], delta
    for _ in range(9):
        gradient = a @ x - b + decay * x
        inverse = np.eye(6) / gamma
        for s, y in pairs[-memory:]:  # from the oldest to the newest
            left = np.eye(6) - np.outer(s, y) / (s @ y)
            inverse = left @ inverse @ left.T + np.outer(s, s) / (s @ y)
        s = -lr * inverse @ gradient
        x = x + s
        y = a @ x - b + decay * x - gradient
        gamma = max(y @ y / (s @ y), delta)
        least = 0.25 * gamma * (s @ s)
        theta = 1.0 if s @ y >= least else 3 * least / (4 * least - s @ y)
        pairs.append((s, theta * y + (1 - theta) * gamma * s))
    np.testing.assert_allclose(point.x.detach().numpy(), x, rtol=1e-9)


def test_sdlbfgs_solves_a_convex_problem_that_gradient_descent_does_not():
    matrix, vector, function = quadratic()
    minimum = torch.linalg.solve(matrix, vector)
    point, descent = Point([0.0] * 20), Point([0.0] * 20)
    point.minimize(function, "sdlbfgs", steps=100, lr=1.0)
    # As many gradients, and the step of 1 / the largest curvature
    descent.minimize(function, "sgd", steps=200, lr=0.01, momentum=0.0)
    assert (point.x - minimum).norm() < 1e-6 * minimum.norm()
    assert (descent.x - minimum).norm() > 0.01 * minimum.norm()


def test_sdlbfgs_solves_a_noisy_convex_problem():
    inputs = torch.randn(400, 5, dtype=torch.float64, generator=seeded())
    labels = (inputs @ torch.tensor([2.0, -1.0, 0.5, 0.0, 1.0], dtype=torch.float64) > 0).double()
    labels[::10] = 1 - labels[::10]  # not separable: there is a minimum
    order = torch.randint(400, (300, 40), generator=seeded(1))

    def logistic(x, chosen=slice(None)):
        return F.binary_cross_entropy_with_logits(inputs[chosen] @ x, labels[chosen])

    exact = Point([0.0] * 5)
    best = exact.minimize(logistic, "lbfgs", steps=5, lr=1.0)[-1]
    point = Point([0.0] * 5)
    optimizer = SdLBFGS([{"params": [point.x]}], lr=0.1, delta=0.1)
    schedule = build_schedule("cosine", lr=0.1, epochs=len(order))
    for index, chosen in enumerate(order):
        optimizer.param_groups[0]["lr"] = schedule(index)

        def closure(chosen=chosen):
            optimizer.zero_grad()
            loss = logistic(point.x, chosen)
            loss.backward()
            return loss

        step(optimizer, closure, model=point)
    start = math.log(2)
    assert logistic(point.x).item() - best < 0.01 * (start - best)


def test_sdlbfgs_leaves_a_saddle_and_finds_a_minimum():
    # x^4/4 - x^2/2 + y^2/2: negative curvature along x until |x| = 1/sqrt(3), minima at (-1, 0) and (1, 0)
    point = Point([1e-3, 1.0])
    point.minimize(lambda x: x[0] ** 4 / 4 - x[0] ** 2 / 2 + x[1] ** 2 / 2, "sdlbfgs", steps=200, lr=0.2)
    assert point.x.tolist() == pytest.approx([1.0, 0.0], abs=1e-6)


def test_sdlbfgs_descends_the_valley_of_rosenbrock():
    point = Point([-1.2, 1.0])
    function = lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2  # noqa: E731
    point.minimize(function, SdLBFGS, steps=100, lr=1.0, delta=100.0)
    assert function(point.x) < 0.01  # from 24.2
    assert point.x.tolist() == pytest.approx([1.0, 1.0], abs=0.2)


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"lr": 0.1, "history_size": 0}, {"lr": 0.1, "delta": 0.0}])
def test_sdlbfgs_refuses_impossible_settings(options):
    with pytest.raises(ValueError, match="Expected lr >= 0, delta > 0 and history_size >= 1"):
        SdLBFGS(decay_groups(network()), **options)


def test_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match=r"Expected optimizer to be one of sgd, adam, .*, but got 'rmsprop'"):
        build_optimizer("rmsprop", network(), lr=0.1)


# The step all of them share


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_loss_falls(name):
    model = network()
    optimizer = in_short(build_optimizer(name, model, lr=RATES[name], weight_decay=5e-4))
    closure = closure_of(optimizer, model, *batch())
    losses = [step(optimizer, closure, model=model) for _ in range(10)]
    assert not losses[0].requires_grad
    assert losses[-1] < 0.75 * losses[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_batch_norm_sees_a_batch_once(name):
    model, images_and_targets = network(), batch()
    expected = network()
    expected(images_and_targets[0])
    optimizer = build_optimizer(name, model, lr=RATES[name])
    calls = []
    closure = closure_of(optimizer, model, *images_and_targets)
    loss = step(optimizer, lambda: calls.append(0) or closure(), model=model)
    assert len(calls) == {"sdlbfgs": 2}.get(name, 1) or (name == "lbfgs" and len(calls) > 5)
    assert loss == (network()(images_and_targets[0])[0] - images_and_targets[1]).square().mean()
    for (key, value), buffer in zip(expected.named_buffers(), model.buffers(), strict=True):
        assert torch.equal(buffer, value), key
    assert model.backbone.bn1.num_batches_tracked == 1


def test_batch_norm_tracks_again_after_a_failure():
    model = network()
    optimizer = build_optimizer("sdlbfgs", model, lr=0.1)
    closure, calls = closure_of(optimizer, model, *batch()), []

    def fails_later():
        if calls:
            raise RuntimeError("out of memory")
        calls.append(0)
        return closure()

    with pytest.raises(RuntimeError, match="out of memory"):
        step(optimizer, fails_later, model=model)
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "sdlbfgs"])
def test_nothing_is_read_back_from_the_device(name):
    # The meta device has no values: whatever reads one raises.
    if name.startswith("adam") and Version(torch.__version__) < Version("2.13"):
        pytest.skip("older versions of torch's Adam read their count of steps, which is on the CPU elsewhere")
    with torch.device("meta"):
        model = build_model("wide_resnet", in_channels=1, num_classes=3, width=2, depth=8)
        optimizer = build_optimizer(name, model, lr=0.1, weight_decay=5e-4)
        closure = closure_of(optimizer, model, torch.zeros(4, 1, 8, 8), torch.zeros(4, 3))
        for _ in range(2):
            step(optimizer, closure, model=model)


# Saving and going on


def through_json(value):
    """A copy of a state that has been through tensors and JSON, with an error for anything else."""
    if isinstance(value, torch.Tensor):
        # Files keep no strides, and what is read from one starts anywhere in its memory.
        return torch.empty(value.numel() + 1, dtype=value.dtype)[1:].view(value.shape).copy_(value)
    if isinstance(value, dict):
        return {key: through_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [through_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return json.loads(json.dumps(value))
    raise TypeError(f"{type(value)} in a state dict")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_continued_run_is_the_uninterrupted_one(name):
    def train(model, optimizer, steps):
        for index in steps:
            for group in optimizer.param_groups:
                group["lr"] = RATES[name] * 0.8**index
            step(optimizer, closure_of(optimizer, model, *batch(index)), model=model)

    def build(seed):
        model = network(seed=seed)
        options = {"lr": RATES[name], "weight_decay": 5e-4, "history_size": 3}
        return model, in_short(build_optimizer(name, decay_groups(model), **options))

    whole, optimizer = build(0)
    train(whole, optimizer, range(4))
    saved = through_json(optimizer.state_dict()), through_json(dict(whole.state_dict()))
    train(whole, optimizer, range(4, 7))
    continued, fresh = build(1)
    fresh.load_state_dict(saved[0])
    continued.load_state_dict(saved[1])
    train(continued, fresh, range(4, 7))
    for key, value in whole.state_dict().items():
        assert torch.equal(continued.state_dict()[key], value), key
    assert not torch.equal(whole.head.weight, saved[1]["head.weight"])
