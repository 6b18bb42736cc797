"""The training loop: resumable bit for bit, one path for every setting, errors that help."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from nclib.data import batches, dataset
from nclib.data.tensors import load_tensors
from nclib.models import build_model
from nclib.study.files import StageError
from nclib.study.parameters import Model, Training
from nclib.study.registry import LOSSES
from nclib.training import loop as train
from nclib.training.device import choose_precision, place
from nclib.training.progress import TrainingProgress
from nclib.training.resume import Unfinished
from tests.small_project import wait_for

SETTINGS = {"epochs": 3, "batch_size": 32, "checkpoint_every": 2, "feature_decay": 1e-6, "lr": 0.05}
SMALL = Model(arch="resnet18", width=2)


class Quiet(TrainingProgress):
    """A progress that says nothing, but may stop the training as an interrupt would."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.begun_with: list[dict] = []

    def start(self, steps_per_epoch, history):
        self.begun_with = list(history)

    def step(self):
        pass

    def epoch(self, row):
        if row["epoch"] == self.stop_after:
            raise KeyboardInterrupt

    def close(self):
        pass


@pytest.fixture(scope="module")
def splits():
    return dataset.build(source="digits", layout="mnist", train_counts={1: 6, 2: 1}, test_counts={1: 3, 2: 1})


@pytest.fixture(scope="module")
def images():
    """Single-label data."""
    return dataset.build(source="digits", sample_size=6)


def run(splits, folder, *, seed=0, model=SMALL, progress=None, identity="m", code=None, **changes):
    settings = Training(**(SETTINGS | changes))
    trainer = train.Trainer(train.build_network(model, splits, seed=seed), settings, seed=seed)
    train_batches, test_batches = batches.of_splits(splits, settings, trainer.device)
    with Unfinished(folder, {"identity": identity, **changes}, code) as unfinished:
        history = train.fit(trainer, train_batches, test_batches, unfinished, progress=progress or Quiet())
        unfinished.publish()
    return history


def weights(folder, epoch=3):
    return load_tensors(folder / "checkpoints" / f"epoch_{epoch:04d}.safetensors", stage="02_train")[0]


def same(first, second) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_one_seed_is_one_result_and_another_seed_another(splits, tmp_path):
    first, second, other = (run(splits, tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    pd.testing.assert_frame_equal(first.drop(columns="seconds"), second.drop(columns="seconds"), check_exact=True)
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))
    assert not first["train_loss"].equals(other["train_loss"])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lbfgs", "sdlbfgs"])
def test_interrupted_training_goes_on_as_if_nothing_had_been(splits, tmp_path, optimizer):
    changes = {"optimizer": optimizer, "lr": 0.01, "augment": True, "batch_size": 64}
    whole = run(splits, tmp_path / "whole", **changes)
    with pytest.raises(KeyboardInterrupt):
        run(splits, tmp_path / "cut", progress=Quiet(stop_after=2), **changes)
    assert not (tmp_path / "cut/checkpoints").exists(), "results appear when they are complete"
    again = Quiet()
    cut = run(splits, tmp_path / "cut", progress=again, **changes)
    assert [row["epoch"] for row in again.begun_with] == [1, 2]
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    pd.testing.assert_frame_equal(whole.drop(columns="seconds"), cut.drop(columns="seconds"), check_exact=True)


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_train as t
splits = t.dataset.build(source="digits", layout="mnist", train_counts={{1: 6, 2: 1}}, test_counts={{1: 3, 2: 1}})
t.torch.set_num_threads(int(sys.argv[2]))
t.run(splits, Path(sys.argv[1]), epochs=8)
"""


def test_kill_9_in_training_costs_nothing(splits, tmp_path):
    """A real process that is killed leaves what ends with the weights of a training that was left alone."""
    code, threads = CHILD.format(tests=str(Path(__file__).parent)), str(torch.get_num_threads())
    run(splits, tmp_path / "whole", epochs=8)
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path / "cut", threads])
    wait_for(lambda: process.poll() is not None or list(tmp_path.glob("cut/unfinished/*/training.json")), 100)
    time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    again = Quiet()
    run(splits, tmp_path / "cut", epochs=8, progress=again)
    assert again.begun_with
    for epoch in (0, 2, 8):
        assert same(weights(tmp_path / "whole", epoch), weights(tmp_path / "cut", epoch))


def test_state_of_other_settings_is_neither_resumed_nor_lost(splits, tmp_path, capsys):
    """As when a login node without a GPU takes up what a GPU has begun."""
    for identity in ("gpu", "cpu"):
        with pytest.raises(KeyboardInterrupt):
            run(splits, tmp_path, progress=(begun := Quiet(stop_after=2)), identity=identity)
        assert begun.begun_with == []
    assert "this one starts from the beginning, and that one is kept" in capsys.readouterr().out
    again = Quiet()
    run(splits, tmp_path, progress=again, identity="gpu")
    assert [row["epoch"] for row in again.begun_with] == [1, 2]


def test_changed_code_starts_anew_unless_it_is_kept(splits, tmp_path, monkeypatch):
    for code in ({"nclib.losses": "1"}, {"nclib.losses": "2"}):
        with pytest.raises(KeyboardInterrupt):
            run(splits, tmp_path, progress=(begun := Quiet(stop_after=1)), code=code)
        assert begun.begun_with == [], "the code is another"
    monkeypatch.setenv("NCLIB_KEEP_CODE", "1")
    again = Unfinished(tmp_path, {"identity": "m"}, {"nclib.losses": "3"})
    trainer = train.Trainer(train.build_network(SMALL, splits, seed=0), Training(**SETTINGS), seed=0)
    assert again.resume(trainer.model, trainer.optimizer)
    assert [sitting["code"]["nclib.losses"] for sitting in again.sittings] == ["2", "3"]
    again.remove()
    assert not (tmp_path / "unfinished").exists()


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage"),
    [("state_0002", flip), ("state_0002", Path.unlink), ("checkpoints/epoch_0000", Path.unlink), ("", Path.unlink)],
)
def test_damaged_or_lost_files_of_an_unfinished_training_are_named(splits, tmp_path, file, damage):
    with pytest.raises(KeyboardInterrupt):
        run(splits, tmp_path, progress=Quiet(stop_after=2))
    (folder,) = (tmp_path / "unfinished").iterdir()
    if file:
        damage(folder / f"{file}.safetensors")
    else:
        (folder / "training.json").write_text('{"history": []}')
    with pytest.raises(StageError, match=r"of an unfinished training is .*delete .* and run stage 02_train again"):
        run(splits, tmp_path)


def test_failed_training_leaves_the_earlier_results(splits, tmp_path):
    run(splits, tmp_path)
    before = weights(tmp_path)
    with pytest.raises(StageError, match=r"The loss became .* in epoch 1.*lower training\.lr \(now 1000\)"):
        run(splits, tmp_path, lr=1000.0, loss="mse")
    assert same(before, weights(tmp_path))


def test_full_disk_is_said(splits, small_disk):
    with pytest.raises(StageError, match=r"Cannot write .*: No space left on device; free some space"):
        run(splits, small_disk, model=Model(arch="resnet18", width=16))
    assert not list(small_disk.rglob("*.safetensors")), "nothing half-written"


@pytest.mark.parametrize(
    ("loss", "label_mean"),
    [(loss, mean) for loss, known in LOSSES.items() for mean in (True, False) if mean or not known.is_multi_hot],
)
def test_every_loss_falls(splits, tmp_path, loss, label_mean):
    history = run(splits, tmp_path, loss=loss, label_mean=label_mean, epochs=6, optimizer="adam", lr=3e-3)
    assert history["train_loss"].iloc[-1] < 0.95 * history["train_loss"].iloc[0]


def test_single_label_data_take_the_same_path(images, tmp_path):
    history = run(
        images, tmp_path, loss="mse", decay_on="features", schedule="step", epochs=12, optimizer="adam", lr=0.01
    )
    assert history["train_accuracy"].iloc[-1] > 0.5
    assert history["train_accuracy"].equals(history["train_accuracy"].clip(0, 1))


def test_epochs_differ_in_their_order_but_not_between_runs(splits):
    settings = Training(**SETTINGS)
    loader, _ = batches.of_splits(splits, settings, torch.device("cpu"))
    orders = [[y for _, y in loader.shuffled(torch.Generator().manual_seed(s))] for s in (1, 1, 2)]
    assert all(torch.equal(a, b) for a, b in zip(orders[0], orders[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(orders[0], orders[2], strict=True))
    assert torch.equal(torch.cat(orders[0]).sum(0), splits.train.labels.sum(0))


def test_batches_hold_normalized_images(splits):
    images, labels = splits.train.images, splits.train.labels
    made = batches.DeviceBatches(images, labels, mean=[0.5], std=[0.25], device=torch.device("cpu"), batch_size=50)
    normalized = torch.cat([x for x, _ in made.ordered()])
    torch.testing.assert_close(normalized, (images.float() / 255 - 0.5) / 0.25)
    assert normalized.dtype == torch.float32


@pytest.mark.parametrize(("size", "sizes"), [(104, [104, 1]), (52, [52, 53]), (105, [105]), (200, [105])])
def test_no_batch_has_one_sample(splits, size, sizes):
    made = batches.DeviceBatches(
        splits.train.images, splits.train.labels, mean=[0.0], std=[1.0], device=torch.device("cpu"), batch_size=size
    )
    expected = [105] if sizes == [104, 1] else sizes
    assert [len(y) for _, y in made.ordered()] == expected
    assert len(made) == len(expected)


@pytest.mark.parametrize(
    "setting, has_it, dtype",
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("float32", True, torch.float32),
        ("bfloat16", False, torch.bfloat16),
    ],
)
def test_auto_precision_is_bfloat16_where_the_processor_computes_in_it(monkeypatch, setting, has_it, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": has_it})
    assert choose_precision(setting, torch.device("cpu")) == dtype
    by_search = choose_precision(setting, torch.device("cpu"), optimizer="lbfgs")
    assert by_search == (torch.float32 if setting == "auto" else dtype)


def test_bfloat16_keeps_head_and_loss_in_float32(splits):
    settings = Training(**SETTINGS | {"precision": "bfloat16"})
    trainer = train.Trainer(train.build_network(SMALL, splits, seed=0), settings, seed=0)
    loader, _ = batches.of_splits(splits, settings, trainer.device)
    images, labels = next(loader.ordered())
    seen = {}
    trainer.model.backbone.conv1.register_forward_hook(lambda module, inputs, output: seen.update(conv=output.dtype))
    loss, decay, logits = trainer.objective(images, labels)
    assert (loss.dtype, decay.dtype, logits.dtype) == (torch.float32,) * 3
    assert seen["conv"] == torch.bfloat16


def test_bfloat16_learns_the_training_set(images, tmp_path):
    changes = {"epochs": 20, "optimizer": "adam", "lr": 0.01, "precision": "bfloat16"}
    history = run(images, tmp_path, model=Model(arch="resnet18", width=4), **changes)
    assert history["train_soft_iou"].iloc[-5:].mean() > 0.9


def test_no_host_synchronization_in_an_epoch(splits):
    """On the meta device nothing can be read back: any `.item()`, `.cpu()` or `nonzero` in the loop would raise."""
    settings = Training(**SETTINGS)
    trainer = train.Trainer(train.build_network(SMALL, splits, seed=0), settings, seed=0)
    images, labels = torch.zeros(8, 1, 16, 16, device="meta"), torch.zeros(8, 10, dtype=torch.uint8, device="meta")
    trainer.model.to("meta")
    loss, decay, logits = trainer.objective(images, labels)
    (loss + decay).backward()
    train.EpochMeans(torch.device("meta")).add(loss.detach(), decay.detach(), logits.detach(), labels)
    with pytest.raises((NotImplementedError, RuntimeError)):
        loss.item()


COMPILED = """
import sys
sys.path.insert(0, {tests!r})
import test_train as t, torch
splits = t.dataset.build(source="digits", layout="mnist", train_counts={{1: 6, 2: 1}}, test_counts={{1: 3, 2: 1}})
for precision, tolerance in (("float32", 1e-3), ("bfloat16", 1e-2)):  # rounding grows from step to step
    losses = []
    for compile in ("off", "on"):
        settings = t.Training(**t.SETTINGS | {{"compile": compile, "precision": precision}})
        model = t.Model(arch="wide_resnet", depth=8, width=2)
        trainer = t.train.Trainer(t.train.build_network(model, splits, seed=0), settings, seed=0)
        trainer.compile(1, backend="aot_eager")
        losses.append(trainer.train_epoch(t.batches.of_splits(splits, settings, trainer.device)[0], 0)["train_loss"])
        assert trainer.compiled == (compile == "on")
    assert abs(losses[0] - losses[1]) < tolerance, losses
"""


def test_compiled_training_gives_the_same_losses():
    """In a process without shape checks, which dynamo cannot trace; with a backend that needs no C++ compiler."""
    code = COMPILED.format(tests=str(Path(__file__).parent))
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


NARROW = """
import torch
from nclib.training.device import place
from nclib.models import build_model
for arch, width, stem in (("resnet18", 4, "small"), ("resnet18", 8, "imagenet"), ("wide_resnet", 4, "small")):
    depth = 8 if arch == "wide_resnet" else None
    model = build_model(arch, in_channels=3, num_classes=10, width=width, depth=depth, stem=stem)
    model = place(model, torch.device("cpu"))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for bfloat16 in 2 * [False, True]:
            with torch.autocast("cpu", enabled=bfloat16):
                logits, _ = model(torch.randn(32, 3, 64, 64))
            logits.square().mean().backward()
"""


def test_narrow_networks_keep_clear_of_a_crash_in_onednn():
    """With channels_last weights, this ends in a segmentation fault or an abort where the vectors are of 16 floats."""
    subprocess.run([sys.executable, "-c", NARROW], check=True)


def test_wide_enough_networks_are_channels_last():
    for width, expected in ((8, False), (16, True)):
        model = place(build_model("resnet18", in_channels=1, num_classes=3, width=width), torch.device("cpu"))
        assert model.backbone.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_and_cpu_agree(splits, tmp_path):
    scores = [
        run(splits, tmp_path / d, device=d, precision="float32", epochs=1)["train_loss"].iloc[0]
        for d in ("cpu", "cuda")
    ]
    assert abs(scores[0] - scores[1]) < 0.05 * scores[0]


def test_cuda_that_is_not_there_is_said(splits, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="'cuda' was asked for, but torch sees no CUDA device"):
        train.Trainer(train.build_network(SMALL, splits, seed=0), Training(**SETTINGS | {"device": "cuda"}), seed=0)
