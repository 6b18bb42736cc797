"""One pass of a model over data, batch by batch, that leaves no trace in either."""

import copy
import inspect
import random
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from operator import length_hint
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from nclib.heads import ETFHead

Data = Tensor | tuple[Tensor, Tensor] | Dataset | Iterable
"""Images, a pair of images and labels, a data set, or batches of them."""
LABEL_KEYS = ("labels", "label")


class _FeaturesAndLogits(NamedTuple):
    features: Float[Tensor, "n d"]
    logits: Float[Tensor, "n k"]


class Extracted(_FeaturesAndLogits):
    """Features (n, d) and logits (n, k), into which it unpacks; beside them, in the same order, what else was seen.

    `labels` are those that came with the images, None where none did; `layers` the features of the layers asked for.
    """

    labels: Tensor | None
    layers: dict[str, Tensor]

    def __new__(
        cls, features: Tensor, logits: Tensor, labels: Tensor | None, layers: Mapping[str, Tensor]
    ) -> "Extracted":
        self = super().__new__(cls, features, logits)
        self.labels, self.layers = labels, dict(layers)
        return self


def feature_batches(
    model: nn.Module,
    data: Data,
    *,
    device: torch.device | str | None = None,
    batch_size: int = 512,
    head: str | None = None,
    layers: Sequence[str] | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    find_head: bool = False,
    progress: str | None = None,
) -> Generator[Extracted, None, None]:
    """One pass over the data, batch by batch; the model is as before when it ends or is closed (`contextlib.closing`).

    Two passes see the same samples, in the same order and with the same augmentation, wherever data draw from the
    global generators or a loader's own, since the state of these is put back.

    Args: as `extract`; `progress` is the title of a progress bar, None for none.
    """
    first = next(model.parameters(), None)
    device = torch.device(device or ("cpu" if first is None else first.device))
    with ExitStack() as stack:
        # not inference_mode: what a model caches on its way, such as tables of positions, must stay fit for training
        stack.enter_context(torch.no_grad())
        # casts of weights that are cached here, without gradients, would otherwise reach a training around us
        enabled, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
        stack.enter_context(torch.autocast(device.type, dtype, enabled, cache_enabled=False))
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and loading it takes a second
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_evaluation_mode(model))
        stack.enter_context(_random_state(data, device))
        # clones, as logits are often scaled or normalized in place
        at_head = _watch(stack, model, head, lambda given, made: (given, _tensor_in(made).clone())) if head else None
        at_layers = {name: _watch(stack, model, name, lambda _, made: _pooled(made)) for name in layers or ()}

        def move(images: Tensor) -> Tensor:
            images = images.to(device, non_blocking=True)
            return images if transform is None else transform(images)

        checked = not find_head
        for batch in _bar(_as_batches(data, batch_size), progress):
            images, named, labels = _split_batch(batch, model)
            output = model(*map(move, images), **{name: move(x) for name, x in named.items()})
            features, logits = _returned(output) if at_head is None else _once(at_head, head)
            if logits.ndim != 2:
                raise ValueError(
                    f"Expected logits (b, k), but got {tuple(logits.shape)}: where each entry of a sequence is a "
                    "sample of its own, nclib.metrics.CollapseMetrics takes them batch by batch."
                )
            if not checked:
                _check_predicts(output, logits, head)
                checked = True
            made = {name: _once(calls, name) for name, calls in at_layers.items()}
            labels = None if labels is None else labels.to(device, non_blocking=True)
            yield Extracted(features.flatten(1), logits, labels, made)


def submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise ValueError(
            f"Expected the name of a submodule of {type(model).__name__} (its linear layers: {linear_layers(model)}), "
            f"but got {name!r}."
        ) from error


def linear_layers(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear | ETFHead)]


def _as_batches(data: Data, batch_size: int) -> Iterable:
    if isinstance(data, Tensor):
        return data.split(batch_size)
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        if len(data[0]) != len(data[1]):
            raise ValueError(f"Expected as many labels as images, but got {len(data[1])} and {len(data[0])}.")
        return list(zip(*(part.split(batch_size) for part in data), strict=True))
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size=batch_size)
    if isinstance(data, DataLoader):
        data = copy.copy(data)  # a training may be in the midst of the loader's own iterator
        data._iterator = None
    return data


def _bar(batches: Iterable, title: str | None) -> Iterator:
    """The batches, with a bar on a terminal or in a notebook if there is a title and tqdm."""
    if title is None or find_spec("tqdm") is None:
        yield from batches
        return
    from tqdm.auto import tqdm

    # beside the batches, since tqdm around a loader would start its workers twice
    with tqdm(total=length_hint(batches) or None, desc=title, leave=False, disable=None) as bar:
        for batch in batches:
            yield batch
            bar.update()


def _split_batch(batch: object, model: nn.Module) -> tuple[list[Tensor], dict[str, Tensor], Tensor | None]:
    """What the model is called with, by position and by keyword, and the labels, None where there are none."""
    images: list[Any] = [batch]
    named: dict[str, Tensor] = {}
    labels = None
    if isinstance(batch, Mapping):
        labels = next((batch[key] for key in LABEL_KEYS if key in batch), None)
        tensors = {key: x for key, x in batch.items() if key not in LABEL_KEYS and isinstance(x, Tensor)}
        known = inspect.signature(model.forward).parameters
        named = {key: x for key, x in tensors.items() if key in known} or tensors
        images = []
        if len(tensors) == 1:
            images, named = list(tensors.values()), {}
    elif isinstance(batch, tuple | list):
        images, labels = [*batch[:1]], batch[1] if len(batch) > 1 else None
    if not (images or named) or not all(isinstance(x, Tensor) for x in images):
        raise ValueError(
            "Expected batches that are tensors, tuples or lists with the images first, or mappings with tensors, "
            f"but got {_described(batch)}."
        )
    return images, named, labels if isinstance(labels, Tensor) else None


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    # attributes, submodule by submodule: a frozen batch norm in a model that otherwise trains must stay frozen, and
    # some modules rewrite their weights in `train()` and `eval()`
    was_training = {module: module.training for module in model.modules()}
    try:
        for module in was_training:
            module.training = False
        yield
    finally:
        for module, training in was_training.items():
            module.training = training


@contextmanager
def _random_state(data: object, device: torch.device) -> Iterator[None]:
    """Puts back the generators of torch, NumPy and Python, and those of a loader and its sampler."""
    sampler = getattr(data, "sampler", None)
    owners = (data, sampler, getattr(getattr(data, "batch_sampler", None), "sampler", None))
    found = (getattr(owner, "generator", None) for owner in owners)
    own = {generator for generator in found if isinstance(generator, torch.Generator)}
    states = [(generator, generator.get_state()) for generator in own]
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
        for generator, state in states:
            generator.set_state(state)


def _watch(stack: ExitStack, model: nn.Module, name: str, keep: Callable[[Tensor, object], object]) -> list:
    """What `keep` makes of the input and output of each call of a submodule, while the stack lasts."""
    calls: list = []

    def collect(_: nn.Module, args: tuple, named: dict, output: object) -> None:
        calls.append(keep(next(iter([*args, *named.values()])), output))  # a head may be called by keyword

    stack.callback(submodule(model, name).register_forward_hook(collect, with_kwargs=True).remove)
    return calls


def _once(calls: list, name: str | None) -> Any:
    if len(calls) != 1:
        raise ValueError(f"Expected the model to call {name!r} once per batch, but it did {len(calls)} times.")
    return calls.pop()


def _pooled(output: object) -> Float[Tensor, "b d"]:
    """One vector for each sample of a layer's output, apart from memory that the next layer may write to."""
    output = _tensor_in(output)
    if output.ndim < 3:
        return output.clone()
    return output.mean(dim=1) if output.ndim == 3 else output.flatten(2).mean(dim=2)


def _tensor_in(output: object) -> Tensor:
    """A tensor, the first of a tuple, or `logits` of a mapping or dataclass (the first value where it has none)."""
    if isinstance(output, Mapping):
        output = output.get("logits", next(iter(output.values()), None))
    output = getattr(output, "logits", output)
    output = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(output, Tensor):
        raise ValueError(f"Expected a tensor, alone, first in a tuple or in a mapping, but got {_described(output)}.")
    return output


def _returned(output: object) -> tuple[Tensor, Tensor]:
    """Features and logits of a model that returns `(logits, features)`."""
    if not isinstance(output, tuple | list) or [isinstance(x, Tensor) for x in output] != [True, True]:
        raise ValueError(
            "Expected a model that returns (logits, features), or head=... naming its last linear layer, "
            f"but it returned {_described(output)}."
        )
    return output[1], output[0]


def _check_predicts(output: object, logits: Tensor, head: str | None) -> None:
    """Refuse a last layer that was found, not named, if the model does not predict from its output."""
    output = _tensor_in(output)
    if output.shape == logits.shape:
        chosen = logits.gather(1, output.argmax(dim=1, keepdim=True)).squeeze(1)
        if not bool((logits.amax(dim=1) - chosen > 1e-3 * logits.abs().amax()).any()):
            return
    raise ValueError(
        f"Expected the model to predict from its last nn.Linear, {head!r}, but its output is another: head=... names "
        "the last layer."
    )


def _described(found: object) -> str:
    keys = f" with {', '.join(map(repr, found))}" if isinstance(found, Mapping) else ""
    return f"a {type(found).__name__}{keys}"
