"""Collapse during a training, which must not notice: plain loop, Lightning, Hugging Face's Trainer."""

import random

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from nclib.monitor import CollapseMonitor

LABELS = torch.arange(24) % 3
IMAGES = torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(0)) + LABELS.view(-1, 1, 1, 1)


class Augmented(Dataset):
    """Adds noise from the global generator."""

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        return IMAGES[index] + 0.1 * torch.randn(1, 4, 4), LABELS[index]


def network():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(8)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), norm, nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def traces(model):
    """All that a training leaves: parameters, batch-norm statistics, modes, random state."""
    modes = torch.tensor([module.training for module in model.modules()])
    return [*model.state_dict().values(), modes, torch.get_rng_state()]


def same(model, other):
    return all(torch.equal(a, b) for a, b in zip(traces(model), other, strict=True))


def train(monitored):
    model = network()
    model[2].eval()  # a frozen batch norm
    loader = DataLoader(Augmented(), batch_size=8, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    monitor = CollapseMonitor(model, loader, test=loader, every_steps=2, every_epochs=1, layers=["1"])
    for _ in range(2):
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            if monitored:
                monitor.step()
        if monitored:
            monitor.epoch()
    return monitor, traces(model)


def test_a_plain_loop_goes_on_as_without_it():
    torch.manual_seed(0)
    monitor, left = train(monitored=True)
    assert same(monitor.model, left)
    assert [(row["step"], row["epoch"]) for row in monitor.history] == [(2, 0), (3, 1 - 1 + 1), (4, 1), (6, 1), (6, 2)]
    _, without = train(monitored=False)
    assert all(torch.equal(a, b) for a, b in zip(left, without, strict=True))
