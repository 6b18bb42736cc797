"""Collapse during a training, which must not notice: plain loop, Lightning, Hugging Face's Trainer."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from nclib.monitor import CollapseMonitor

LABELS = torch.arange(24) % 3
IMAGES = torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(0)) + LABELS.view(-1, 1, 1, 1)


class Augmented(Dataset):
    """Adds noise from the global generator."""

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        return IMAGES[index] + 0.1 * torch.randn(1, 4, 4), LABELS[index]


def loader():
    return DataLoader(Augmented(), batch_size=8, shuffle=True)


def network():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(8)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), norm, nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def same(model, other):
    """All that a training leaves: parameters, batch-norm statistics, modes."""
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    modes = [[module.training for module in one.modules()] for one in (model, other)]
    return all(torch.equal(a, b) for a, b in pairs) and modes[0] == modes[1]


def test_a_plain_loop_goes_on_as_without_it():
    def train(**options):
        model, data = network(), loader()
        model[2].eval()  # a frozen batch norm
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        monitor = CollapseMonitor(model, data, test=data, layers=["1"], **options)
        for _ in range(2):
            for images, labels in data:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
                monitor.step()
            monitor.epoch()
        return monitor, torch.get_rng_state()

    logged = []
    monitor, state = train(every_steps=2, log=lambda values, step: logged.append((step, values)))
    plain, state_without = train(every_epochs=100)
    assert same(monitor.model, plain.model)
    assert torch.equal(state, state_without)
    assert [row["step"] for row in monitor.history] == [step for step, _ in logged] == [2, 4, 6]
    assert logged[-1][1]["collapse/nc1"] == monitor.last.scalars["nc1"] == monitor.history[-1]["nc1"]
    assert logged[-1][1]["collapse/1/nc1"] == monitor.last.layers["1"]["nc1"]
    assert [row["epoch"] for row in train(every_epochs=2)[0].history] == [2]


def test_a_training_that_fails_is_not_stopped_by_its_monitor():
    model = network()
    with pytest.raises(ValueError, match=r"name of a submodule"):
        CollapseMonitor(model, loader(), every_steps=1, head="fc").step()
    monitor = CollapseMonitor(model, loader(), every_steps=1)
    monitor.step()
    nn.init.constant_(model[1].bias, math.nan)
    with pytest.warns(UserWarning, match=r"not measured at step 2: Expected finite features"):
        monitor.step()
    assert len(monitor.history) == 1


def test_settings_that_do_not_fit():
    for every in ({}, {"every_steps": 0}):
        with pytest.raises(ValueError, match="Expected every_steps or every_epochs >= 1"):
            CollapseMonitor(network(), loader(), **every)
    with pytest.raises(ValueError, match=r"Expected a logger with add_scalar .* but got 3"):
        CollapseMonitor(network(), loader(), every_steps=1, log=3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lightning_goes_on_as_without_it(tmp_path):
    import lightning
    from lightning.pytorch.loggers import CSVLogger
    from torch.utils.tensorboard import SummaryWriter

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network()

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01)

    def train(logger=False, **options):
        module, data = Module(), loader()
        monitor = CollapseMonitor(module.network, data, **options)
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = lightning.Trainer(
            max_epochs=2, accelerator="cpu", callbacks=[monitor.lightning()], logger=logger, **quiet
        )
        trainer.fit(module, data)
        return monitor, torch.get_rng_state()

    csv, board = CSVLogger(tmp_path), SummaryWriter(tmp_path / "board")
    monitor, state = train(csv, every_steps=2, every_epochs=2, log=board)
    plain, state_without = train(every_epochs=100)
    assert same(monitor.model, plain.model)
    assert torch.equal(state, state_without)
    assert [(row["step"], row["epoch"]) for row in monitor.history] == [(2, 0), (4, 1), (6, 1), (6, 2)]
    csv.finalize("success")
    assert "collapse/nc1" in (tmp_path / "lightning_logs/version_0/metrics.csv").read_text()
    board.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "board")).Reload().Scalars("collapse/nc1")
    assert [event.step for event in events] == [2, 4, 6, 6]
    assert events[-1].value == pytest.approx(monitor.last.scalars["nc1"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_hugging_face_goes_on_as_without_it(tmp_path):
    """A real vision transformer: batches are mappings, outputs dataclasses."""
    from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

    class Mappings(Augmented):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return {"pixel_values": image, "labels": label}

    shape = {"image_size": 4, "patch_size": 2, "num_channels": 1}
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}

    def train(**options):
        torch.manual_seed(0)
        model = ViTForImageClassification(ViTConfig(**shape, **size, num_labels=3))
        arguments = TrainingArguments(
            tmp_path, max_steps=6, per_device_train_batch_size=8, report_to=[], save_strategy="no", use_cpu=True
        )
        trainer = Trainer(model, arguments, train_dataset=Mappings())
        monitor = CollapseMonitor(model, trainer.get_train_dataloader(), layers=["vit.layers.0"], **options)
        trainer.add_callback(monitor.hugging_face(trainer))
        trainer.train()
        return monitor, trainer.state.log_history, torch.get_rng_state()

    monitor, history, state = train(every_steps=2, every_epochs=2)
    plain, _, state_without = train(every_epochs=100)
    assert same(monitor.model, plain.model)
    assert torch.equal(state, state_without)
    assert [(row["step"], row["epoch"]) for row in monitor.history] == [(2, 0), (4, 1), (6, 1), (6, 2)]
    logged = [entry for entry in history if "collapse/nc1" in entry]
    assert [entry["step"] for entry in logged] == [2, 4, 6, 6]
    assert logged[-1]["collapse/nc1"] == monitor.last.scalars["nc1"]
