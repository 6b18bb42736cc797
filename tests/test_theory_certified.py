"""Certified minima of any label histogram: against closed forms, independent solvers, and their own symmetries."""

import math
import time
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds
from scipy.optimize import minimize as scipy_minimize

from nclib import losses
from nclib.heads import simplex_etf
from nclib.metrics import measure
from nclib.theory import certified_fixed_head, certified_minimum, fixed_head_minimum, global_minimum, predict_training
from nclib.theory.certified import LOSSES, _histogram

ROUNDING = 1e-12


def all_sets(num_classes, multiplicities):
    sets = [S for m in multiplicities for S in combinations(range(num_classes), m)]
    return torch.stack([torch.zeros(num_classes, dtype=torch.uint8).index_fill(0, torch.tensor(S), 1) for S in sets])


def long_tailed(seed, *, num_classes=5, most=300):
    """All singles and about half of the other sets up to three labels, with counts over orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    sets = all_sets(num_classes, range(1, min(num_classes, 4)))
    kept = (sets.sum(1) == 1) | (torch.rand(len(sets), generator=generator) < 0.5)
    counts = (most ** torch.rand(len(sets), generator=generator)).long()
    return sets[kept], counts[kept]


def problems(test):
    """A property of random problems, few of them, since each is solved several times."""
    given_ = given(
        seed=st.integers(0, 10**6),
        num_classes=st.integers(2, 5),
        loss=st.sampled_from(LOSSES),
        bias_decay=st.sampled_from([0.0, 1e-3, math.inf]),
        label_mean=st.booleans(),
        weight_decay=st.floats(1e-4, 1e-1),
        feature_decay=st.floats(1e-6, 1e-1),
    )
    return settings(max_examples=8, deadline=None)(given_(test))


@pytest.mark.parametrize(("label_mean", "bias_decay"), [(False, 0.0), (True, 1e-3), (False, math.inf)])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_balanced_counts_give_the_closed_form(loss, label_mean, bias_decay):
    by_size = {1: 40, 2: 7, 3: 2}
    sets = all_sets(6, by_size)
    counts = torch.tensor([by_size[m] for m in sets.sum(1).tolist()])
    decays = {"feature_decay": 3e-4, "bias_decay": bias_decay, "label_mean": label_mean, "loss": loss}
    row_norm = 1.7
    pairs = [
        (
            global_minimum(6, by_size, weight_decay=1e-3, **decays),
            certified_minimum(sets, counts, weight_decay=1e-3, **decays),
        )
    ]
    for nonnegative in (False, True):
        known = fixed_head_minimum(6, by_size, row_norm=row_norm, nonnegative=nonnegative, **decays)
        weight = row_norm * simplex_etf(6, 8, rotation=torch.eye(8, dtype=torch.float64))
        pairs.append((known, certified_fixed_head(weight, sets, counts, nonnegative=nonnegative, **decays)))
    for known, found in pairs:
        assert abs(found.gap) < 1e-10
        assert found.value == pytest.approx(known.value, rel=1e-9)
        assert found.data_loss == pytest.approx(known.data_loss, rel=1e-7)
        assert found.soft_iou == pytest.approx(known.soft_iou, rel=1e-7)
        assert found.scales == pytest.approx(known.scales, rel=1e-6)
        norms = found.features.norm(dim=1)
        assert norms.tolist() == pytest.approx([known.feature_norms[m] for m in sets.sum(1).tolist()], rel=1e-6)
    assert pairs[0][1].weight.shape[1] == pairs[0][0].min_feature_dim


@problems
def test_gaps_are_small_and_bounds_hold_anywhere(seed, num_classes, loss, **decays):
    sets, counts = long_tailed(seed, num_classes=num_classes)
    found = certified_minimum(sets, counts, loss=loss, **decays)
    assert abs(found.gap) < 1e-8
    # the bound made of any other logits is below, which a wrong conjugate or an infeasible dual point would not be
    problem = _histogram(sets, counts, loss=loss, **decays)
    logits = 3 * torch.randn(sets.T.shape, generator=torch.Generator().manual_seed(seed)).double().numpy()
    slopes = problem.term(logits)[1]
    assert problem.lower_bound(slopes) <= found.value * (1 + ROUNDING)
    head = np.random.default_rng(seed).standard_normal((num_classes, 3))
    for nonnegative in (False, True):
        fixed = {name: value for name, value in decays.items() if name != "weight_decay"}
        of_head = certified_fixed_head(
            torch.from_numpy(head), sets, counts, loss=loss, nonnegative=nonnegative, **fixed
        )
        assert abs(of_head.gap) < 1e-8
        assert problem.lower_bound(slopes, head=head, nonnegative=nonnegative) <= of_head.value * (1 + ROUNDING)


@problems
def test_order_and_grouping_of_the_labels_do_not_matter(seed, num_classes, loss, **decays):
    sets, counts = long_tailed(seed, num_classes=num_classes)
    found = certified_minimum(sets, counts, loss=loss, **decays)
    order = torch.randperm(num_classes, generator=torch.Generator().manual_seed(seed))
    permuted = certified_minimum(sets[:, order], counts, loss=loss, **decays)
    twice = certified_minimum(torch.cat([sets, sets]), torch.cat([counts, 2 * counts]), loss=loss, **decays)
    merged = certified_minimum(sets, 3 * counts, loss=loss, **decays)
    for one, other in ((found.logits[:, order], permuted.logits), (merged.logits, twice.logits[: len(sets)])):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)
    assert permuted.value == pytest.approx(found.value, rel=1e-8)
    assert twice.value == pytest.approx(merged.value, rel=1e-8)


def data_loss(loss, label_mean):
    if loss == "binary_cross_entropy":
        return lambda z, y: (torch.nn.functional.softplus(z) - y * z).mean()
    return losses.pick_all_label(getattr(losses, loss), label_mean=label_mean)


@pytest.mark.parametrize(
    ("loss", "bias_decay"), [("cross_entropy", 0.0), ("mse", 1e-2), ("binary_cross_entropy", 1e-2)]
)
def test_an_independent_convex_solver_agrees(loss, bias_decay):
    """The convex problem itself, sample by sample: a smoothed nuclear norm of all logits, minimized by scipy."""
    sets, counts = long_tailed(3, num_classes=3, most=4)
    lw, lh, smoothing = 2e-2, 3e-3, 1e-6
    labels = sets.repeat_interleave(counts, dim=0).double()
    pal = data_loss(loss, label_mean=False)

    def value(x):
        x = torch.from_numpy(x).requires_grad_()
        Z, b = x[:-3].view(-1, 3), x[-3:]
        nuclear = (torch.linalg.svdvals(Z).square() + smoothing**2).sqrt().sum()
        f = pal(Z + b, labels) + 2 * math.sqrt(lw * lh) * nuclear + bias_decay * b.square().sum()
        f.backward()
        return f.item(), x.grad.numpy()

    options = {"maxiter": 3000, "maxfun": 10**5, "ftol": 1e-14, "gtol": 1e-9}
    best = scipy_minimize(
        value,
        0.1 * np.random.default_rng(0).standard_normal(3 * len(labels) + 3),
        jac=True,
        method="L-BFGS-B",
        options=options,
    )
    found = certified_minimum(sets, counts, weight_decay=lw, feature_decay=lh, bias_decay=bias_decay, loss=loss)
    assert found.value == pytest.approx(best.fun, rel=1e-6)
    assert best.fun > found.lower_bound


@pytest.mark.parametrize(
    ("loss", "nonnegative"), [("cross_entropy", True), ("mse", False), ("binary_cross_entropy", True)]
)
def test_an_independent_solver_agrees_on_a_fixed_head(loss, nonnegative):
    sets, counts = long_tailed(5, num_classes=3)
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).double()
    lh, lb = 1e-4, 1e-3
    labels, shares = sets.double(), counts.double() / counts.sum()
    of_sets = data_loss(loss, label_mean=True)

    def value(x):
        x = torch.from_numpy(x).requires_grad_()
        H, b = x[:-3].view(-1, 5), x[-3:]
        z = H @ weight.T + b
        f = sum(share * of_sets(z[i : i + 1], labels[i : i + 1]) for i, share in enumerate(shares))
        f = f + lh * (counts.double() @ H.square().sum(1)) + lb * b.square().sum()
        f.backward()
        return f.item(), x.grad.numpy()

    lowest = np.full(5 * len(sets) + 3, -np.inf)
    lowest[:-3] = 0 if nonnegative else -np.inf
    options = {"maxiter": 2000, "maxfun": 10**5, "ftol": 1e-15, "gtol": 1e-10}
    best = scipy_minimize(
        value, np.full(len(lowest), 0.1), jac=True, method="L-BFGS-B", bounds=Bounds(lowest), options=options
    )
    found = certified_fixed_head(
        weight, sets, counts, feature_decay=lh, bias_decay=lb, loss=loss, label_mean=True, nonnegative=nonnegative
    )
    assert found.value == pytest.approx(best.fun, rel=1e-6)
    assert best.fun > found.lower_bound
    assert not nonnegative or found.features.min() >= 0


@pytest.mark.parametrize("loss", LOSSES)
def test_random_restarts_of_the_nonconvex_problem_end_there(loss):
    """W and one feature for every set, from random starts, with as many dimensions as the minimum needs."""
    sets, counts = long_tailed(7, num_classes=3)
    lw, lh = 1e-2, 1e-3
    found = certified_minimum(sets, counts, weight_decay=lw, feature_decay=lh, bias_decay=lw, loss=loss)
    d, labels, shares = found.weight.shape[1], sets.double(), counts.double() / counts.sum()
    of_sets = data_loss(loss, label_mean=False)

    def value(x):
        x = torch.from_numpy(x).requires_grad_()
        W, H, b = x[: 3 * d].view(3, d), x[3 * d : -3].view(-1, d), x[-3:]
        z = H @ W.T + b
        f = sum(share * of_sets(z[i : i + 1], labels[i : i + 1]) for i, share in enumerate(shares))
        f = f + lw * (W.square().sum() + b.square().sum()) + lh * (counts.double() @ H.square().sum(1))
        f.backward()
        return f.item(), x.grad.numpy()

    for seed in range(2):
        start = np.random.default_rng(seed).standard_normal(3 * d + len(sets) * d + 3)
        best = scipy_minimize(value, start, jac=True, method="BFGS", options={"gtol": 1e-8})
        assert best.fun == pytest.approx(found.value, rel=1e-9)


@pytest.mark.parametrize(("loss", "factor"), [("cross_entropy", 4.0), ("mse", 16.0), ("binary_cross_entropy", 64.0)])
def test_rare_classes_coincide_exactly_below_the_threshold(loss, factor):
    """n <= 4 λ_W λ_H N² (cross-entropy), K² λ_W λ_H N² (MSE), 4 K² λ_W λ_H N² (binary): docs/theory.md."""
    for rare in (19, 21):
        counts = torch.tensor([200, 120, rare, rare])
        product = 20 / (factor * counts.sum().item() ** 2)
        found = certified_minimum(torch.eye(4), counts, weight_decay=1e-2, feature_decay=product / 1e-2, loss=loss)
        assert abs(found.gap) < 1e-10
        angle = found.angles_of_classifier()[2, 3].item()
        of_means = found.angles_of_means()[2, 3].item()
        assert (angle < 1e-4 and of_means < 1e-4) if rare == 19 else (angle > 5 and of_means > 5)


def test_what_is_said_of_a_minimum_is_what_metrics_measure():
    sets, counts = long_tailed(2)
    found = certified_minimum(sets, counts, weight_decay=1e-3, feature_decay=1e-4, bias_decay=1e-3)
    repeat = {"repeats": counts, "dim": 0}
    H, labels = found.features.repeat_interleave(**repeat), sets.repeat_interleave(**repeat)
    measured = measure(H, labels, found.weight, found.bias)
    assert found.soft_iou == pytest.approx(measured["soft_iou"], rel=1e-9)
    assert found.set_accuracy == pytest.approx(measured["subset_accuracy"], rel=1e-6)
    scales, residuals = found.tag_wise()
    for m in (2, 3):
        assert found.scales[m] == pytest.approx(measured[f"tag_wise_scale_{m}"], rel=1e-9)
        rows = sets.sum(1) == m
        assert scales[rows].min() <= found.scales[m] <= scales[rows].max()
        # the residual of a fit to one set is the sine of its angle to the tags' sum
        angles = residuals[rows].asin().rad2deg()
        assert angles.mean().item() == pytest.approx(measured[f"tag_wise_angle_mean_{m}"], rel=1e-6)
    assert residuals[sets.sum(1) == 1].max() < 1e-12
    singular = torch.linalg.svdvals(H @ found.weight.T)
    torch.testing.assert_close(found.singular_values, singular[: len(found.singular_values)])


def test_classes_without_singles_have_no_mean():
    sets = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 1], [1, 1, 1]])
    found = certified_minimum(sets, torch.tensor([9, 5, 4, 3, 2]), weight_decay=1e-3, feature_decay=1e-3)
    assert found.class_means.isnan().any(1).tolist() == [False, False, True]
    scales, residuals = found.tag_wise()
    assert scales.isnan().tolist() == residuals.isnan().tolist() == [False, False, False, True, True]
    assert sorted(found.scales) == [1, 2]
    without = certified_minimum(
        torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 1]]), torch.tensor([3, 2, 1]), weight_decay=1e-3, feature_decay=1e-3
    )
    assert without.scales == {} and abs(without.gap) < 1e-10


def test_large_decays_switch_everything_off():
    sets, counts = long_tailed(4)
    found = certified_minimum(sets, counts, weight_decay=1.0, feature_decay=1.0)
    assert found.is_zero and abs(found.gap) < 1e-12
    assert found.weight.shape[1] == 1 and found.singular_values.sum() == 0
    assert not certified_minimum(sets, counts, weight_decay=1e-3, feature_decay=1e-3).is_zero


def test_predictions_for_a_training_need_no_balance():
    run = {"weight_decay": 5e-4, "feature_decay": 1e-3, "batch_size": 128}
    singles = {(k,): 100 for k in range(10)}
    pairs = dict.fromkeys(combinations(range(10), 2), 20)
    for head in ({}, {"head": "etf"}, {"head": "etf", "nonnegative": True}):
        by_size, by_set = (predict_training(10, counts, **run, **head) for counts in ({1: 100, 2: 20}, singles | pairs))
        assert by_set.value == pytest.approx(by_size.value, rel=1e-9)
        assert by_set.soft_iou == pytest.approx(by_size.soft_iou, rel=1e-6)
    rotated = predict_training(10, singles | pairs, **run, head="etf", feature_dim=9, nonnegative=True)
    assert rotated.features.shape == (55, 9) and abs(rotated.gap) < 1e-8
    assert rotated.value > predict_training(10, singles | pairs, **run, head="etf", feature_dim=9).value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_sets": torch.eye(3)[:2]}, r"Expected label_sets \(s, k\) .* but got \(2, 3\) and \(3,\)"),
        ({"label_sets": 2 * torch.eye(3)}, r"Expected multi-hot label_sets"),
        ({"label_sets": torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 0]])}, r"but set 2 has none"),
        ({"label_sets": torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0]])}, r"the bias of class 2 has no minimum"),
        ({"counts": torch.tensor([3, 0, 1])}, r"Expected counts of at least 1, but got 0"),
        ({"weight_decay": 0.0}, r"Expected weight_decay > 0"),
        ({"feature_decay": math.inf}, r"Expected feature_decay > 0 and finite, but got inf"),
        ({"bias_decay": -1.0}, r"Expected bias_decay >= 0"),
        ({"loss": "hinge"}, r"Expected loss to be one of cross_entropy, .*but got 'hinge'"),
    ],
)
def test_bad_histograms_are_refused(changes, message):
    given_ = {
        "label_sets": torch.eye(3),
        "counts": torch.tensor([3, 2, 1]),
        "weight_decay": 1e-3,
        "feature_decay": 1e-3,
    }
    with pytest.raises(ValueError, match=message):
        certified_minimum(**{**given_, **changes})


def test_bad_heads_are_refused():
    with pytest.raises(ValueError, match=r"Expected a finite weight with 3 rows.* but got shape \(2, 3\)"):
        certified_fixed_head(torch.ones(2, 3), torch.eye(3), torch.tensor([1, 1, 1]), feature_decay=1e-3)


def test_binary_cross_entropy_takes_samples_without_labels():
    sets = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 1]])
    found = certified_minimum(
        sets, torch.tensor([50, 9, 5, 3]), weight_decay=1e-3, feature_decay=1e-3, loss="binary_cross_entropy"
    )
    assert abs(found.gap) < 1e-10 and 0 < found.soft_iou <= 1 and sorted(found.scales) == [1]


@pytest.mark.timing
def test_ten_classes_and_all_pairs_take_less_than_half_a_second():
    counts = (1000 * torch.rand(55, generator=torch.Generator().manual_seed(0)) ** 4).long() + 1
    begin = time.process_time()
    found = certified_minimum(all_sets(10, [1, 2]), counts, weight_decay=2.5e-4, feature_decay=7e-8, bias_decay=2.5e-4)
    assert time.process_time() - begin < 0.5  # 0.05 s on a quiet core
    assert found.gap < 1e-10


@pytest.mark.stress
def test_a_hundred_classes_and_all_pairs_take_less_than_half_a_minute():
    counts = (1000 * torch.rand(5050, generator=torch.Generator().manual_seed(0)) ** 4).long() + 1
    begin = time.process_time()
    found = certified_minimum(all_sets(100, [1, 2]), counts, weight_decay=2.5e-4, feature_decay=1e-7, bias_decay=2.5e-4)
    assert time.process_time() - begin < 60  # on two cores
    assert found.gap < 1e-10
