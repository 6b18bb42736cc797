"""The training loop (stage 02_train): fast, resumable, and the same code on CPU and GPU.

Nothing is read back from the device inside an epoch: losses and scores add up on the device and are fetched once at its
end. The backbone may run in bfloat16; head, loss and metrics are float32. An epoch's order and augmentation come from a
generator seeded with (seed, epoch), so that a run continued after `kill -9` is the run that was never killed.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from nclib import losses
from nclib.data.batches import DeviceBatches, of_splits
from nclib.data.dataset import Splits
from nclib.metrics import soft_iou, subset_accuracy
from nclib.models import Classifier, build_model, trainable_parameters
from nclib.optim import SECOND_ORDER, build_optimizer, build_schedule, decay_groups, step
from nclib.study.files import StageError, read_csv
from nclib.study.parameters import Model, Training
from nclib.study.registry import LOSSES
from nclib.study.stage import Stage
from nclib.training.device import choose_device, choose_precision, cudnn_flags, describe, place
from nclib.training.progress import TrainingProgress
from nclib.training.resume import Unfinished

COMPILE_PAYS_FROM = 20_000  # steps on a GPU; below, compiling costs more than it saves


def build_loss(settings: Training) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss that the settings name: pick-all-label over a single-label loss, or one of multi-hot labels."""
    known, loss = LOSSES[settings.loss], getattr(losses, settings.loss)
    options = {argument: getattr(settings, field) for field, argument in known.options.items()}
    if known.is_multi_hot:
        return partial(loss, **options)
    return losses.pick_all_label(loss(**options) if options else loss, label_mean=settings.label_mean)


def build_network(settings: Model, splits: Splits, *, seed: int) -> Classifier:
    """The network of a run, made for the images and classes of `splits`, its initial weights drawn with `seed`."""
    _, channels, height, width = splits.train.images.shape
    return build_model(
        **settings.model_dump(),
        in_channels=channels,
        num_classes=splits.num_classes,
        image_size=(height, width),
        generator=torch.Generator().manual_seed(seed),
    )


class EpochMeans:
    """Loss and scores of an epoch, added up on the device; `means` is the one place that waits for it."""

    NAMES = ("loss", "feature_decay", "soft_iou", "accuracy")

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(len(self.NAMES), dtype=torch.float64, device=device)
        self._samples = 0

    @torch.no_grad()
    def add(self, loss: Tensor, decay: Tensor, logits: Float[Tensor, "b k"], labels: Integer[Tensor, "b k"]) -> None:
        scores = torch.stack([loss, decay, soft_iou(logits, labels), subset_accuracy(logits, labels)])
        self._sums += scores.double() * len(logits)
        self._samples += len(logits)

    def means(self, prefix: str) -> dict[str, float]:
        values = (self._sums / self._samples).tolist()
        return {f"{prefix}_{name}": value for name, value in zip(self.NAMES, values, strict=True)}


class Trainer:
    """Trains one network with the settings of a run.

    Args:
        model: from `nclib.models.build_model`, or any module with `.backbone` and `.head` returning (logits, features).
        settings: the `training` section.
        seed: decides the order and augmentation of every epoch.
    """

    def __init__(self, model: nn.Module, settings: Training, *, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self.device = choose_device(settings.device)
        self.dtype = choose_precision(settings.precision, self.device, optimizer=settings.optimizer)
        self.model = place(model, self.device)
        self.loss = build_loss(settings)
        self.optimizer = build_optimizer(
            settings.optimizer,
            decay_groups(self.model, mode=settings.decay_on),
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            history_size=settings.history_size,
        )
        self.schedule = build_schedule(
            settings.schedule,
            lr=settings.lr,
            epochs=settings.epochs,
            milestones=settings.milestones,
            step_size=settings.step_size,
            gamma=settings.lr_drop,
            min_lr=settings.lr * settings.min_lr_ratio,
        )
        self.compiled = False
        self._forward: Callable[[Tensor], tuple[Tensor, Tensor]] = self.model

    def compile(self, steps: int, *, backend: str = "inductor") -> None:
        """Compile the forward pass if asked to; `auto` does so on a GPU from `COMPILE_PAYS_FROM` steps on."""
        pays = self.device.type == "cuda" and steps >= COMPILE_PAYS_FROM
        self.compiled = self.settings.compile == "on" or (self.settings.compile == "auto" and pays)
        if self.compiled:
            self._forward = torch.compile(self.model, backend=backend)

    def objective(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, feature decay and logits of a batch; the network minimizes the sum of the first two."""
        with self._precision():
            logits, features = self._forward(images)
        decay = losses.feature_decay(
            features, weight=self.settings.feature_decay, mean=self.settings.feature_decay_mean
        )
        return self.loss(logits, labels), decay, logits

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)

    @cudnn_flags(benchmark=True)
    def train_epoch(
        self, batches: DeviceBatches, epoch: int, on_step: Callable[[], None] | None = None
    ) -> dict[str, float]:
        """One pass over the shuffled training data.

        Args:
            batches: the training split.
            epoch: finished epochs so far; decides order, augmentation and learning rate.
            on_step: called after each step (which may still be running on the device).

        Returns:
            Means over the epoch, each sample as the network was when it was seen: `train_loss`, `train_feature_decay`,
            `train_soft_iou`, `train_accuracy` (the m most probable classes are the m labels).
        """
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(epoch)
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + epoch)
        sums = EpochMeans(self.device)
        for images, labels in batches.shuffled(generator):
            first: list[tuple[Tensor, Tensor, Tensor]] = []  # L-BFGS calls the closure several times per step

            def closure(images: Tensor = images, labels: Tensor = labels, first: list = first) -> Tensor:
                self.optimizer.zero_grad(set_to_none=True)
                loss, decay, logits = self.objective(images, labels)
                (loss + decay).backward()
                if not first:
                    first.append((loss.detach(), decay.detach(), logits.detach()))
                return loss + decay

            step(self.optimizer, closure, model=self.model)
            sums.add(*first[0], labels)
            if on_step:
                on_step()
        if self.settings.optimizer in SECOND_ORDER:
            # Few and long steps: averages over the last ten describe networks long gone (test scores stayed at chance).
            # In random order, since data lie class by class and batches of one class vary less than all do.
            with self._precision():
                update_bn(batches.shuffled(generator, plain=True), self.model)
        return sums.means("train")

    @cudnn_flags(benchmark=True)
    @torch.no_grad()
    def evaluate(self, batches: DeviceBatches) -> dict[str, float]:
        """`test_loss`, `test_soft_iou` and `test_accuracy` over a split, in evaluation mode."""
        self.model.eval()
        sums = EpochMeans(self.device)
        for images, labels in batches.ordered():
            loss, decay, logits = self.objective(images, labels)
            sums.add(loss, decay, logits, labels)
        means = sums.means("test")
        del means["test_feature_decay"]
        return means


def train_stage(step: Stage, trainer: Trainer, splits: Splits) -> pd.DataFrame:
    """Stage 02_train: `fit`, then the results in place; the history of an earlier training if the stage is done.

    Checkpoints replace those of an earlier training only when the last epoch is done, so that a training that fails
    leaves the earlier results as they were. Returns, Raises: as `fit`.
    """
    if step.done:
        return read_csv(step.output("history.csv"), stage=step.name)
    identity = {"parameters": step.parameters, "seed": step.seed, "inputs": step.inputs}
    identity |= {"device": trainer.device.type, "precision": str(trainer.dtype)}
    score = "soft_iou" if splits.is_multi_label else "accuracy"
    label = f"{step.run} seed {step.seed}"
    train, test = of_splits(splits, trainer.settings, trainer.device)
    with Unfinished(step.folder, identity, step.code) as unfinished:
        if step.reread().done:  # by the training that this one has waited for
            return train_stage(step, trainer, splits)
        progress = TrainingProgress(step.folder, label=label, epochs=trainer.settings.epochs, score=score)
        history = fit(trainer, train, test, unfinished, progress=progress)
        unfinished.lease.check()
        step.clear()
        unfinished.publish()
        step.save(
            {"history.csv": history},
            made=unfinished.files,
            device=describe(trainer.device),
            precision=str(trainer.dtype),
            compiled=trainer.compiled,
            trainable_parameters=trainable_parameters(trainer.model),
            sittings=unfinished.sittings,
        )
        unfinished.remove()
    return history


def fit(
    trainer: Trainer,
    train: DeviceBatches,
    test: DeviceBatches,
    unfinished: Unfinished,
    *,
    progress: TrainingProgress,
) -> pd.DataFrame:
    """Train to the last epoch, or go on from where a killed run of the same settings stopped.

    Returns:
        The history: one row per epoch with `epoch` (finished epochs), `lr`, means of `train_epoch` and `evaluate` (of
        the test split), and `seconds`.

    Raises:
        StageError: the loss is no number any more, a file is damaged, or the disk is full.
    """
    settings = trainer.settings
    if not unfinished.resume(trainer.model, trainer.optimizer):
        unfinished.add_checkpoint(trainer.model, 0)
    history = unfinished.history
    trainer.compile((settings.epochs - len(history)) * len(train))
    progress.start(len(train), history)
    try:
        for epoch in range(len(history), settings.epochs):
            start = time.perf_counter()
            row = {"epoch": epoch + 1, "lr": trainer.schedule(epoch)}
            row |= trainer.train_epoch(train, epoch, progress.step)
            row |= trainer.evaluate(test)
            _check_finite(row, settings)
            history.append(row | {"seconds": round(time.perf_counter() - start, 4)})
            if (epoch + 1) % settings.checkpoint_every == 0 or epoch + 1 == settings.epochs:
                unfinished.add_checkpoint(trainer.model, epoch + 1)
            unfinished.save(trainer.model, trainer.optimizer)
            progress.epoch(history[-1])
    finally:
        progress.close()
    return pd.DataFrame(history)


def _check_finite(row: dict[str, Any], settings: Training) -> None:
    total = row["train_loss"] + row["train_feature_decay"] + row["test_loss"]
    if total != total or abs(total) == float("inf"):
        raise StageError(
            f"The loss became {row['train_loss']} in epoch {row['epoch']} (train, with feature decay "
            f"{row['train_feature_decay']}, test {row['test_loss']}): lower training.lr (now {settings.lr:g}) or "
            f"training.feature_decay (now {settings.feature_decay:g})."
        )
