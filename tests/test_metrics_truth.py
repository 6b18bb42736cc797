"""Metrics against analytic truth: exact collapse, invariances, hand-made cases."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nclib import metrics
from nclib.heads import simplex_etf
from tests.test_metrics_values import draw

ZERO_AT_COLLAPSE = [
    *("nc1", "nc1_quotient", "nc1_cdnv", "nc2_w", "nc2_h", "nc2_w_centered", "nc2_h_centered", "nc3"),
    *("nc3_centered", "equinorm_w", "equinorm_h", "equiangle_w", "equiangle_h", "nc4", "bias_residual"),
    *("gnc2_w", "gnc2_h", "gnc2_w_distance", "gnc2_h_distance", "unc3", "unc3_cosine", "nc3_distance", "separation"),
]
SINGLE_LABEL_RELEASED = ["released_nc1", "released_nc3"]


def exact_etf(num_classes, feature_dim):
    """A simplex ETF exact to float64 rounding, in random directions."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(feature_dim, feature_dim, dtype=torch.float64, generator=generator))[0]
    simplex = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
    if feature_dim >= num_classes:
        return math.sqrt(num_classes / (num_classes - 1)) * simplex @ basis[:num_classes]
    span = torch.linalg.svd(simplex)[0][:, : num_classes - 1]
    return math.sqrt(num_classes / (num_classes - 1)) * span @ basis[: num_classes - 1]


def collapsed(num_classes, feature_dim, *, max_labels):
    """Features, labels and classifier at exact collapse: every label set twice, its features a scaled tag average."""
    weight = exact_etf(num_classes, feature_dim)
    sets = [s for m in range(1, max_labels + 1) for s in itertools.combinations(range(num_classes), m)]
    labels = torch.zeros(2 * len(sets), num_classes, dtype=torch.uint8)
    for row, chosen in enumerate(2 * sets):
        labels[row, list(chosen)] = 1
    scales = torch.tensor([1.7, 0.9, 0.6], dtype=torch.float64)[labels.sum(dim=1).long() - 1]
    return scales.unsqueeze(1) * (labels.double() @ weight), labels, weight


@pytest.mark.parametrize(("k", "d"), [(2, 1), (2, 3), (4, 3), (4, 4), (10, 9), (10, 32)])
def test_exact_collapse_single_label(k, d):
    features, labels, weight = collapsed(k, d, max_labels=1)
    values = metrics.measure(features, labels, weight, torch.zeros(k, dtype=torch.float64))
    for name in ZERO_AT_COLLAPSE + SINGLE_LABEL_RELEASED:
        assert abs(values[name]) < 1e-12, name
    assert values["nuclear_over_frobenius"] == pytest.approx(1, abs=1e-12)
    assert values["cosine_margin_mean"] == pytest.approx(k / (k - 1), abs=1e-12)
    assert values["margin_one_vs_rest"] == pytest.approx(k / (k - 1), abs=1e-12)
    for name in ("gnc2_w_mean", "gnc2_h_mean"):
        assert values[name] == pytest.approx(-math.log(2 * k / (k - 1)) / 2, abs=1e-12), name
    assert values["nc3_cosine"] == pytest.approx(1, abs=1e-12)
    assert values["ncc_accuracy"] == 1
    assert values["class_mean_rank"] == k - 1
    assert values["feature_norm"] == pytest.approx(1.7, rel=1e-12)
    assert values["mean_norm"] == pytest.approx(1.7, rel=1e-12)
    others = metrics.class_means(features, labels).mean(dim=0) + torch.linalg.svd(weight)[2][-1]
    if d >= k:  # a direction orthogonal to all class means
        assert float(metrics.nc5(features, labels, others.unsqueeze(0))) < 1e-12
    assert values["top1"] == values["top5"] == values["jaccard"] == values["subset_accuracy"] == 1


@pytest.mark.parametrize(("k", "d"), [(5, 4), (6, 20)])
def test_exact_collapse_multi_label(k, d):
    features, labels, weight = collapsed(k, d, max_labels=3)
    values = metrics.measure(features, labels, weight, torch.zeros(k, dtype=torch.float64))
    for name in ZERO_AT_COLLAPSE:
        assert abs(values[name]) < 1e-12, name
    for m, scale in {2: 0.9 / 1.7, 3: 0.6 / 1.7}.items():
        for name in ("angle_mean", "angle_max", "ratio", "residual"):
            assert values[f"tag_wise_{name}_{m}"] < 1e-12, (name, m)
        assert values[f"tag_wise_scale_{m}"] == pytest.approx(scale, rel=1e-12)
    assert values["jaccard"] == values["subset_accuracy"] == 1


def test_collapse_in_float32_reaches_rounding():
    features, labels, weight = (
        array.float() if array.is_floating_point() else array for array in collapsed(10, 64, max_labels=2)
    )
    values = metrics.measure(features, labels, weight)
    for name in ("nc1", "nc1_quotient", "nc1_cdnv"):
        assert values[name] < 1e-12, name
    for name in ("nc2_w_centered", "nc2_h_centered", "nc3_centered", "tag_wise_ratio_2"):
        assert values[name] < 1e-6, name
    assert values["nuclear_over_frobenius"] == pytest.approx(1, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    scale=st.floats(1e-3, 1e3),
    classes=st.permutations(range(4)),
)
def test_invariance_to_rotation_scale_class_and_sample_order(seed, scale, classes):
    features, labels, weight, bias = draw(n=60, d=6, k=4, max_labels=3, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))[0]
    rows = torch.randperm(60, generator=generator)
    before = metrics.measure(features, labels, weight, bias)
    after = metrics.measure(
        (scale * features @ rotation)[rows],
        labels[rows][:, list(classes)],
        (weight @ rotation)[list(classes)] / scale,
        bias[list(classes)],
    )
    # logits are the same; only the margin depends on |h| |w|, which the scales leave alone, too
    assert sorted(before) == sorted(after)
    for name in ("feature_norm", "mean_norm"):
        before[name] *= scale
    for name, value in before.items():
        assert after[name] == pytest.approx(value, rel=1e-7, abs=1e-9), name


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), offset=st.floats(-100, 100))
def test_centered_metrics_ignore_a_common_offset(seed, offset):
    features, labels, weight, _ = draw(n=40, d=5, k=3, max_labels=2, seed=seed)
    for metric in (metrics.nc1, metrics.nc1_quotient, metrics.nc1_cdnv, metrics.nc2_h_centered, metrics.equiangle_h):
        shifted = metric(features + offset, labels)
        assert float(shifted) == pytest.approx(float(metric(features, labels)), rel=1e-7), metric
    assert float(metrics.nc3(features + offset, labels, weight)) == pytest.approx(
        float(metrics.nc3(features, labels, weight)), rel=1e-7
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(2, 7), d=st.integers(1, 12))
def test_ranges(seed, k, d):
    values = metrics.measure(*draw(n=5 * k, d=d, k=k, max_labels=2, seed=seed))
    for name in ("nc1", "nc1_quotient", "nc1_cdnv", "equinorm_w", "equiangle_h", "bias_residual", "unc3"):
        assert values[name] >= 0, name
    for name in ("nc2_w", "nc2_h", "nc2_w_centered", "nc2_h_centered", "nc3", "nc3_centered"):
        assert 0 <= values[name] <= 2, name
    assert values["gnc2_w"] >= 0 or d == 1  # where two directions coincide
    assert 0 <= values["margin_one_vs_rest"] <= 2
    assert 0 <= values["unc3_cosine"] <= 2
    assert 1 <= values["class_mean_rank"] <= min(k - 1, d)
    for name in ("nc4", "ncc_accuracy", "gnc2_h_distance", "top1", "top5", "soft_iou", "jaccard", "subset_accuracy"):
        assert 0 <= values[name] <= 1, name
    assert values["nuclear_over_frobenius"] + 1e-12 >= 1
    assert values["top5"] >= values["top1"]


def test_large_offset_in_float32_keeps_the_variability():
    features, labels, weight, _ = draw(n=400, d=16, k=5, max_labels=2, seed=8, dtype=torch.float32)
    shifted = features + 1e4
    exact = metrics.measure(shifted.double(), labels, weight.double())
    values = metrics.measure(shifted, labels, weight)
    for name in ("nc1", "nc1_quotient", "nc1_cdnv", "nc2_h_centered", "nc3_centered", "equinorm_h"):
        assert values[name] == pytest.approx(exact[name], rel=1e-4), name


@pytest.mark.parametrize(("offset", "spread"), [(1e2, 1e-4), (1e4, 1e-3), (1e3, 3e-5)])
def test_a_spread_at_the_last_digits_of_float32_is_measured_exactly(offset, spread):
    """The features are what they are in float32; their means are not, and must not be rounded."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 10
    noise = spread * torch.randn(400, 32, generator=generator)
    features = (torch.randn(10, 32, generator=generator)[labels] + noise + offset).float()
    exact = metrics.measure(features.double(), labels, torch.eye(10, 32))
    found = metrics.measure(features, labels, torch.eye(10, 32))
    for name in ("nc1", "released_nc1", "nc1_quotient", "nc1_cdnv"):
        assert found[name] == pytest.approx(exact[name], rel=1e-6), name
    for name in ("nc1", "nc1_quotient", "nc1_cdnv"):
        assert float(getattr(metrics, name)(features, labels)) == pytest.approx(exact[name], rel=1e-6), name


def test_angles_keep_their_digits_near_0_and_180_degrees():
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[1.0, 1e-9], [-1.0, 1e-9]], dtype=torch.float64)
    angles = metrics.angles_degrees(a, b)
    assert angles[0] == pytest.approx(math.degrees(1e-9), rel=1e-9)
    assert 180 - angles[1] == pytest.approx(math.degrees(1e-9), rel=1e-4)


def test_a_rank_deficient_between_class_covariance_is_truncated():
    # three classes on a line: the second direction of the simplex is rounding only
    labels = torch.arange(3).repeat(2)
    means = torch.tensor([[0.0, 0.1], [1.0, 0.3], [2.0, 0.5]], dtype=torch.float64)[labels]
    noise = torch.tensor([[1.0, 0.2]], dtype=torch.float64)
    features = torch.cat([means[:3] + 0.1 * noise, means[3:] - 0.1 * noise])
    assert float(metrics.nc1(features, labels)) == pytest.approx(0.01 / (2 / 3) / 3, rel=1e-9)


@pytest.mark.parametrize("k", [5, 12, 101])
def test_uniformity_beyond_the_simplex(k):
    """On a circle K > d + 1 unit vectors are spread best evenly, and the nearest is 2 sin(pi/K) away."""
    angles = 2 * math.pi / k * torch.arange(k, dtype=torch.float64)
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    chord = 1 - math.cos(2 * math.pi / k)  # of the hull of the others, from the point between its two neighbors
    assert float(metrics.margin_one_vs_rest(circle)) == pytest.approx(chord, rel=1e-9)
    # the product of all distances from one corner of a regular polygon is K
    assert float(metrics.gnc2_w_mean(circle)) == pytest.approx(-math.log(k) / (k - 1), rel=1e-9)
    worse = circle.clone()
    worse[0] = torch.tensor([math.cos(0.3 / k), math.sin(0.3 / k)])
    assert float(metrics.margin_one_vs_rest(worse)) < chord
    assert float(metrics.gnc2_w_mean(worse)) > -math.log(k) / (k - 1)
    # duality asks for no simplex
    labels = torch.arange(k)
    values = metrics.measure(3 * circle, labels, circle)
    for name in ("unc3", "unc3_cosine", "nc3_distance"):
        assert abs(values[name]) < 1e-12, name
    assert values["gnc2_h"] == pytest.approx(values["gnc2_w"], rel=1e-9)
    # an orthoplex: all distances are equal but those of opposite vectors
    cross = torch.cat([torch.eye(50), -torch.eye(50)]).double()
    opposite = 50 / (50 * 99)
    expected = opposite * (1 - opposite) * (math.log(2) / 2) ** 2
    assert float(metrics.gnc2_w(cross)) == pytest.approx(expected, rel=1e-12)


def test_held_out_samples_are_decided_by_the_training_means():
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 5.0]])
    features = torch.tensor([[0.9, 0.0], [-0.2, 0.1], [0.1, 0.0]])  # no sample of class 2
    labels = torch.tensor([0, 1, 1])
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert metrics.nearest_class_mean(features, means).tolist() == [0, 1, 0]
    assert float(metrics.ncc_accuracy(features, labels, class_means=means)) == pytest.approx(2 / 3)
    assert float(metrics.nc4(features, labels, weight, class_means=means)) == 0
    bias = torch.tensor([0.0, 1.0, 0.0])
    assert float(metrics.nc4(features, labels, weight, bias, class_means=means)) == pytest.approx(2 / 3)
    several = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 1, 1]])  # counts only samples with one label
    assert metrics.ncc_accuracy(features, several, class_means=means) == 1


def test_simplex_gram_is_that_of_the_head():
    etf = simplex_etf(6, 9).double()
    gram = etf @ etf.T
    torch.testing.assert_close(gram / gram.norm(), metrics.simplex_gram(6, like=gram), atol=1e-7, rtol=0)
    off_diagonal = metrics.cosine_gram(etf)[~torch.eye(6, dtype=torch.bool)]
    torch.testing.assert_close(off_diagonal, torch.full_like(off_diagonal, -1 / 5), atol=1e-7, rtol=0)
