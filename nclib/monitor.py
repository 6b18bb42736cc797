"""Collapse during somebody's own training: in a plain loop, in Lightning, in Hugging Face's Trainer."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from nclib.collapse import Collapse, measure_collapse
from nclib.features.passes import Data

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from transformers import Trainer, TrainerCallback


class CollapseMonitor:
    """Measures a model every so many steps or epochs of its training, and logs every scalar.

    The training goes on as without it, bit for bit: see `measure_collapse` for what is left as it was. A measurement
    that fails after one that did not, since features became NaN or equal, is a warning.

    In a plain loop call `step()` after each step and `epoch()` after each epoch; `lightning()` and
    `hugging_face(trainer)` are callbacks that do so. In a distributed training the first rank measures, alone.

    Args:
        model: The network, not wrapped for distributed training.
        train: Training data, as for `measure_collapse`; the loader of the training itself may be given.
        every_steps, every_epochs: Measure after each so many steps of the optimizer, or epochs.
        log: Where values go: a TensorBoard `SummaryWriter`, a W&B run, any object with `log_metrics(values, step=...)`,
            a function of values and step, or several of these. The callbacks add the loggers of their trainer.
        prefix: Before each name, `collapse/nc1`; that of a layer is `collapse/layer4/nc1`.
        options: As for `measure_collapse`: `test`, `layers`, `max_samples` for a subset, ...

    Attributes:
        history: The logged values of each measurement without the prefix, with `step` and `epoch`.
        last: The last measurement as a whole.

    >>> import torch
    >>> model, data = nn.Sequential(nn.Linear(4, 2)), (torch.eye(4), torch.tensor([0, 1, 0, 1]))
    >>> monitor = CollapseMonitor(model, data, every_epochs=2)
    >>> for _ in range(4):
    ...     monitor.epoch()  # after the steps of an epoch
    >>> [(row["epoch"], row["class_mean_rank"]) for row in monitor.history]
    [(2, 1.0), (4, 1.0)]
    """

    def __init__(
        self,
        model: nn.Module,
        train: Data,
        *,
        every_steps: int | None = None,
        every_epochs: int | None = None,
        log: object = (),
        prefix: str = "collapse/",
        **options: Any,
    ) -> None:
        if min((n for n in (every_steps, every_epochs) if n is not None), default=0) < 1:
            raise ValueError(f"Expected every_steps or every_epochs >= 1, but got {every_steps} and {every_epochs}.")
        self.model, self.train, self.options = model, train, {"progress": False, **options}
        self.every_steps, self.every_epochs, self.prefix = every_steps, every_epochs, prefix
        self._loggers = [_logger(one) for one in (log if isinstance(log, Sequence) else [log])]
        self.steps = self.epochs = 0
        self.history: list[dict[str, float]] = []
        self.last: Collapse | None = None

    def step(self, step: int | None = None) -> None:
        """After a step, the next one unless its number is given: measure, if it is time."""
        before, self.steps = self.steps, self.steps + 1 if step is None else step
        if self.every_steps and self.steps != before and self.steps % self.every_steps == 0:
            self.measure()

    def epoch(self, epoch: int | None = None) -> None:
        """After an epoch, as `step`."""
        before, self.epochs = self.epochs, self.epochs + 1 if epoch is None else epoch
        if self.every_epochs and self.epochs != before and self.epochs % self.every_epochs == 0:
            self.measure()

    def measure(self) -> None:
        """Measure now, and log."""
        try:
            self.last = measure_collapse(self.model, self.train, **self.options)
        except ValueError as error:
            if not self.history:  # the model or the data are not as they should be
                raise
            warnings.warn(f"Collapse was not measured at step {self.steps}: {error}", stacklevel=3)
            return
        values = dict(self.last.scalars)
        values |= {f"{layer}/{name}": x for layer, found in self.last.layers.items() for name, x in found.items()}
        self.history.append({"step": self.steps, "epoch": self.epochs, **values})
        for log in self._loggers:
            log({self.prefix + name: value for name, value in values.items()}, self.steps)

    def lightning(self) -> "Callback":
        """A callback for `lightning.Trainer(callbacks=[...])`, whose loggers get the values."""
        try:
            from lightning.pytorch import Callback
        except ImportError:
            from pytorch_lightning import Callback
        monitor, own = self, self._loggers

        class OfLightning(Callback):  # pyright: ignore[reportGeneralTypeIssues]
            def on_fit_start(self, trainer: Any, module: Any) -> None:
                monitor._loggers = [*own, *map(_logger, trainer.loggers)]

            def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
                if trainer.is_global_zero:
                    monitor.step(trainer.global_step)

            def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
                if trainer.is_global_zero:
                    monitor.epoch(trainer.current_epoch + 1)

        return OfLightning()

    def hugging_face(self, trainer: "Trainer") -> "TrainerCallback":
        """A callback for `trainer.add_callback(...)`; the values are in `trainer.state.log_history`, too."""
        from transformers import TrainerCallback

        monitor = self
        self._loggers = [*self._loggers, lambda values, step: trainer.log(values)]

        class OfHuggingFace(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.is_world_process_zero:
                    monitor.step(state.global_step)

            def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.is_world_process_zero:
                    monitor.epoch(round(state.epoch))

        return OfHuggingFace()


def _logger(target: Any) -> Callable[[Mapping[str, float], int], object]:
    """How values and a step reach a logger, by its own interface."""
    if hasattr(target, "add_scalar"):
        return lambda values, step: [target.add_scalar(name, value, step) for name, value in values.items()]
    if hasattr(target, "log_metrics"):
        return lambda values, step: target.log_metrics(dict(values), step=step)
    if hasattr(target, "log"):  # into W&B's current step, since its own count of steps must not move
        return lambda values, step: target.log(dict(values), commit=False)
    if callable(target):
        return target
    raise ValueError(
        "Expected a logger with add_scalar (TensorBoard), log (W&B) or log_metrics, or a function of values and step, "
        f"but got {target!r}."
    )
