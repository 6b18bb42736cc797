"""Features, logits and labels of any model over any data, for the metrics."""

import copy
import inspect
import random
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler

from nclib.heads import ETFHead

Data = Tensor | tuple[Tensor, Tensor] | Dataset | Iterable
"""Images, a pair of images and labels, a data set, or batches of them."""
LABEL_KEYS = ("labels", "label")
LINEAR_TOLERANCE = 1e-3
"""Part of `|W| |f|` by which `W f + b` may miss the logits: TF32 and float16 round that much, bfloat16 more."""


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

    def first(self, count: int) -> "Extracted":
        """The first samples, at most so many."""
        layers = {name: features[:count] for name, features in self.layers.items()}
        labels = None if self.labels is None else self.labels[:count]
        return Extracted(self.features[:count], self.logits[:count], labels, layers)


def extract(
    model: nn.Module,
    images_or_loader: Data,
    *,
    device: torch.device | str | None = None,
    batch_size: int = 512,
    head: str | None = None,
    layers: Sequence[str] = (),
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Extracted:
    """Last-layer features, logits and labels of every image, in the order they came, from a model in evaluation mode.

    The model returns `(logits, features)`, or anything; then `head` names its last linear layer, whose input and output
    are taken by a forward hook (`"fc"` in torchvision's ResNets). Dropout and batch normalization are in evaluation
    mode while it runs. The mode of every submodule and the state of the random generators that model and data may
    use are put back after, also when the model fails.

    Args:
        model: The network; it must be on `device` already. A compiled one runs uncompiled: it would not see hooks.
        images_or_loader: Images (n, ...), a pair of images and labels, a data set, or an iterable of batches such as a
            DataLoader. Of a batch that is a tuple or list the first entry is the images and the second the labels. Of a
            mapping, `labels` or `label` are the labels, and the model gets the other tensors: those that its `forward`
            names by keyword, or the only one.
        device: Where the model runs and where the results stay; without it the device of the model's first
            parameter.
        batch_size: Images at a time, of tensors and data sets; a loader has its own.
        head: Dotted name of the last linear layer, of a model that does not return its features.
        layers: Dotted names of further layers whose output to take: of feature maps (b, c, h, w) the mean over
            positions, of sequences (b, t, d) the mean over their entries.
        transform: Applied to each batch of images on the device, for example a normalization of uint8 images.

    Returns:
        Features (n, d) and logits (n, k), with `.labels` and `.layers`, on `device`, in the dtype that the model
        computes. Use these labels: a loader that shuffles or samples gives another order than its data set has.

    Raises:
        ValueError: If there are no images, a DataLoader that shuffles or samples brings no labels, or batches or the
            model's output are not as above.

    Warns:
        UserWarning: If `W f + b` of the last linear layer is not the logits, as in networks that return normalized
            features or classify by cosines: metrics of W beside f would be of another classifier.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> features, logits = extract(model, torch.zeros(3, 1, 2, 2), head="1")
    >>> features.shape, logits.shape
    (torch.Size([3, 4]), torch.Size([3, 2]))
    """
    options = {"device": device, "batch_size": batch_size, "head": head, "layers": layers, "transform": transform}
    parts: list[Extracted] = []
    with feature_batches(model, images_or_loader, **options) as batches:
        for part in batches:
            if not parts and (why := mismatch(model, head or next(reversed(_linear_layers(model)), None), part)):
                warnings.warn(why, stacklevel=2)
            if part.labels is None and not _keeps_order(images_or_loader):
                raise ValueError(
                    "Expected a DataLoader that keeps its order (shuffle=False), or one whose batches have labels: "
                    "nobody could tell which image the features of one that shuffles or samples belong to."
                )
            parts.append(part)
    if sum(len(part.features) for part in parts) == 0:
        raise ValueError("Expected at least one image, but got none.")
    labels = [part.labels for part in parts if part.labels is not None]
    return Extracted(
        torch.cat([part.features for part in parts]),
        torch.cat([part.logits for part in parts]),
        torch.cat(labels) if len(labels) == len(parts) else None,
        {name: torch.cat([part.layers[name] for part in parts]) for name in layers},
    )


@contextmanager
def feature_batches(
    model: nn.Module,
    data: Data,
    *,
    device: torch.device | str | None = None,
    batch_size: int = 512,
    head: str | None = None,
    layers: Sequence[str] = (),
    transform: Callable[[Tensor], Tensor] | None = None,
    find_head: bool = False,
    progress: str | None = None,
) -> Iterator[Iterator[Extracted]]:
    """One pass over the data, batch by batch, while the context lasts; the model is as before when it ends.

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
        at_head = None if head is None else _watch(stack, model, head, lambda given, made: (given, made.clone()))
        at_layers = {name: _watch(stack, model, name, lambda _, made: _pooled(made)) for name in layers}

        def move(images: Tensor) -> Tensor:
            images = images.to(device, non_blocking=True)
            return images if transform is None else transform(images)

        def batches() -> Iterator[Extracted]:
            unchecked = find_head
            for batch in _bar(_as_batches(data, batch_size), progress):
                images, named, labels = _split_batch(batch, model)
                output = model(*map(move, images), **{name: move(x) for name, x in named.items()})
                features, logits = _returned(output) if at_head is None else _once(at_head, head)
                if unchecked:
                    unchecked = _check_is_last(head, logits, output)
                if logits.ndim != 2:
                    raise ValueError(
                        f"Expected logits (b, k), but got {tuple(logits.shape)}: where each entry of a sequence is a "
                        "sample of its own, nclib.metrics.CollapseMetrics takes them batch by batch."
                    )
                made = {name: _once(calls, name) for name, calls in at_layers.items()}
                labels = None if labels is None else labels.to(device, non_blocking=True)
                yield Extracted(features.flatten(1), logits, labels, made)

        yield batches()


def last_linear(model: nn.Module) -> str:
    """The name of the last linear layer, in the order in which the model's modules were made."""
    names = _linear_layers(model)
    if not names:
        raise ValueError(f"Expected head to name the last linear layer of {type(model).__name__}: it has no nn.Linear.")
    return names[-1]


def last_layer(model: nn.Module, head: str) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"] | None]:
    """Weight and bias of the layer of that name."""
    layer = _submodule(model, head)
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise ValueError(f"Expected head {head!r} to be a linear layer with a weight (k, d), but it is {layer}.")
    return weight.detach(), None if bias is None else bias.detach()


def mismatch(model: nn.Module, head: str | None, batch: Extracted) -> str | None:
    """Why `W f + b` of the last layer are not the logits; None where they are, or no weight (k, d) is known."""
    layer = None if head is None else model.get_submodule(head)
    weight, bias, (features, logits) = getattr(layer, "weight", None), getattr(layer, "bias", None), batch
    if not isinstance(weight, Tensor) or weight.shape != (logits.shape[1], features.shape[1]):
        return None
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        features, weight, bias = (None if x is None else x.float() for x in (features, weight, bias))
        errors = (F.linear(features, weight, bias) - logits).abs()
        # no rounding is larger than some part of |w| |f| + |b|
        scales = torch.outer(features.norm(dim=1), weight.norm(dim=1)) + (0 if bias is None else bias.abs())
    if not bool((errors > max(LINEAR_TOLERANCE, torch.finfo(logits.dtype).eps) * scales).any()):
        return None
    return (
        f"W f + b of the last layer {head!r} ({type(layer).__name__}) miss the logits by up to {errors.max():.3g}: "
        "metrics of W beside the features f would be of another classifier. If the model returns normalized features, "
        "head=... takes those that the layer is given; if the layer normalizes them itself (a classifier by cosines), "
        "nclib.metrics.measure takes features and weight as it makes them."
    )


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise ValueError(
            f"Expected the name of a submodule of {type(model).__name__} (its linear layers: {_linear_layers(model)}), "
            f"but got {name!r}."
        ) from error


def _linear_layers(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear | ETFHead)]


def _keeps_order(data: object) -> bool:
    """Whether the samples of a loader come in the order of its data set, or in one that only that knows."""
    if not isinstance(data, DataLoader) or isinstance(data.dataset, IterableDataset):
        return True
    own = data if data.batch_sampler is None else data.batch_sampler
    return isinstance(getattr(own, "sampler", None), SequentialSampler)


def _as_batches(data: Data, batch_size: int) -> Iterable:
    if isinstance(data, Tensor):
        return data.split(batch_size)
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        if len(data[0]) != len(data[1]):
            raise ValueError(f"Expected as many labels as images, but got {len(data[1])} and {len(data[0])}.")
        return list(zip(*(part.split(batch_size) for part in data), strict=True))
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size=batch_size)
    if isinstance(data, DataLoader) and data.persistent_workers:
        data = copy.copy(data)  # the loader has one iterator, which a training may be in the midst of
        data._iterator = None
    return data


def _bar(batches: Iterable, title: str | None) -> Iterable:
    if title is None or find_spec("tqdm") is None:
        return batches
    from tqdm.auto import tqdm

    return tqdm(batches, desc=title, leave=False, disable=None)  # None: only on a terminal, or in a notebook


def _split_batch(batch: object, model: nn.Module) -> tuple[list[Tensor], dict[str, Tensor], Tensor | None]:
    """What the model is called with, by position and by keyword, and the labels, None where there are none."""
    images, named, labels = [batch], {}, None
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
    own = {owner.generator for owner in owners if isinstance(getattr(owner, "generator", None), torch.Generator)}
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

    stack.callback(_submodule(model, name).register_forward_hook(collect, with_kwargs=True).remove)
    return calls


def _once(calls: list, name: str) -> Tensor | tuple[Tensor, Tensor]:
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


def _check_is_last(head: str, logits: Tensor, output: object) -> Literal[False]:
    """Refuse a layer that was found, not named, if its output is not what the model predicts from; else False."""
    output = _tensor_in(output)
    if output.shape == logits.shape:
        chosen = logits.gather(1, output.argmax(dim=1, keepdim=True)).squeeze(1)
        if not bool((logits.amax(dim=1) - chosen > LINEAR_TOLERANCE * logits.abs().amax()).any()):
            return False
    raise ValueError(
        f"Expected the model to predict from its last nn.Linear, {head!r}, but its output is another: "
        "head=... names the last layer."
    )


def _described(found: object) -> str:
    keys = f" with {', '.join(map(repr, found))}" if isinstance(found, Mapping) else ""
    return f"a {type(found).__name__}{keys}"
