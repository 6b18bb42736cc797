"""Composition: layouts against a slow reference, random draws against their distribution, the dealing of sources."""

import os
import time
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from nclib.compose import compose, pair_group_counts
from nclib.data import sources
from nclib.data.compose import uncomposed
from nclib.data.sources import SourceImages

CLASSES = 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(side: int, *, per_class: int = 30, channels: int = 1) -> SourceImages:
    """Images of random pixels, all different."""
    labels = torch.arange(CLASSES).repeat(per_class)
    images = torch.randint(1, 256, (len(labels), channels, side, side), generator=generator(7), dtype=torch.uint8)
    return SourceImages(images, labels, tuple("abcd"))


def markers(side: int, *, per_class: int = 30) -> SourceImages:
    """Black images but for the top left pixel, whose value is the class + 1: they show where they were put."""
    source = noise(side, per_class=per_class)
    images = torch.zeros_like(source.images)
    images[:, 0, 0, 0] = (source.labels + 1).to(torch.uint8)
    return SourceImages(images, source.labels, source.class_names)


def find(images: torch.Tensor, value: int) -> torch.Tensor:
    """(top, left) of the only pixel of `value` in each image; (-1, -1) where it is hidden."""
    found = images[:, 0] == value
    place = found.flatten(1).to(torch.uint8).argmax(1)
    where = torch.stack([place // images.shape[-1], place % images.shape[-1]], 1)
    return torch.where(found.flatten(1).any(1).unsqueeze(1), where, torch.tensor(-1))


def assert_uniform(values: torch.Tensor, expected: int) -> None:
    """All of 0..expected-1 occur, equally often up to chance (p > 1e-4 at these fixed seeds)."""
    counts = values.flatten().bincount(minlength=expected)
    assert len(counts) == expected
    assert chisquare(counts.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("side, shifts", [(28, 7), (32, 8), (8, 2)])
def test_one_label_mnist_is_at_the_bottom_right_rolled_by_each_shift_equally_often(side: int, shifts: int) -> None:
    data = compose(markers(side), counts={1: 1000}, layout="mnist", generator=generator())
    for label in range(CLASSES):
        rows = data.labels[:, label] == 1
        rolls = find(data.images[rows], label + 1) - side
        assert_uniform(rolls[:, 0] * shifts + rolls[:, 1], shifts**2)  # down and right independently


def test_pairs_of_mnist_take_one_quadrant_each_and_roll_on_their_own() -> None:
    data = compose(markers(28), counts={2: 2000}, layout="mnist", generator=generator())
    rows = (data.labels[:, 1] == 1) & (data.labels[:, 2] == 1)
    first, second = find(data.images[rows], 2), find(data.images[rows], 3)
    corners = torch.stack([first // 28, second // 28], 1)
    assert (corners[:, :, 0] == corners[:, :, 1]).all()  # a corner is top left or bottom right
    assert (corners[:, 0] != corners[:, 1]).all()
    assert_uniform(corners[:, 0, 0], 2)
    rolls = torch.cat([first % 28, second % 28], 1)
    assert_uniform(rolls[:, 0] * 7 + rolls[:, 2], 49)
    assert_uniform(rolls[:, 1] * 7 + rolls[:, 3], 49)


def test_cifar_pads_alike_in_both_directions_toward_a_random_corner() -> None:
    data = compose(markers(32), counts={1: 2000}, layout="cifar", generator=generator())
    places = find(data.images[data.labels[:, 0] == 1], 1)
    assert (places[:, 0] == places[:, 1]).all()
    top = places[:, 0]
    assert set(top.tolist()) == {*range(8), *range(25, 33)}
    assert_uniform(torch.where(top < 8, top, 8 + 32 - top), 16)


def test_pairs_of_cifar_take_one_corner_each() -> None:
    data = compose(markers(32), counts={2: 2000}, layout="cifar", generator=generator())
    rows = (data.labels[:, 0] == 1) & (data.labels[:, 3] == 1)
    first, second = find(data.images[rows], 1)[:, 0], find(data.images[rows], 4)[:, 0]
    assert ((first < 8) != (second < 8)).all()
    assert_uniform((first < 8).long(), 2)
    padding = torch.where(first < 8, first, 32 - first) * 8 + torch.where(second < 8, second, 32 - second)
    assert_uniform(padding, 64)


@pytest.mark.parametrize("layout, side", [("mnist", 28), ("cifar", 32)])
def test_in_triples_the_third_shares_the_corner_of_the_second(layout: str, side: int) -> None:
    data = compose(markers(side), counts={3: 500}, layout=layout, generator=generator())
    rows = (data.labels == torch.tensor([1, 1, 0, 1], dtype=torch.uint8)).all(1)
    first, second, third = (find(data.images[rows], value)[:, 0] for value in (1, 2, 4))
    seen = second >= 0  # the third may lie exactly on the second
    assert seen.float().mean() > 0.8
    low = side // 2
    assert ((second < low) == (third < low))[seen].all()
    assert ((first < low) != (third < low)).all()
    assert 0.4 < (first < low).float().mean() < 0.6


def test_grid_gives_each_label_a_cell_of_its_own_at_random() -> None:
    data = compose(markers(8), counts={1: 300, 4: 1200}, layout="grid", generator=generator())
    fours = data.images[data.multiplicity == 4]
    cells = torch.stack([find(fours, value) for value in range(1, 5)], 1)
    assert (cells % 8 == 0).all()
    numbers = cells[..., 0] // 8 * 2 + cells[..., 1] // 8
    assert (numbers.sort(1).values == torch.arange(4)).all()
    code = numbers @ torch.tensor([64, 16, 4, 1])
    assert_uniform(code.unique(return_inverse=True)[1], 24)  # each order of the four
    ones = data.images[data.multiplicity == 1]
    assert_uniform((ones[:, 0, ::8, ::8] > 0).flatten(1).long().argmax(1), 4)


@pytest.mark.parametrize("layout, side, most", [("mnist", 28, 3), ("mnist", 8, 3), ("cifar", 32, 3), ("grid", 8, 4)])
def test_images_equal_the_rolled_and_padded_sources(layout: str, side: int, most: int) -> None:
    """Where sources lie does not depend on their pixels: markers show it, and a plain loop puts the images there."""
    counts = dict.fromkeys(range(1, most + 1), 8)
    source = noise(side, channels=3)
    data = compose(source, counts=counts, layout=layout, generator=generator(5))
    shown = compose(markers(side), counts=counts, layout=layout, generator=generator(5))
    assert torch.equal(data.source_index, shown.source_index)
    checked = 0
    for image, marks, sources_of in zip(data.images, shown.images, data.source_index, strict=True):
        picked = sources_of[sources_of >= 0]
        places = [find(marks[None], int(source.labels[place]) + 1)[0].tolist() for place in picked]
        if [-1, -1] in places:  # a marker hidden under another
            continue
        expected = np.zeros((3, 2 * side, 2 * side), np.uint8)
        for place, shift in zip(picked, places, strict=True):
            canvas = np.pad(source.images[place].numpy(), ((0, 0), (0, side), (0, side)))
            expected = np.maximum(expected, np.roll(canvas, shift, (1, 2)))
        assert np.array_equal(image.numpy(), expected)
        checked += 1
    assert checked >= 0.9 * len(data)


def test_order_labels_and_trace_of_the_sources() -> None:
    source = noise(8)
    source = SourceImages(source.images, source.labels, source.class_names, 1000 + torch.arange(len(source)) * 3)
    data = compose(source, counts={2: 2, 1: 3, 3: 1}, layout="grid", generator=generator())
    assert data.images.dtype == data.labels.dtype == torch.uint8 and data.source_index.dtype == torch.int64
    expected = [s for m, n in ((1, 3), (2, 2), (3, 1)) for s in combinations(range(CLASSES), m) for _ in range(n)]
    assert [tuple(row.nonzero().flatten().tolist()) for row in data.labels] == expected
    assert data.multiplicity.tolist() == [len(label_set) for label_set in expected]
    assert data.label_set_counts() == dict(Counter(expected))
    for label_set, places in zip(expected, data.source_index.tolist(), strict=True):
        used, padding = places[: len(label_set)], places[len(label_set) :]
        assert [int(source.labels[(place - 1000) // 3]) for place in used] == list(label_set)
        assert set(padding) <= {-1}


def test_no_source_is_used_again_before_all_of_its_class_were() -> None:
    source = noise(8, per_class=16)
    once = compose(source, counts={1: 10, 2: 2}, layout="mnist", generator=generator())  # 10 + 3 * 2 of each class
    used = once.source_index[once.source_index >= 0]
    assert len(used) == len(used.unique()) == len(source)
    often = compose(source, counts={1: 37}, layout="mnist", generator=generator())
    assert set(often.source_index.flatten().bincount().tolist()) == {2, 3}


def test_the_draw_follows_the_generator_alone() -> None:
    source = noise(8)
    torch.manual_seed(1)
    first = compose(source, counts={1: 9, 2: 3}, layout="mnist", generator=generator(3))
    torch.manual_seed(2)
    again = compose(source, counts={1: 9, 2: 3}, layout="mnist", generator=generator(3))
    other = compose(source, counts={1: 9, 2: 3}, layout="mnist", generator=generator(4))
    assert torch.equal(first.images, again.images) and torch.equal(first.source_index, again.source_index)
    assert not torch.equal(first.images, other.images)
    assert not torch.equal(first.source_index, other.source_index)


def test_counts_of_single_label_sets_and_pair_groups() -> None:
    counts = {1: 2, 2: pair_group_counts(CLASSES, [5, 3, 1])}
    data = compose(noise(8), counts=counts, layout="mnist", generator=generator())
    pairs = {s: n for s, n in data.label_set_counts().items() if len(s) == 2}
    assert pairs == {(0, 1): 5, (0, 2): 5, (0, 3): 3, (1, 2): 3, (1, 3): 1, (2, 3): 1}
    groups = pair_group_counts(10, [500, 50, 5])
    assert list(groups) == list(combinations(range(10), 2))
    assert Counter(groups.values()) == {500: 15, 50: 15, 5: 15} and groups[0, 1] == 500 and groups[8, 9] == 5


def test_uncomposed_keeps_the_images() -> None:
    source = noise(8)
    data = uncomposed(source)
    assert torch.equal(data.images, source.images)
    assert torch.equal(data.labels.argmax(1), source.labels) and (data.multiplicity == 1).all()
    assert torch.equal(data.source_index[:, 0], torch.arange(len(source)))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"layout": "ring"}, "Expected layout to be one of mnist, cifar, grid, but got 'ring'"),
        ({"counts": {}}, r"Expected counts to give one image or more, but got \{\}"),
        ({"counts": {4: 1}}, "multiplicities between 1 and 3 for layout 'mnist' and 4 classes, but got 4"),
        ({"counts": {5: 1}, "layout": "grid"}, "multiplicities between 1 and 4"),
        ({"counts": {0: 1}}, "multiplicities between 1 and 3"),
        ({"counts": {1: 0, 2: {}}}, r"one image or more, but got \{1: 0"),
        ({"counts": {1: -2}}, "0 or more, but got -2"),
        ({"counts": {2: {(1, 0): 3}}}, r"label sets of 2 ascending class ids below 4, but got \(1, 0\)"),
        ({"counts": {2: {(0, 4): 3}}}, r"but got \(0, 4\)"),
    ],
)
def test_arguments_out_of_range_are_named(change: dict, message: str) -> None:
    arguments = {"counts": {1: 1}, "layout": "mnist"} | change
    with pytest.raises(ValueError, match=message):
        compose(noise(8), **arguments, generator=generator())


def test_sources_that_cannot_be_composed_are_refused() -> None:
    source = noise(8)
    oblong = SourceImages(source.images[..., :6], source.labels, source.class_names)
    with pytest.raises(ValueError, match="square source images of 4 pixels or more per side, but got 8 x 6"):
        compose(oblong, counts={1: 1}, layout="mnist", generator=generator())
    multi = SourceImages(source.images, torch.ones(len(source), 4, dtype=torch.uint8), source.class_names)
    with pytest.raises(ValueError, match="has multi-hot labels"):
        compose(multi, counts={1: 1}, layout="mnist", generator=generator())
    without_d = source.select((source.labels < 3).nonzero().squeeze(1))
    with pytest.raises(ValueError, match="class 'd' has none"):
        compose(without_d, counts={1: 1}, layout="mnist", generator=generator())
    with pytest.raises(ValueError, match="equal groups, but got 4 groups"):
        pair_group_counts(4, [1, 2, 3, 4])
    for groups in ([], [3, 0], [3, 2, 3]):
        with pytest.raises(ValueError, match="pair_groups to be different numbers of at least 1, but got"):
            pair_group_counts(4, groups)


@pytest.fixture
def mnist():
    """Training and test images of the real MNIST."""
    if not Path(os.environ.get("NCLIB_DATA_ROOT", "nowhere"), "MNIST/raw").is_dir():
        pytest.skip("set NCLIB_DATA_ROOT to a folder with MNIST/raw")
    return sources.load("mnist", train=True), sources.load("mnist", train=False)


def test_mlab_mnist_uses_no_training_digit_twice(mnist) -> None:
    data = compose(mnist[0], counts={1: 3100, 2: 200}, layout="mnist", generator=generator())
    assert tuple(data.images.shape) == (40_000, 1, 56, 56) and data.images.dtype == torch.uint8
    assert set(data.label_set_counts().values()) == {3100, 200}
    used = data.source_index[data.source_index >= 0]
    assert len(used) == 49_000 == len(used.unique())


@pytest.mark.timing
def test_mlab_mnist_is_composed_within_two_seconds(mnist) -> None:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        compose(mnist[0], counts={1: 3100, 2: 200}, layout="mnist", generator=generator())
        compose(mnist[1], counts={1: 800, 2: 50}, layout="mnist", generator=generator())
        times.append(time.perf_counter() - start)
    assert min(times) <= 2.0
