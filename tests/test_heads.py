"""Simplex ETF heads."""

import math

import pytest
import torch
from torch import nn

from nclib.heads import ETFHead, simplex_etf


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("k", "d"), [(2, 1), (2, 5), (3, 2), (10, 9), (10, 10), (10, 64), (100, 99)])
@pytest.mark.parametrize("rotated", [False, True])
def test_rows_are_unit_centered_and_equiangular(k, d, rotated):
    generator = torch.Generator().manual_seed(0) if rotated else None
    etf = simplex_etf(k, d, generator=generator)
    assert etf.shape == (k, d)
    expected = (torch.eye(k) - 1 / k) * k / (k - 1)
    torch.testing.assert_close(etf @ etf.T, expected, atol=1e-14, rtol=0)
    torch.testing.assert_close(etf.sum(dim=0), torch.zeros(d), atol=1e-13, rtol=0)


def test_at_d_equal_k_it_is_the_papers_matrix():
    expected = math.sqrt(6 / 5) * (torch.eye(6) - torch.ones(6, 6) / 6)
    torch.testing.assert_close(simplex_etf(6, 6), expected, atol=1e-15, rtol=0)


def test_rotation_is_applied_to_the_rows():
    rotation = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(1)))[0]
    torch.testing.assert_close(simplex_etf(4, 7, rotation=rotation), simplex_etf(4, 7) @ rotation.T)


def test_the_generator_alone_decides_the_rotation():
    first, again, other = (simplex_etf(4, 7, generator=torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    state = torch.get_rng_state()
    simplex_etf(4, 7, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), state)


def test_dtype_follows_the_default_or_the_rotation():
    assert simplex_etf(3, 4).dtype == torch.float64
    torch.set_default_dtype(torch.float32)
    assert simplex_etf(3, 4).dtype == torch.float32
    assert simplex_etf(3, 4, rotation=torch.eye(4, dtype=torch.float64)).dtype == torch.float64


def test_invalid_frames():
    with pytest.raises(ValueError, match="Expected feature_dim >= num_classes - 1 = 9, but got 5"):
        simplex_etf(10, 5)
    with pytest.raises(ValueError, match="Expected num_classes >= 2, but got 1"):
        simplex_etf(1, 5)
    with pytest.raises(ValueError, match="Expected either rotation or generator"):
        simplex_etf(3, 4, rotation=torch.eye(4), generator=torch.Generator())
    with pytest.raises(ValueError, match=r"Expected a rotation of shape \(4, 4\), but got \(3, 3\)"):
        simplex_etf(3, 4, rotation=torch.eye(3))


def test_head_is_a_linear_layer_whose_weight_is_no_parameter():
    head = ETFHead(8, 4)
    assert {name for name, _ in head.named_parameters()} == {"bias"}
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    head.bias.data = torch.arange(4.0)
    linear = nn.Linear(8, 4)
    linear.load_state_dict(head.state_dict())
    torch.testing.assert_close(head(x), linear(x))
    assert head(x[0]).shape == (4,)
    assert ETFHead(8, 4, bias=False).bias is None
    assert repr(head) == "ETFHead(8, 4, bias=True)"


def test_state_dict_carries_a_rotated_weight():
    saved = ETFHead(8, 4, generator=torch.Generator().manual_seed(0))
    loaded = ETFHead(8, 4)
    assert not torch.allclose(loaded.weight, saved.weight)
    loaded.load_state_dict(saved.state_dict())
    assert torch.equal(loaded.weight, saved.weight)


def test_training_moves_features_and_bias_but_not_the_weight():
    head = ETFHead(3, 4)
    before = head.weight.clone()
    features = torch.zeros(4, 3, requires_grad=True)
    optimizer = torch.optim.SGD([features, *head.parameters()], lr=1.0, weight_decay=0.1)
    nn.functional.cross_entropy(head(features), torch.tensor([0, 1, 2, 2])).backward()
    optimizer.step()
    assert torch.equal(head.weight, before)
    assert features.detach().abs().sum() > 0
    assert head.bias.detach().abs().sum() > 0
