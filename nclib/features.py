"""Features and logits of any model over any images, for the metrics."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler


def extract(
    model: nn.Module,
    images_or_loader: Tensor | Iterable,
    *,
    device: torch.device | str | None = None,
    batch_size: int = 512,
    head: str | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n k"]]:
    """Last-layer features and logits of every image, in order, from a model in evaluation mode.

    The model returns `(logits, features)`, or only logits; then `head` names its last linear layer, whose input is
    taken by a forward hook (`"fc"` in torchvision's ResNets). Logits may also come first in a tuple, or in a mapping
    under `logits`, as Hugging Face's models return them. Dropout and batch normalization are in evaluation mode while
    it runs; the mode of every submodule is put back after, also when the model fails.

    Args:
        model: The network; it must be on `device` already.
        images_or_loader: Images (n, ...) in one tensor, or an iterable of batches such as a DataLoader; of a batch
            that is a tuple or list the first entry is taken. A loader must not shuffle (`shuffle=False`): the labels,
            which are not returned, would be in another order.
        device: Where the model runs and where the results stay; without it the device of the model's first
            parameter.
        batch_size: Images at a time, of a tensor; a loader has its own.
        head: Dotted name of the last linear layer, of a model that returns only logits.
        transform: Applied to each batch on the device, for example a normalization of uint8 images.

    Returns:
        Features (n, d) and logits (n, k), on `device`, in the dtype that the model computes.

    Raises:
        ValueError: If there are no images, a DataLoader shuffles, or batches or the model's output are not as above.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> features, logits = extract(model, torch.zeros(3, 1, 2, 2), head="1")
    >>> features.shape, logits.shape
    (torch.Size([3, 4]), torch.Size([3, 2]))
    """
    if device is None:
        first = next(model.parameters(), None)
        device = torch.device("cpu") if first is None else first.device
    if isinstance(images_or_loader, Tensor):
        batches: Iterable = images_or_loader.split(batch_size)
    elif isinstance(images_or_loader, DataLoader) and isinstance(images_or_loader.sampler, RandomSampler):
        raise ValueError(
            "Expected a DataLoader that keeps its order (shuffle=False): the features of one that shuffles "
            "would not be in the order of the labels."
        )
    else:
        batches = images_or_loader
    features, logits = [], []
    with torch.inference_mode(), _evaluation_mode(model), _inputs_of(model, head) as head_inputs:
        for batch in batches:
            images = batch[0] if isinstance(batch, (tuple, list)) else batch
            if not isinstance(images, Tensor):
                raise ValueError(
                    "Expected batches that are tensors, or tuples or lists with the images first, "
                    f"but got {_described(images)}: pass the images alone, as "
                    "(batch['image'] for batch in loader) does for mappings."
                )
            images = images.to(device, non_blocking=True)
            if transform is not None:
                images = transform(images)
            batch_logits, batch_features = _split_output(model(images), head_inputs, head=head)
            features.append(batch_features)
            logits.append(batch_logits)
    if sum(map(len, features)) == 0:
        raise ValueError("Expected at least one image, but got none.")
    # joined outside of inference mode, so that the results are ordinary tensors, which may be written to
    return torch.cat(features), torch.cat(logits)


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    # submodule by submodule: a frozen batch norm in a model that otherwise trains must stay frozen
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in was_training.items():
            module.training = training


@contextmanager
def _inputs_of(model: nn.Module, head: str | None) -> Iterator[list[Tensor]]:
    """Collects what submodule `head` is given, while the context lasts."""
    inputs: list[Tensor] = []
    if head is None:
        yield inputs
        return
    try:
        module = model.get_submodule(head)
    except AttributeError as error:
        names = [name for name, child in model.named_modules() if isinstance(child, nn.Linear)]
        raise ValueError(
            f"Expected head to name a submodule of {type(model).__name__} (its linear layers: {names}), "
            f"but got {head!r}."
        ) from error

    def collect(_: nn.Module, args: tuple, named: dict) -> None:
        inputs.extend([*args, *named.values()][:1])  # a head may be called by keyword

    handle = module.register_forward_pre_hook(collect, with_kwargs=True)
    try:
        yield inputs
    finally:
        handle.remove()


def _split_output(
    output: object, head_inputs: list[Tensor], *, head: str | None
) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b d"]]:
    if head is None:
        if isinstance(output, (tuple, list)) and len(output) == 2:
            logits, features = output
            return logits, features.flatten(1)
        raise ValueError(
            "Expected a model that returns (logits, features), or head=... naming its last linear layer, "
            f"but it returned {_described(output)}."
        )
    if len(head_inputs) != 1:
        raise ValueError(
            f"Expected the model to call head {head!r} once per batch, but it did {len(head_inputs)} times."
        )
    logits = output.get("logits") if isinstance(output, Mapping) else output
    logits = logits[0] if isinstance(logits, (tuple, list)) else logits
    if not isinstance(logits, Tensor):
        raise ValueError(
            "Expected a model that returns logits, as a tensor, first in a tuple, or under 'logits' in a mapping, but "
            f"it returned {_described(output)}."
        )
    return logits, head_inputs.pop().flatten(1)


def _described(found: object) -> str:
    keys = f" with {', '.join(map(repr, found))}" if isinstance(found, Mapping) else ""
    return f"a {type(found).__name__}{keys}"
