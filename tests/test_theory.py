"""The predicted global minima against full minimizations, independent solvers, and points that are not minima."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize as scipy_minimize

from nclib import losses
from nclib.heads import simplex_etf
from nclib.metrics import soft_iou
from nclib.theory import (
    Point,
    Problem,
    fixed_head_minimum,
    global_minimum,
    gradient_norm,
    minimize,
    most_negative_curvature,
    objective,
    predict_training,
    predicted_curvature,
    random_point,
    rank_deficient_point,
    settings_of_training,
    trivial_point,
    values_along,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def setting(num_classes, counts, feature_dim, weight_decay, feature_decay, **others):
    return {
        "num_classes": num_classes,
        "counts": counts,
        "feature_dim": feature_dim,
        "weight_decay": weight_decay,
        "feature_decay": feature_decay,
        **others,
    }


SETTINGS = {
    "ce-k3-plane": setting(3, {1: 10}, 2, 5e-3, 5e-3),
    "ce-k10-minimal-dim": setting(10, {1: 5}, 9, 1e-3, 1e-3, bias_decay=1e-3),
    "ce-k20-wide": setting(20, {1: 3}, 40, 1e-3, 1e-4),
    "pal-k3-pairs": setting(3, {1: 5, 2: 2}, 2, 5e-3, 5e-3),
    "pal-k6-triples": setting(6, {1: 4, 2: 2, 3: 1}, 7, 2e-3, 1e-3, bias_decay=5e-3),
    "pal-k10-prototype": setting(10, {1: 5, 2: 1, 3: 1}, 16, 5e-3, 1.5e-4, bias_decay=1e-3),
    "pal-k10-few-singles": setting(10, {1: 1, 2: 4}, 9, 1e-3, 5e-4),
    "pal-k4-no-bias": setting(4, {1: 20, 2: 1, 3: 7}, 4, 1e-3, 5e-4, bias_decay=math.inf),
    "pal-mean-k8": setting(8, {1: 6, 2: 1}, 8, 2e-3, 5e-4, label_mean=True),
    "pal-mean-k5-triples": setting(5, {1: 8, 2: 3, 3: 2}, 12, 1e-3, 1e-3, label_mean=True),
    "mse-k10": setting(10, {1: 5}, 9, 1e-3, 1e-4, loss="mse"),
    "mse-k20-bias-decay": setting(20, {1: 3}, 30, 5e-4, 1e-4, loss="mse", bias_decay=5e-4),
    "mse-k7-no-bias": setting(7, {1: 4}, 7, 1e-3, 1e-3, loss="mse", bias_decay=math.inf),
    "mse-pal-k6": setting(6, {1: 5, 2: 2}, 5, 1e-3, 3e-4, loss="mse"),
    "mse-pal-mean-k6": setting(6, {1: 3, 2: 2, 3: 1}, 8, 1e-3, 3e-4, loss="mse", label_mean=True),
}
ZERO = {
    "ce": setting(10, {1: 3}, 10, 0.1, 0.1),
    "pal": setting(4, {1: 2, 2: 3}, 3, 0.3, 0.1, bias_decay=0.1),
    "mse": setting(5, {1: 4}, 4, 0.05, 0.02, loss="mse"),
}


def of_minimum(settings):
    return {key: value for key, value in settings.items() if key != "feature_dim"}


@pytest.mark.parametrize("name", SETTINGS)
def test_random_starts_end_at_the_predicted_minimum(name):
    """The value to 1e-9, the ETF, the tag-wise averages and their scales."""
    settings = SETTINGS[name]
    for seed in range(3 if name == "pal-k10-prototype" else 1):
        result = minimize(**settings, generator=seeded(seed))
        assert abs(result.gap) < 1e-9
        values = result.collapse()
        assert values["nc2_w_centered"] < 1e-6
        assert values["nc1"] < 1e-6
        assert not result.is_zero
        assert not result.minimum.is_zero
        assert result.minimum.scales[1] == pytest.approx(1, abs=1e-12)
        for m in settings["counts"]:
            if m > 1:
                assert values[f"tag_wise_cosine_residual_{m}"] < 1e-9
                assert result.minimum.scales[m] == pytest.approx(values[f"tag_wise_scale_{m}"], rel=1e-6)
    assert result.minimum.soft_iou == pytest.approx(values["soft_iou"], rel=1e-6)
    # the geometry in full: logits, mean logits and bias together, classifier scale, feature norms
    point, minimum, K = result.point, result.minimum, settings["num_classes"]
    sizes = result.labels.sum(1, dtype=torch.int64)
    centered = result.logits - result.logits.mean(1, keepdim=True)
    for m in settings["counts"]:
        rows = sizes == m
        on = result.labels[rows] == 1
        a = torch.tensor(minimum.logits[m], dtype=torch.float64)
        expected = torch.where(on, a, -a * m / (K - m))
        torch.testing.assert_close(centered[rows], expected, rtol=0, atol=1e-5)
        norms = point.H[rows].norm(dim=1)
        torch.testing.assert_close(norms, torch.full_like(norms, minimum.feature_norms[m]), rtol=1e-5, atol=0)
        if settings.get("loss") == "mse":
            means = torch.full_like(norms, minimum.mean_logits[m] + minimum.bias)
            torch.testing.assert_close(result.logits[rows].mean(1), means, rtol=0, atol=1e-6)
    W = point.W - point.W.mean(0)
    assert W.square().sum().item() == pytest.approx(minimum.etf_scale**2 * (K - 1), rel=1e-5)


@pytest.mark.parametrize("name", ZERO)
def test_large_decays_make_both_say_zero(name):
    result = minimize(**ZERO[name], generator=seeded())
    assert result.minimum.is_zero
    assert result.is_zero
    assert abs(result.gap) < 1e-9
    assert result.minimum.soft_iou == pytest.approx(soft_iou(result.logits, result.labels).item(), rel=1e-6)
    assert result.collapse() == result.scales == result.minimum.scales == {}


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("label_mean", [False, True])
def test_zero_exactly_beyond_the_closed_form_threshold(loss, label_mean):
    """Σ_S n_S |gradient at 0|² = 4 λ_W λ_H (K-1), written out from the gradients of single samples."""
    K, counts = 6, {1: 4, 2: 3, 3: 1}
    N = sum(n * math.comb(K, m) for m, n in counts.items())
    squares = 0.0
    for m, n in counts.items():
        for S in combinations(range(K), m):
            weight = 1 if label_mean else m
            slope = [weight * ((1 / K if loss == "cross_entropy" else 0) - (k in S) / m) for k in range(K)]
            slope = np.array(slope) * (1 if loss == "cross_entropy" else 2 / K)
            squares += n * ((slope - slope.mean()) ** 2).sum() / N**2
    product = squares / (4 * (K - 1))  # λ_W λ_H at the threshold
    kwargs = {"loss": loss, "label_mean": label_mean}
    assert global_minimum(K, counts, weight_decay=1e-3, feature_decay=product / 1e-3 * 1.000001, **kwargs).is_zero
    assert not global_minimum(K, counts, weight_decay=1e-3, feature_decay=product / 1e-3 * 0.999, **kwargs).is_zero


def test_value_of_the_prototype():
    minimum = global_minimum(10, {1: 5, 2: 1, 3: 1}, weight_decay=5e-3, feature_decay=1.5e-4, bias_decay=1e-3)
    assert minimum.value == pytest.approx(2.6539369659, abs=5e-11)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name.startswith(("ce", "pal"))])
def test_reduced_problem_against_scipy(name):
    """g(s, a) typed in from the paper's form, minimized by another solver."""
    settings = SETTINGS[name]
    K, counts = settings["num_classes"], settings["counts"]
    lw, lh, mean = settings["weight_decay"], settings["feature_decay"], settings.get("label_mean", False)
    N = sum(n * math.comb(K, m) for m, n in counts.items())

    def g(x):
        s, total = x[0], lw * x[0] ** 2 * (K - 1)
        for a, (m, n) in zip(x[1:], sorted(counts.items()), strict=True):
            N_m = n * math.comb(K, m)
            total += N_m / N * (1 if mean else m) * (np.log(m * np.exp(a) + (K - m) * np.exp(-m * a / (K - m))) - a)
            total += lh * N_m * m * a**2 * K / ((K - m) * s**2)
        return total

    best = scipy_minimize(g, np.full(len(counts) + 1, 2.0), method="BFGS", options={"gtol": 1e-9, "maxiter": 500})
    minimum = global_minimum(**of_minimum(settings))
    assert minimum.value == pytest.approx(best.fun, rel=1e-12)
    assert minimum.value <= best.fun + 1e-14
    assert minimum.etf_scale == pytest.approx(best.x[0], rel=1e-5)
    assert list(minimum.logits.values()) == pytest.approx(best.x[1:], rel=1e-5)


def test_single_label_mse_is_the_closed_form():
    """Singular values of the logits shrink by soft thresholding: `1 - K² sqrt(n λ_W λ_H)` here (docs/theory.md)."""
    K, n, lw, lh = 10, 5, 1e-3, 2e-4
    minimum = global_minimum(K, {1: n}, weight_decay=lw, feature_decay=lh, loss="mse")
    shrink = 1 - K**2 * math.sqrt(n * lw * lh)
    assert minimum.logits[1] == pytest.approx(shrink * (K - 1) / K, rel=1e-13)
    assert minimum.bias == pytest.approx(1 / K, rel=1e-13)
    sigma = shrink * math.sqrt(n)
    value = (sigma - math.sqrt(n)) ** 2 * (K - 1) / (n * K**2) + 2 * math.sqrt(lw * lh) * (K - 1) * sigma
    assert minimum.value == pytest.approx(value, rel=1e-13)


def test_penalized_bias_under_mse_breaks_the_tag_wise_average_as_predicted():
    settings = setting(6, {1: 3, 2: 1}, 6, 1e-3, 3e-4, loss="mse", bias_decay=math.inf)
    result = minimize(**settings, generator=seeded())
    assert abs(result.gap) < 1e-9
    assert result.minimum.mean_logits[1] != 0
    assert result.minimum.min_feature_dim == 6
    assert result.collapse()["tag_wise_cosine_residual_2"] > 1e-7
    assert result.minimum.scales[2] == pytest.approx(result.scales[2], rel=1e-6)
    with pytest.raises(ValueError, match=r"Expected feature_dim >= 6 .* but got 5"):
        minimize(**{**settings, "feature_dim": 5}, generator=seeded())


# --- the checks can fail -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pal-k6-triples", "mse-pal-k6"])
def test_every_perturbation_of_the_minimum_raises_the_value(name):
    settings = SETTINGS[name]
    result = minimize(**settings, generator=seeded())
    f = objective(result.problem)
    for seed in range(5):
        step = random_point(result.problem, feature_dim=settings["feature_dim"], scale=1.0, generator=seeded(seed))
        for distance in (1e-3, 1e-2, 0.1):
            assert f(*result.point.moved(step, distance=distance).tensors) > result.value + 1e-12


def test_wrong_settings_are_detected():
    """The tolerances are tight enough to tell a slightly different problem, or a truncated descent, apart."""
    settings = SETTINGS["pal-k6-triples"]
    result = minimize(**settings, generator=seeded())
    other = global_minimum(**{**of_minimum(settings), "feature_decay": settings["feature_decay"] * 1.001})
    assert abs(result.value - other.value) / other.value > 1e-6
    assert abs(result.scales[2] - other.scales[2]) > 1e-6 * other.scales[2]
    mean = global_minimum(**{**of_minimum(settings), "label_mean": True})
    assert abs(mean.scales[2] - result.scales[2]) > 1e-2
    early = minimize(**settings, generator=seeded(), max_iterations=20, record_every=20)
    assert early.gap > 1e-6
    assert early.collapse()["nc2_w_centered"] > 1e-6


def test_an_unbalanced_multiplicity_leaves_the_theorem():
    """The reduced value is reached only with the symmetry: dropping the samples of one pair moves the minimum."""
    settings = SETTINGS["pal-k6-triples"]
    problem = Problem(**of_minimum(settings))
    labels = problem.labels()
    gone = (labels[:, 0] == 1) & (labels[:, 1] == 1) & (labels.sum(1) == 2)
    assert gone.sum() == settings["counts"][2]
    result = minimize(**settings, generator=seeded())
    logits, kept = result.logits[~gone], labels[~gone].double()
    W = result.point.W.clone().requires_grad_()
    H = result.point.H[~gone].clone().requires_grad_()
    value = losses.pick_all_label_cross_entropy(H @ W.T + result.point.b, kept)
    (value + problem.weight_decay * W.square().sum() + problem.feature_decay * H.square().sum()).backward()
    assert W.grad.norm() > 1e-4
    assert logits.shape == (problem.num_samples - 2, 6)


# --- the objective ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label_mean", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_objective_is_the_librarys_pick_all_label_loss(loss, label_mean):
    problem = Problem(
        num_classes=5,
        counts={2: 2, 1: 3, 4: 1},
        weight_decay=0.1,
        feature_decay=0.02,
        bias_decay=0.3,
        label_mean=label_mean,
        loss=loss,
    )
    point = random_point(problem, feature_dim=7, scale=2.0, generator=seeded())
    pal = losses.pick_all_label(getattr(losses, loss), label_mean=label_mean)
    W, H, b = point.tensors
    expected = pal(H @ W.T + b, problem.labels()) + 0.1 * W.square().sum() + 0.3 * b.square().sum()
    expected = expected + losses.feature_decay(H, weight=0.02)
    torch.testing.assert_close(objective(problem)(*point.tensors), expected, rtol=1e-13, atol=0)
    assert problem.num_samples == len(problem.labels()) == 15 + 20 + 5
    assert problem.labels().sum(1, dtype=torch.int64).tolist() == [1] * 15 + [2] * 20 + [4] * 5


def test_single_label_mse_is_rescaled_mse():
    problem = Problem(num_classes=4, counts={1: 3}, weight_decay=1e-9, feature_decay=1e-9, loss="mse")
    point = random_point(problem, feature_dim=4, generator=seeded())
    expected = losses.rescaled_mse(problem.logits(*point.tensors), problem.labels())
    torch.testing.assert_close(objective(problem)(*point.tensors), expected, rtol=1e-7, atol=0)


# --- the fixed classifier -----------------------------------------------------------------------------------------


def minimize_features(problem, W, *, nonnegative):
    """Projected-free check: features as squares where they must not be negative, L-BFGS over features and bias."""
    f = objective(problem)
    d = W.shape[1]
    raw = (0.5 + torch.rand(problem.num_samples, d, dtype=torch.float64, generator=seeded())).requires_grad_()
    b = torch.zeros(len(W), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [raw, b],
        max_iter=300,
        history_size=30,
        tolerance_grad=1e-11,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def features():
        return raw.square() if nonnegative else raw

    def closure():
        optimizer.zero_grad()
        value = f(W, features(), b) - problem.weight_decay * W.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return closure().item(), features().detach()


@pytest.mark.parametrize("d", [5, 6])
@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_fixed_etf_head(loss, nonnegative, d):
    K, counts = 5, {1: 2, 2: 1, 3: 1}
    kwargs = {"feature_decay": 2e-3, "bias_decay": 1e-2, "loss": loss}
    problem = Problem(num_classes=K, counts=counts, weight_decay=1.0, **kwargs)
    value, features = minimize_features(problem, simplex_etf(K, d).double(), nonnegative=nonnegative)
    minimum = fixed_head_minimum(K, counts, nonnegative=nonnegative, **kwargs)
    assert minimum.value == pytest.approx(value, rel=1e-7)  # the frame is rounded to float32
    assert minimum.etf_scale**2 == pytest.approx(K / (K - 1), rel=1e-14)
    norms = features.norm(dim=1)
    assert minimum.feature_norms[1] == pytest.approx(norms[0].item(), rel=1e-4)
    assert minimum.feature_norms[3] == pytest.approx(norms[-1].item(), rel=1e-4)
    tags = features[0:2].mean(0) + features[2:4].mean(0)  # classes 0 and 1
    pair = features[10]
    assert minimum.scales[2] == pytest.approx((pair @ tags / (tags @ tags)).item(), rel=1e-4)
    assert torch.dist(pair, minimum.scales[2] * tags) < 1e-3 * pair.norm()  # squares near 0 move slowly


def test_row_norm_of_a_fixed_head_trades_against_the_feature_decay():
    one = fixed_head_minimum(6, {1: 3, 2: 1}, feature_decay=4e-3, row_norm=2.0)
    other = fixed_head_minimum(6, {1: 3, 2: 1}, feature_decay=1e-3)
    assert one.value == pytest.approx(other.value, rel=1e-13)
    with pytest.raises(ValueError, match=r"Expected row_norm > 0, but got 0"):
        fixed_head_minimum(6, {1: 3}, feature_decay=1e-3, row_norm=0.0)


# --- strict saddles -----------------------------------------------------------------------------------------------

SADDLE_PROBLEMS = {
    "pal": Problem(num_classes=3, counts={1: 5, 2: 2}, weight_decay=5e-3, feature_decay=5e-3),
    "pal-k6": Problem(num_classes=6, counts={1: 3, 2: 1}, weight_decay=1e-3, feature_decay=1e-3),
    "mse": Problem(num_classes=5, counts={1: 3}, weight_decay=1e-3, feature_decay=3e-4, loss="mse", bias_decay=1e-2),
}


@pytest.mark.parametrize("name", SADDLE_PROBLEMS)
def test_other_critical_points_are_strict_saddles(name):
    problem = SADDLE_PROBLEMS[name]
    K = problem.num_classes
    points = {
        "trivial": trivial_point(problem, feature_dim=K),
        "one direction removed": rank_deficient_point(problem, feature_dim=K, rank=K - 2, generator=seeded()),
    }
    minimum = global_minimum(
        K,
        problem.counts,
        weight_decay=problem.weight_decay,
        feature_decay=problem.feature_decay,
        bias_decay=problem.bias_decay,
        loss=problem.loss,
    )
    f = objective(problem)
    nudge = random_point(problem, feature_dim=K, generator=seeded(1))
    for point in points.values():
        assert gradient_norm(problem, point) < 1e-7
        value = f(*point.tensors).item()
        assert value > minimum.value * (1 + 1e-4)
        curvature = most_negative_curvature(problem, point, generator=seeded())
        assert curvature.eigenvalue < -1e-4
        assert curvature.eigenvalue == pytest.approx(predicted_curvature(problem, point), rel=1e-6)
        # the loss falls along the direction as the eigenvalue says; a descent from there, nudged off the symmetry that
        # would keep it in the same few directions, ends at the minimum
        here, near, far = values_along(problem, point, curvature.direction, distances=[0.0, 1e-2, 0.3])
        assert here == value
        assert (near - here) / 1e-4 == pytest.approx(curvature.eigenvalue / 2, rel=1e-2)
        assert far < near < here
        escaped = minimize(
            K,
            problem.counts,
            weight_decay=problem.weight_decay,
            feature_decay=problem.feature_decay,
            bias_decay=problem.bias_decay,
            loss=problem.loss,
            feature_dim=K,
            start=point.moved(curvature.direction, distance=1e-2).moved(nudge, distance=1e-3),
        )
        assert abs(escaped.gap) < 1e-9


def test_hessian_products_and_lanczos_against_the_full_hessian():
    problem = SADDLE_PROBLEMS["pal"]
    point = random_point(problem, feature_dim=2, generator=seeded())
    shapes = [x.shape for x in point.tensors]
    sizes = [x.numel() for x in point.tensors]

    def flat(vector):
        return objective(problem)(*(part.view(s) for part, s in zip(vector.split(sizes), shapes, strict=True)))

    full = torch.func.jacrev(torch.func.jacrev(flat))(torch.cat([x.flatten() for x in point.tensors]))
    values, vectors = torch.linalg.eigh(full)
    curvature = most_negative_curvature(problem, point, generator=seeded())
    assert curvature.eigenvalue == pytest.approx(values[0].item(), rel=1e-9)
    direction = torch.cat([x.flatten() for x in curvature.direction.tensors])
    assert abs(direction @ vectors[:, 0]).item() == pytest.approx(1, abs=1e-6)


def test_the_global_minimum_is_no_saddle():
    problem = SADDLE_PROBLEMS["pal"]
    result = minimize(3, problem.counts, weight_decay=5e-3, feature_decay=5e-3, feature_dim=3, generator=seeded())
    assert abs(most_negative_curvature(problem, result.point, generator=seeded()).eigenvalue) < 1e-8
    assert abs(predicted_curvature(problem, result.point)) < 1e-8  # σ = 2 sqrt(λ_W λ_H) exactly there


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"rank": 0, "feature_dim": 3}, r"Expected rank in 1\.\.1 = K - 2, but got 0"),
        ({"rank": 1, "feature_dim": 1}, r"Expected feature_dim > rank = 1, but got 1"),
    ],
)
def test_rank_deficient_point_refuses(kwargs, message):
    with pytest.raises(ValueError, match=message):
        rank_deficient_point(SADDLE_PROBLEMS["pal"], **kwargs)


# --- from training to theory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [False, True])
def test_training_settings_give_the_average_step_of_an_epoch(mean):
    """Mean over an epoch's steps of loss + feature decay + (wd/2)|p|², for equal batches: the theorem's objective."""
    K, counts, batch_size, wd, decay = 4, {1: 3, 2: 2}, 6, 3e-2, 5e-2
    settings = settings_of_training(
        K, counts, weight_decay=wd, feature_decay=decay, batch_size=batch_size, feature_decay_mean=mean, label_mean=True
    )
    problem = Problem(num_classes=K, counts=counts, **settings)
    point = random_point(problem, feature_dim=5, generator=seeded())
    W, H, b = point.tensors
    order = torch.randperm(problem.num_samples, generator=seeded())
    steps = []
    for batch in order.split(batch_size):
        loss = losses.pick_all_label_cross_entropy(H[batch] @ W.T + b, problem.labels()[batch], label_mean=True)
        loss = loss + losses.feature_decay(H[batch], weight=decay, mean=mean)
        steps.append(loss + wd / 2 * (W.square().sum() + b.square().sum()))
    assert len(steps) == 4
    torch.testing.assert_close(objective(problem)(*point.tensors), torch.stack(steps).mean(), rtol=1e-12, atol=0)


def test_a_trained_last_layer_reaches_the_prediction():
    """Free features and a linear layer, trained as the networks are (mini-batches, SGD with weight decay)."""
    K, counts, wd, decay = 3, {1: 4, 2: 4}, 2e-2, 2e-2
    problem = Problem(
        num_classes=K,
        counts=counts,
        **settings_of_training(K, counts, weight_decay=wd, feature_decay=decay, batch_size=8),
    )
    H = torch.nn.Parameter(0.3 * torch.randn(problem.num_samples, 3, generator=seeded()))
    layer = torch.nn.Linear(3, K)
    with torch.no_grad():
        layer.weight.copy_(0.3 * torch.randn(K, 3, generator=seeded(1)))
        layer.bias.zero_()
    # weight decay on the last layer, feature decay in the loss; momentum as in the papers
    optimizer = torch.optim.SGD(
        [{"params": layer.parameters(), "weight_decay": wd}, {"params": [H], "weight_decay": 0.0}], lr=0.3, momentum=0.9
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150)
    generator = seeded(2)
    for _ in range(150):
        for batch in torch.randperm(len(H), generator=generator).split(8):
            optimizer.zero_grad()
            logits = layer(H[batch])
            loss = losses.pick_all_label_cross_entropy(logits, problem.labels()[batch], label_mean=True)
            (loss + losses.feature_decay(H[batch], weight=decay)).backward()
            optimizer.step()
        schedule.step()
    prediction = predict_training(K, counts, weight_decay=wd, feature_decay=decay, batch_size=8)
    with torch.no_grad():
        data_loss = losses.pick_all_label_cross_entropy(layer(H), problem.labels(), label_mean=True).item()
        value = objective(problem)(layer.weight.double(), H.double(), layer.bias.double()).item()
    assert value == pytest.approx(prediction.value, rel=1e-3)
    assert value > prediction.value * (1 - 1e-6)
    assert data_loss == pytest.approx(prediction.data_loss, rel=1e-2)
    means = H.detach().view(6, 4, 3).mean(1)
    tags = problem.labels()[12::4].float() @ means[:3]
    assert ((means[3:] * tags).sum() / tags.square().sum()).item() == pytest.approx(prediction.scales[2], rel=1e-2)


def test_predictions_where_the_setting_does_not_allow_one():
    run = {"num_classes": 10, "counts": {1: 100, 2: 20}, "weight_decay": 5e-4, "feature_decay": 1e-3, "batch_size": 128}
    assert predict_training(**run, head="etf").value < predict_training(**run, head="etf", nonnegative=True).value
    with pytest.raises(ValueError, match=r"Expected feature_decay > 0 .* but got 0"):
        predict_training(**{**run, "feature_decay": 0.0})
    with pytest.raises(ValueError, match=r"Expected weight_decay > 0 .* but got 0"):
        predict_training(**{**run, "weight_decay": 0.0})
    with pytest.raises(ValueError, match=r"Expected nonnegative only with head 'etf', but got head 'learned'"):
        predict_training(**run, nonnegative=True)
    with pytest.raises(ValueError, match=r"Expected batch_size >= 1, but got 0"):
        predict_training(**{**run, "batch_size": 0})
    assert predict_training(**{**run, "weight_decay": 0.0}, head="etf").value > 0


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 1}, r"Expected num_classes >= 2, but got 1"),
        ({"counts": {}}, r"Expected counts to hold at least one multiplicity"),
        ({"counts": {1: 3, 4: 1}}, r"Expected every multiplicity in counts to be in 1\.\.3 \(K = 4\), but got 4"),
        ({"counts": {0: 3}}, r"Expected every multiplicity in counts .* but got 0"),
        ({"counts": {1: 0}}, r"Expected counts\[1\] >= 1 samples per label set, but got 0"),
        ({"weight_decay": 0.0}, r"Expected weight_decay > 0"),
        ({"feature_decay": -1.0}, r"Expected feature_decay > 0"),
        ({"feature_decay": math.nan}, r"Expected feature_decay > 0"),
        ({"bias_decay": -1.0}, r"Expected bias_decay >= 0"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    settings = {"num_classes": 4, "counts": {1: 3}, "weight_decay": 1e-3, "feature_decay": 1e-3, **changes}
    with pytest.raises(ValueError, match=message):
        global_minimum(**settings)


def test_edge_cases():
    two = minimize(2, {1: 3}, weight_decay=1e-2, feature_decay=1e-2, feature_dim=1, generator=seeded())
    assert abs(two.gap) < 1e-9
    pairs_only = minimize(4, {2: 2}, weight_decay=1e-2, feature_decay=1e-3, feature_dim=3, generator=seeded())
    assert abs(pairs_only.gap) < 1e-9
    assert pairs_only.minimum.scales == pairs_only.scales == {}
    with pytest.raises(ValueError, match=r"Expected feature_dim >= 3 .* but got 2"):
        minimize(4, {1: 2}, weight_decay=1e-2, feature_decay=1e-3, feature_dim=2)
    # tiny and huge decays neither overflow nor hang
    assert global_minimum(100, {1: 500}, weight_decay=1e-12, feature_decay=1e-12).value < 1e-6
    assert global_minimum(100, {1: 500}, weight_decay=1e12, feature_decay=1e12).is_zero


def test_a_recorded_path_starts_and_ends_where_it_should():
    start = Point(*(torch.ones(*size, dtype=torch.float64) for size in ((3, 2), (3, 2), (3,))))
    start.W[0, 0], start.H[1, 1] = 2.0, -1.0
    result = minimize(
        3, {1: 1}, weight_decay=1e-2, feature_decay=1e-2, feature_dim=2, start=start, record_every=1, record_path=True
    )
    assert torch.equal(result.path[0].W, start.W)
    torch.testing.assert_close(result.path[-1].H, result.point.H)
    with pytest.raises(ValueError, match=r"Expected a start .* of shapes \(\(3, 2\), \(6, 2\), \(3,\)\), but got"):
        minimize(3, {1: 2}, weight_decay=1e-2, feature_decay=1e-2, feature_dim=2, start=start)
    assert len(result.path) == len(result.losses) == len(result.iterations)
    assert result.iterations[:3] == [0, 1, 2]
    assert result.losses[-1] == result.value
    for point, value in zip(result.path, result.losses, strict=True):
        assert objective(result.problem)(*point.tensors).item() == pytest.approx(value, rel=1e-12)
