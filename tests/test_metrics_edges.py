"""Metrics at the edges: invalid inputs, tiny classes, narrow dtypes, memory, ties, import weight."""

import gc
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nclib import metrics
from nclib.metrics import rows, tag_wise
from nclib.metrics.deviations import project
from nclib.metrics.prediction import label_ranks
from tests.test_metrics_values import draw

FEATURES, LABELS, WEIGHT, BIAS = draw(n=40, d=6, k=4, max_labels=2, seed=0)


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        (torch.tensor([0, 1, 4]), 4, r"Expected class ids in 0..3, but got 0..4"),
        (torch.tensor([0, -1, 2]), None, r"Expected class ids in 0..2, but got -1..2"),
        (torch.tensor([0.0, 1.0]), None, "Expected class ids .* integer dtype, but got torch.float32"),
        (torch.tensor([0, 0]), None, "Expected at least 2 classes, but got 1"),
        (torch.ones(3, 1), None, "Expected at least 2 classes, but got 1"),
        (torch.ones(3, 4), 5, "Expected multi-hot labels of 5 columns, but got 4"),
        (torch.tensor([[2, 0], [0, 1]]), None, r"zeros and ones, but got 2"),
        (torch.tensor([[0.5, 0.5], [0, 1]]), None, r"zeros and ones, but got 0.5"),
        (torch.tensor([[-1, 1], [0, 1]]), None, r"zeros and ones, but got -1"),
        (torch.zeros(3, 4), None, "Expected at least one sample with a label"),
        (torch.zeros(0, 4), None, r"Expected labels .* n >= 1, but got \(0, 4\)"),
    ],
)
def test_invalid_labels(labels, num_classes, message):
    with pytest.raises(ValueError, match=message):
        metrics.label_sets(labels, num_classes=num_classes)


def test_a_class_that_never_occurs_alone():
    labels = LABELS.clone()
    labels[(labels.sum(dim=1) == 1) & (labels[:, 2] == 1), 3] = 1
    with pytest.raises(ValueError, match=r"single label for every class, but classes \[2\] of 4 have none"):
        metrics.measure(FEATURES, labels, WEIGHT)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_features_that_are_not_finite(bad):
    features = FEATURES.clone()
    features[17, 3] = bad
    with pytest.raises(ValueError, match=r"Expected finite features, .* first in row 17"):
        metrics.measure(features, LABELS, WEIGHT)
    with pytest.raises(ValueError, match="Expected finite features"):
        metrics.nuclear_over_frobenius(features, LABELS)


def test_values_that_are_not_finite():
    with pytest.raises(ValueError, match="Expected a finite weight and bias"):
        metrics.measure(FEATURES, LABELS, WEIGHT * torch.nan)
    with pytest.raises(ValueError, match="Expected logits without NaN"):
        metrics.measure(FEATURES, LABELS, WEIGHT, logits=torch.full((40, 4), torch.nan))


WRONG_INPUTS = """
import torch
from nclib import decode, metrics

h, y, w, b, z = torch.rand(40, 6), torch.eye(4).repeat(10, 1), torch.rand(4, 6), torch.rand(4), torch.rand(40, 4)
stream = metrics.CollapseMetrics(num_classes=4, feature_dim=6)
stream.update(h, y)
with_weight = ["nc3", "nc3_centered", "released_nc3", "bias_residual", "nc4", "cosine_margins", "measure", "unc3"]
calls = {
    "features": [lambda f=getattr(metrics, name): f(h[:, 0], y, w) for name in with_weight]
    + [lambda f=getattr(metrics, name): f(h[0], y) for name in ("nc1", "nc2_h", "nuclear_over_frobenius")]
    + [lambda: stream.update(h[:, 0], y), lambda: metrics.nc1(h, y[:39]), lambda: metrics.nc1(h, torch.tensor(0))],
    "ood_features (q, 6)": [lambda wrong=wrong: metrics.nc5(h, y, wrong) for wrong in (h[:, :5], h[0], h[:0])],
    "class_means (k, 6)": [lambda: metrics.nc4(h, y, w, class_means=w[:, :5])],
    "class_means of 4 classes, but got 3": [lambda: metrics.nc4(h, y, w, class_means=w[:3])],
    "a matrix (k, d) with k >= 2": [lambda: metrics.nc2_w(w[:1]), lambda: metrics.gnc2_w(w[0])],
    "multi-hot labels of 3 columns": [lambda: metrics.measure(h, y, w[:3])],
    "labels that are multi-hot (n, k)": [lambda: metrics.soft_iou(z, torch.tensor(0))],
    "weight (k, 6) and bias (k,)": [
        lambda f=getattr(metrics, name), wrong=wrong: f(h, y, wrong)
        for name in with_weight for wrong in (w[:, :5], w[0], w[None])
    ] + [lambda: metrics.bias_residual(h, y, w, b[:3])],
    "weight (4, 6) and bias (4,)": [
        lambda args=args: stream.compute(*args) for args in ((w[:3],), (w[:, :5],), (w[0],), (w, b[:3]))
    ],
    "a finite weight": [lambda: stream.compute(w / 0), lambda: metrics.nc3(h, y, w * torch.nan)],
    "logits (40, 4)": [
        lambda: metrics.measure(h, y, w, logits=z[:, :3]),
        lambda: metrics.measure(h, y, w, logits=z[:39]),
        lambda: stream.update(h, y, z[:, :3]),
        lambda: stream.update(h, y.argmax(dim=1), z[:, :3]),
        lambda: metrics.jaccard(z[0], y),
        lambda: decode.tune_threshold(z[:, :3], y),
    ],
    "logits of a floating dtype": [
        lambda f=f: f(y > 0, y) for f in (metrics.jaccard, metrics.subset_accuracy, metrics.soft_iou)
    ] + [lambda: stream.update(h, y, y > 0)],
    "logits without NaN": [lambda: stream.update(h, y, z * torch.nan)],
    "class ids (n,)": [lambda: metrics.top_k_accuracy(z, y)],
    "predicted label sets (n, k)": [
        lambda wrong=wrong: decode.set_jaccard(z > 0, wrong)
        for wrong in (y[:3], torch.ones(40, 5), torch.ones(1, 4), torch.zeros(4))
    ],
}
no_tensors = {
    "features to be a torch.Tensor, but got numpy.ndarray: torch.as_tensor": [lambda: metrics.nc1(h.numpy(), y)],
    "labels to be a torch.Tensor, but got numpy.ndarray: torch.as_tensor": [lambda: metrics.nc1(h, y.numpy())],
}
for kind, cases in ((ValueError, calls), (TypeError, no_tensors)):
    for expected, functions in cases.items():
        for number, function in enumerate(functions):
            try:
                function()
                print(expected, number, "passed")
            except Exception as error:
                if type(error) is not kind or not str(error).startswith("Expected " + expected):
                    print(expected, number, repr(error))
"""


def test_wrong_inputs_are_refused_by_name():
    """In a process of its own, without the shape types of the test run."""
    result = subprocess.run([sys.executable, "-c", WRONG_INPUTS], capture_output=True, text=True)
    assert (result.stdout, result.returncode) == ("", 0), result.stderr


def test_class_means_that_are_all_equal():
    with pytest.raises(ValueError, match="Expected class means that differ"):
        metrics.nc1(torch.ones(6, 3), torch.arange(3).repeat(2))


def test_a_multiplicity_that_does_not_occur():
    with pytest.raises(ValueError, match=r"multiplicity among those of the labels, \[1, 2\], but got 3"):
        metrics.tag_wise_ratio(FEATURES, LABELS, 3)
    with pytest.raises(ValueError, match=r"Expected sample counts among those of the pairs, .* but got \[99\]"):
        metrics.imbalance_ratio(FEATURES, LABELS, counts=[99])


def test_too_many_pairs_for_the_ratio(monkeypatch):
    monkeypatch.setattr(tag_wise, "MAX_PAIRS", 5)
    with pytest.raises(ValueError, match=r"Expected at most 5e[+]00 pairs of label sets"):
        metrics.tag_wise_ratio(FEATURES, LABELS, 2)
    values = metrics.measure(FEATURES, LABELS, WEIGHT)
    assert "tag_wise_ratio_2" not in values
    assert "tag_wise_angle_mean_2" in values


def test_subsets_are_all_subsets_once():
    blocks = list(tag_wise._subsets(7, 3, block=4, device=torch.device("cpu")))
    subsets = [tuple(sorted(row)) for row in torch.cat(blocks).tolist()]
    assert len(subsets) == len(set(subsets)) == 35
    assert all(len(set(row)) == 3 and row[0] >= 0 and row[2] < 7 for row in subsets)


def test_samples_without_labels_are_left_out():
    expected = metrics.measure(FEATURES, LABELS, WEIGHT, BIAS)
    rows = torch.tensor([0, 13, 40])
    features = torch.cat([FEATURES, torch.full((3, 6), 7.0, dtype=torch.float64)])
    labels = torch.cat([LABELS, torch.zeros(3, 4, dtype=torch.uint8)])
    order = torch.cat(
        [torch.tensor([40]), torch.arange(13), torch.tensor([41]), torch.arange(13, 40), torch.tensor([42])]
    )
    values = metrics.measure(features[order], labels[order], WEIGHT, BIAS)
    assert values == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert metrics.label_sets(labels[order]).of_sample[order >= 40].tolist() == [-1] * len(rows)
    logits = features @ WEIGHT.T + BIAS
    for name in ("soft_iou", "jaccard", "subset_accuracy"):
        assert float(getattr(metrics, name)(logits, labels)) == pytest.approx(expected[name], rel=1e-6), name
        assert getattr(metrics, name)(logits[40:], labels[40:]).isnan(), name


def test_one_sample_a_class():
    values = metrics.measure(torch.eye(3), torch.arange(3), torch.eye(3))
    assert values["nc1"] == values["nc1_cdnv"] == values["nc4"] == 0
    assert values["nuclear_over_frobenius"] == 1


def test_a_weight_of_zeros_gives_nan_and_no_right_answer():
    values = metrics.measure(FEATURES, LABELS, torch.zeros_like(WEIGHT))
    assert values["nc2_w"] != values["nc2_w"]
    assert values["top1"] == values["subset_accuracy"] == 0
    assert values["soft_iou"] == pytest.approx((LABELS.sum(dim=1) / 4).mean().item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_dtypes_are_computed_in_float32(dtype):
    narrow = FEATURES.to(dtype), LABELS, WEIGHT.to(dtype), BIAS.to(dtype)
    wide = metrics.measure(*(array if array.dtype == torch.uint8 else array.double() for array in narrow))
    assert metrics.measure(*narrow) == pytest.approx(wide, rel=1e-4, abs=1e-6)
    assert metrics.nc1(narrow[0], LABELS).dtype == torch.float32
    assert metrics.class_means(narrow[0], LABELS).dtype == torch.float32


def test_autocast_changes_nothing():
    features, weight = FEATURES.float(), WEIGHT.float()
    functions = (metrics.nc2_w, metrics.nc2_w_centered, metrics.equiangle_w, metrics.equinorm_w, metrics.cosine_gram)
    expected = metrics.measure(features, LABELS, weight), [function(weight) for function in functions]
    with torch.autocast("cpu", torch.bfloat16):
        assert metrics.measure(features, LABELS, weight) == expected[0]
        found = [function(weight) for function in functions]
    assert all(value.dtype == torch.float32 for value in found)
    assert all(map(torch.equal, found, expected[1]))


def test_projections_without_onednn_are_left_alone_by_autocast(monkeypatch):
    """As on a GPU."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    rows, directions = FEATURES.float(), WEIGHT.float()
    expected = rows @ directions.T
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(project(rows, directions), expected)


def test_inputs_that_track_gradients():
    features, weight = FEATURES.clone().requires_grad_(), torch.nn.Parameter(WEIGHT)
    assert metrics.measure(features, LABELS, weight, BIAS) == metrics.measure(FEATURES, LABELS, WEIGHT, BIAS)
    for name in ("nc1", "nc1_cdnv", "nuclear_over_frobenius", "class_means"):
        assert not getattr(metrics, name)(features, LABELS).requires_grad, name


def test_results_repeat_to_the_last_bit():
    features, labels, weight, bias = draw(n=3000, d=32, k=5, max_labels=2, seed=1, dtype=torch.float32)
    assert metrics.measure(features, labels, weight, bias) == metrics.measure(features, labels, weight, bias)


def test_label_sets_of_many_labels_and_classes():
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(40, 300, generator=generator) < 0.3
    sets = metrics.label_sets(rows[torch.arange(120) % 40])
    assert len(sets.counts) == 40
    assert set(sets.counts.tolist()) == {3}
    assert torch.equal(sets.members[sets.of_sample], rows[torch.arange(120) % 40])
    assert torch.equal((sets.slots >= 0).sum(dim=1), sets.multiplicity)


def test_top_k_accuracy_leaves_out_samples_without_a_class():
    logits, labels = torch.tensor([[3.0, 2, 1], [1, 2, 3], [3, 2, 1]]), torch.tensor([0, -1, 2])
    assert metrics.top_k_accuracy(logits, labels) == 0.5
    assert metrics.top_k_accuracy(logits, labels) == metrics.subset_accuracy(logits, labels)


def test_predictions_count_ties_and_nan_as_wrong():
    ties, labels = torch.zeros(3, 4), torch.tensor([0, 1, 2])
    assert float(metrics.subset_accuracy(ties, labels)) == float(metrics.jaccard(ties, labels)) == 0
    assert float(metrics.top_k_accuracy(ties, labels, top_k=4)) == 1
    assert float(metrics.top_k_accuracy(ties * torch.nan, labels, top_k=3)) == 0


@pytest.mark.parametrize("num_slots", [1, 8, 12])
def test_ranks_of_labels(num_slots):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 12, generator=generator).round()  # with ties
    logits[:20] = logits[:20].where(torch.rand(20, 12, generator=generator) < 0.8, torch.nan)
    logits[20:30, :2] = torch.inf
    logits[30:40, 3:5] = -torch.inf
    slots = torch.rand(50, 12, generator=generator).argsort(dim=1)[:, :num_slots]
    own = logits.gather(1, slots).unsqueeze(2)
    assert torch.equal(label_ranks(logits, slots), 11 - (logits.unsqueeze(1) < own).sum(dim=2))


def test_predictions_take_ids_and_one_hot_labels_alike():
    generator = torch.Generator().manual_seed(0)
    logits, ids = torch.randn(50, 5, generator=generator), torch.randint(5, (50,), generator=generator)
    one_hot = torch.eye(5, dtype=torch.uint8)[ids]
    for metric in (metrics.soft_iou, metrics.jaccard, metrics.subset_accuracy):
        assert float(metric(logits, ids)) == float(metric(logits, one_hot))
    assert float(metrics.subset_accuracy(logits, ids)) == float((logits.argmax(dim=1) == ids).float().mean())


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")  # torch 2.11
@pytest.mark.parametrize("max_labels", [1, 2])
def test_measure_allocates_at_most_its_input(max_labels):
    n, d, k = 20_000, 256, 10
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(n, k, dtype=torch.uint8)
    for _ in range(max_labels):
        labels[torch.arange(n), torch.randint(k, (n,), generator=generator)] = 1
    features = torch.randn(n, d, generator=generator)
    peak = _peak_bytes(lambda: metrics.measure(features, labels, torch.ones(k, d).tril()))
    assert peak < 1.3 * features.nbytes
    # and blocks of a fixed size beyond a few numbers a sample
    assert metrics.nuclear_over_frobenius(features, labels) > 1
    assert _peak_bytes(lambda: metrics.nc1(features, labels)) < 0.6 * features.nbytes


class LargestTensor(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation gives."""

    nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self.nbytes = max(self.nbytes, value.nbytes)
        return result


def test_a_vocabulary_of_classes_needs_no_square_of_it(monkeypatch):
    k, d = 2100, 8
    monkeypatch.setattr(rows, "TILE", 128)
    monkeypatch.setitem(metrics.statistics.BLOCK_BYTES, "cpu", 1 << 18)
    generator = torch.Generator().manual_seed(0)
    features, weight = torch.randn(k, d, generator=generator), torch.randn(k, d, generator=generator)
    labels, stream = torch.arange(k), metrics.CollapseMetrics(k, d)
    with LargestTensor() as largest:
        for part in torch.arange(k).split(700):
            stream.update(features[part], labels[part])
        stream.compute(weight)
        metrics.measure(features, labels, weight, nuclear_norm=False)
        metrics.nc4(features, labels, weight, class_means=weight)
    assert 8 * k * d <= largest.nbytes < k * k / 8  # not even bits


@pytest.mark.parametrize("multi_hot", [False, True])
def test_absent_classes_are_left_out_of_everything(multi_hot):
    features, labels, weight, bias = draw(n=60, d=6, k=4, max_labels=2 if multi_hot else 1, seed=3)
    kept = torch.tensor([1, 2, 4, 6])
    wide_weight, wide_bias = (torch.full((8, *a.shape[1:]), 9.0).double() for a in (weight, bias))
    wide_weight[kept], wide_bias[kept] = weight, bias
    wide_labels = torch.zeros(60, 8, dtype=torch.uint8)
    wide_labels[:, kept] = labels
    if not multi_hot:
        labels, wide_labels = labels.argmax(dim=1), wide_labels.argmax(dim=1)
    logits, wide_logits = features @ weight.T, features @ wide_weight.T
    expected = metrics.measure(features, labels, weight, bias, logits=logits) | {"num_classes_present": 4}
    found = metrics.measure(features, wide_labels, wide_weight, wide_bias, logits=wide_logits, classes="present")
    assert found == expected
    stream = metrics.CollapseMetrics(8, 6, classes="present")
    for part in torch.arange(60).split(7):
        stream.update(features[part], wide_labels[part])
    streamed = {name: float(value) for name, value in stream.compute(wide_weight, wide_bias).items()}
    assert {"nc1", "nc3", "gnc2_w", "num_classes_present"} <= set(streamed)
    assert streamed == pytest.approx({name: expected[name] for name in streamed}, rel=1e-9, abs=1e-9)
    with pytest.raises(ValueError, match=r"classes \[0, 3, 5, 7\] of 8 have none"):
        metrics.measure(features, wide_labels, wide_weight)


def test_classes_that_cannot_be_left_out():
    labels = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]])
    with pytest.raises(ValueError, match=r"every class, but classes \[3\] of 3 have none"):
        metrics.measure(torch.eye(3), labels, torch.eye(4, 3), classes="present")
    with pytest.raises(ValueError, match="Expected at least 2 classes with samples, but got 1"):
        metrics.measure(torch.eye(3), torch.ones(3).long(), torch.eye(4, 3), classes="present")
    with pytest.raises(ValueError, match="Expected classes 'all' or 'present', but got 'some'"):
        metrics.CollapseMetrics(4, 6, classes="some")


def _peak_bytes(function):
    """Most memory of tensors at a time that the call allocates, by the profiler's record of every allocation."""
    gc.collect()
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    current = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            current += event.nbytes()
            peak = max(peak, current)
    assert peak > 0
    return peak


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'nc9'"):
        _ = metrics.nc9
