"""Features, logits and labels of any model over any data, for the metrics."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import closing

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from nclib.features.passes import Data, Extracted, feature_batches, linear_layers, submodule

LINEAR_TOLERANCE = 1e-3
"""Part of `|W| |f|` by which `W f + b` may miss the logits: TF32 and float16 round that much, bfloat16 more."""


def extract(
    model: nn.Module,
    images_or_loader: Data,
    *,
    device: torch.device | str | None = None,
    batch_size: int = 512,
    head: str | None = None,
    layers: Sequence[str] | None = None,
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
    with closing(feature_batches(model, images_or_loader, **options)) as batches:
        for part in batches:
            if not parts and (why := mismatch(model, head or next(reversed(linear_layers(model)), None), part)):
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
        {name: torch.cat([part.layers[name] for part in parts]) for name in parts[0].layers},
    )


def last_linear(model: nn.Module) -> str:
    """The name of the last linear layer, in the order in which the model's modules were made."""
    names = linear_layers(model)
    if not names:
        raise ValueError(f"Expected head to name the last linear layer of {type(model).__name__}: it has no nn.Linear.")
    return names[-1]


def last_layer(model: nn.Module, head: str) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"] | None]:
    """Weight and bias of the layer of that name."""
    layer = submodule(model, head)
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
        features, weight, bias = features.float(), weight.float(), None if bias is None else bias.float()
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


def _keeps_order(data: object) -> bool:
    """Whether the samples of a loader come in the order of its data set, or in one that only that knows."""
    if not isinstance(data, DataLoader) or isinstance(data.dataset, IterableDataset):
        return True
    own = data if data.batch_sampler is None else data.batch_sampler
    return isinstance(getattr(own, "sampler", None), SequentialSampler)
