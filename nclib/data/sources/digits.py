"""scikit-learn's 1,797 real handwritten digits (8 x 8): the data that need no download."""

from pathlib import Path

import torch

from nclib.data.sources.base import SourceImages, split_by_class, stream
from nclib.study.registry import TEST_FRACTION


def load(*, root: Path, train: bool, test_fraction: float = TEST_FRACTION, seed: int = 0) -> SourceImages:
    """Read the digits; training and test split share no digit.

    The source has no split of its own: each class is split at random by `seed`. Its 17 gray levels 0..16 become
    0..255.

    Source: UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998), test part, as in scikit-learn.
    """
    from sklearn.datasets import load_digits

    published = load_digits()
    images = (torch.from_numpy(published.images) * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    source = SourceImages(images, torch.from_numpy(published.target).long(), tuple("0123456789"))
    generator = stream(seed, "split")
    return source.select(split_by_class(source.labels, test_fraction=test_fraction, train=train, generator=generator))
