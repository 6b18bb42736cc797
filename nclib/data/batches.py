"""Batches of images that are already where they are needed.

A split is kept as uint8 on the device; a batch is one `index_select`, then normalization (and augmentation) of it all
at once. No worker processes, no per-sample Python, nothing read back. A split too large for the GPU stays in
host memory and streams through pinned buffers.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from nclib.data.augment import random_crop, random_flip
from nclib.data.dataset import Splits
from nclib.study.parameters import Training

DEVICE_SHARE = 0.5  # of the free GPU memory that images may take; the rest is for weights and activations


class DeviceBatches:
    """One split, cut into normalized batches on `device`; `mean` and `std` of each channel are in units of 255.

    A remainder of one sample joins the batch before it, since batch norm has no variance of one value. `augment` is a
    random crop with 4 pixels of padding and a horizontal flip, in `shuffled` only.
    """

    def __init__(
        self,
        images: UInt8[Tensor, "n c h w"],
        labels: Integer[Tensor, "n k"],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        batch_size: int,
        augment: bool = False,
    ) -> None:
        self.device = device
        self.augment = augment
        self.streams = device.type == "cuda" and images.nbytes > DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
        home = torch.device("cpu") if self.streams else device
        self.images = images.to(home)
        self.labels = labels.to(home)
        scale = torch.tensor(std, dtype=torch.float32) * 255
        self._scale = (1 / scale).view(1, -1, 1, 1).to(device)
        self._shift = (-torch.tensor(mean, dtype=torch.float32) * 255 / scale).view(1, -1, 1, 1).to(device)
        self._bounds = [*range(0, len(images), batch_size), len(images)]
        if len(self._bounds) > 2 and self._bounds[-1] - self._bounds[-2] == 1:
            del self._bounds[-2]

    def __len__(self) -> int:
        """The number of batches in a pass."""
        return len(self._bounds) - 1

    def shuffled(self, generator: torch.Generator, *, plain: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples in a random order: (images float32 (b, c, h, w), labels (b, k)); `plain`: without augmentation.

        The generator, on the device of the split, decides order and augmentation.
        """
        order = torch.randperm(len(self.images), generator=generator, device=generator.device).to(self.images.device)
        for start, stop in zip(self._bounds, self._bounds[1:], strict=False):
            chosen = order[start:stop]
            images, labels = self._placed(self.images.index_select(0, chosen), self.labels.index_select(0, chosen))
            if self.augment and not plain:
                images = random_flip(random_crop(images, padding=4, generator=generator), generator=generator)
            yield self._normalized(images), labels

    def ordered(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples in their own order, never augmented."""
        for start, stop in zip(self._bounds, self._bounds[1:], strict=False):
            images, labels = self._placed(self.images[start:stop], self.labels[start:stop])
            yield self._normalized(images), labels

    def _placed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if not self.streams:
            return images, labels
        return (
            images.pin_memory().to(self.device, non_blocking=True),
            labels.pin_memory().to(self.device, non_blocking=True),
        )

    def _normalized(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return torch.addcmul(self._shift, images.float(), self._scale)


def of_split(
    splits: Splits, name: str, *, device: torch.device, batch_size: int, augment: bool = False
) -> DeviceBatches:
    """The batches of split `train` or `test` on `device`, normalized as the data set says."""
    split = splits.train if name == "train" else splits.test
    norm = {"mean": splits.mean, "std": splits.std}
    return DeviceBatches(split.images, split.labels, **norm, device=device, batch_size=batch_size, augment=augment)


def of_splits(splits: Splits, settings: Training, device: torch.device) -> tuple[DeviceBatches, DeviceBatches]:
    """Training and test batches of a data set on `device`, as the settings say."""
    options = {"device": device, "batch_size": settings.batch_size, "augment": settings.augment}
    return of_split(splits, "train", **options), of_split(splits, "test", **options)
