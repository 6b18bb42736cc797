"""Decoding: label sets from the geometry, from a threshold and from the true number of labels."""

import itertools

import pytest
import torch

from nclib import decode, metrics
from nclib.heads import simplex_etf
from nclib.metrics import collapse_statistics
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
    # a multiplicity that training has not shown is a plain mean
    means = collapse_statistics(features[seen], labels[seen]).class_means
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
        return float(decode.set_jaccard(decode.threshold_softmax(logits, threshold), labels))

    tuned = decode.tune_threshold(logits, labels)
    assert 0 < tuned < 1
    assert score(tuned) >= max(score(t / 500) for t in range(500)) - 2e-3


@pytest.mark.parametrize("seed", range(4))
def test_the_tuned_threshold_equals_a_search_that_predicts_every_set(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = all_sets(5, 2).repeat(10, 1)
    labels[0] = False  # a sample without labels is left out
    logits = 3 * labels.float() + 1.5 * torch.randn(labels.shape, generator=generator)
    logits = (2 * logits).round() / 2 if seed % 2 else logits  # with ties
    values = torch.softmax(logits, dim=1).flatten()
    values = values[values > 1e-3].sort().values
    candidates = values[torch.linspace(0, len(values) - 1, decode.NUM_THRESHOLDS).round().long()].unique()
    scores = torch.stack([decode.set_jaccard(decode.threshold_softmax(logits, t), labels) for t in candidates.tolist()])
    best = candidates[scores == scores.max()]
    assert decode.tune_threshold(logits, labels) == best[len(best) // 2].item()


def test_candidates_from_more_probabilities_than_float32_can_count():
    assert decode._quantiles(torch.full((1,), 0.1).expand(2**24 + 4)).tolist() == pytest.approx([0.1])


def test_scores_of_sets():
    predicted = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0]]).bool()
    labels = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    assert float(decode.set_jaccard(predicted, labels)) == pytest.approx((1 / 3 + 1) / 2)
    assert float(decode.set_subset_accuracy(predicted, labels)) == 0.5
    assert float(decode.set_jaccard(predicted, torch.ones(3, 3))) == pytest.approx((2 / 3 + 1 / 3) / 3)
    assert float(decode.set_subset_accuracy(predicted[:2], torch.tensor([0, 1]))) == 0.5


def test_sets_of_top_m_score_as_their_logits():
    features, labels, weight, _ = draw(n=90, d=7, k=12, max_labels=9, seed=1)
    logits = features @ weight.T
    predicted = decode.top_m(logits, labels.sum(dim=1))
    assert float(decode.set_jaccard(predicted, labels)) == pytest.approx(float(metrics.jaccard(logits, labels)))
    accuracy = metrics.subset_accuracy(logits, labels)
    assert float(decode.set_subset_accuracy(predicted, labels)) == pytest.approx(float(accuracy))
    assert 0 < float(accuracy) < 1


def test_prototypes_of_class_ids():
    features, labels = collapsed(max_labels=1)
    expected = decode.tag_averages(features, labels, max_labels=2)
    statistics = collapse_statistics(features, labels.long().argmax(dim=1))
    assert torch.equal(decode.averages_of_sets(statistics, max_labels=2).means, expected.means)


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
