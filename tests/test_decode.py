"""Decoding: label sets from the geometry, from a threshold and from the true number of labels."""

import itertools

import pytest
import torch

from nclib import decode
from nclib.heads import simplex_etf
from tests.test_metrics_values import draw


def all_sets(k, max_labels):
    sets = [s for m in range(1, max_labels + 1) for s in itertools.combinations(range(k), m)]
    return torch.stack([torch.isin(torch.arange(k), torch.tensor(s)) for s in sets])


def collapsed(k=6, d=8, *, max_labels=3, noise=0.0):
    labels = all_sets(k, max_labels).repeat(3, 1)
    scales = torch.tensor([2.0, 1.1, 0.8])[labels.sum(dim=1) - 1]
    features = scales.unsqueeze(1) * (labels.float() @ simplex_etf(k, d))
    generator = torch.Generator().manual_seed(0)
    return features + noise * torch.randn(features.shape, generator=generator) + 5, labels


@pytest.mark.parametrize("max_labels", [None, 3])
def test_collapsed_features_are_decoded_without_error(max_labels):
    features, labels = collapsed()
    prototypes = decode.tag_averages(features - 5, labels, max_labels=max_labels)
    assert torch.equal(decode.nearest_tag_average(features - 5, prototypes), labels)


def test_nearest_prototype_by_exhaustive_search():
    features, labels, _, _ = draw(n=90, d=7, k=4, max_labels=3, seed=0, dtype=torch.float32)
    prototypes = decode.tag_averages(features, labels)
    distances = torch.stack([(features.double() - p).square().sum(dim=1) for p in prototypes.means], dim=1)
    expected = prototypes.candidates[distances.argmin(dim=1)]
    assert torch.equal(decode.nearest_tag_average(features, prototypes), expected)


def test_blocks_and_half_precision_change_nothing(monkeypatch):
    features, labels = collapsed(noise=0.2)
    prototypes = decode.tag_averages(features, labels)
    expected = decode.nearest_tag_average(features.half(), prototypes)
    monkeypatch.setattr(decode, "DISTANCE_BLOCK", 3 * len(prototypes.means) + 1)
    assert torch.equal(decode.nearest_tag_average(features.half(), prototypes), expected)


def test_candidates_are_the_sets_seen_or_all_sets():
    features, labels = collapsed()
    seen = labels.sum(dim=1) != 3
    prototypes = decode.tag_averages(features[seen], labels[seen])
    assert torch.equal(prototypes.candidates[:6], torch.eye(6, dtype=torch.bool))
    assert set(prototypes.candidates.sum(dim=1).tolist()) == {1, 2}
    every = decode.tag_averages(features[seen], labels[seen], max_labels=4)
    assert len(every.candidates) == 6 + 15 + 20 + 15
    assert len(every.candidates.unique(dim=0)) == len(every.candidates)
    # a multiplicity that training has not shown is a plain average
    means = decode.collapse_statistics(features[seen], labels[seen]).class_means
    triples = every.candidates.sum(dim=1) == 3
    expected = every.candidates[triples].double() @ means / 3
    torch.testing.assert_close(every.means[triples], expected)


def test_top_m_takes_one_number_or_one_for_each_sample():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]])
    assert decode.top_m(logits, 1).tolist() == [[True, False, False], [False, True, False]]
    assert decode.top_m(logits, torch.tensor([2, 3])).sum(dim=1).tolist() == [2, 3]
    assert decode.top_m(logits, 0).sum() == 0


def test_threshold_always_names_a_class():
    logits = torch.tensor([[2.0, 2.0, -9.0], [0.0, 0.1, 0.0]])
    assert decode.threshold_softmax(logits, 0.4).tolist() == [[True, True, False], [False, True, False]]
    assert decode.threshold_softmax(logits, 1.0).any(dim=1).all()


def test_the_tuned_threshold_is_the_best_of_a_fine_grid():
    generator = torch.Generator().manual_seed(0)
    labels = all_sets(5, 2).repeat(20, 1)
    logits = 4 * labels.float() + 1.5 * torch.randn(labels.shape, generator=generator)

    def score(threshold):
        return float(decode.jaccard(decode.threshold_softmax(logits, threshold), labels))

    tuned = decode.tune_threshold(logits, labels)
    assert 0 < tuned < 1
    assert score(tuned) >= max(score(t / 500) for t in range(500)) - 2e-3


def test_scores_of_sets():
    predicted = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0]]).bool()
    labels = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    assert float(decode.jaccard(predicted, labels)) == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert float(decode.subset_accuracy(predicted, labels)) == pytest.approx(2 / 3)
    assert float(decode.subset_accuracy(predicted[:2], torch.tensor([0, 1]))) == 0.5


def test_invalid_candidates_and_features():
    features, labels = collapsed()
    with pytest.raises(ValueError, match=r"Expected max_labels in 1..6, but got 7"):
        decode.tag_averages(features, labels, max_labels=7)
    prototypes = decode.tag_averages(features, labels)
    with pytest.raises(ValueError, match=r"Expected features \(n, 8\), but got \(1, 3\)"):
        decode.nearest_tag_average(torch.zeros(1, 3), prototypes)


def test_too_many_candidates(monkeypatch):
    monkeypatch.setattr(decode, "MAX_CANDIDATES", 20)
    features, labels = collapsed()
    with pytest.raises(ValueError, match=r"Expected at most 2e[+]01 candidate label sets, but max_labels = 2 of 6"):
        decode.tag_averages(features, labels, max_labels=2)
