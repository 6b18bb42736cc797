import pytest
import torch
import torch.nn.functional as F

from nclib.data.augment import random_crop, random_flip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(count=8, channels=3, height=6, width=5, dtype=torch.uint8):
    # no two pixels alike, none 0, so that a crop tells where it was taken
    size = channels * height * width
    return (torch.arange(size) + 1).view(1, channels, height, width).expand(count, -1, -1, -1).to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_every_crop_is_a_shift_and_all_shifts_are_as_likely(dtype):
    count = 8100
    images = random_images(count, channels=2, dtype=dtype)
    cropped = random_crop(images, padding=4, generator=seeded())
    assert cropped.dtype == dtype and cropped.shape == images.shape
    padded = F.pad(images[0], (4, 4, 4, 4))
    places = torch.stack([padded[:, i : i + 6, j : j + 5] for i in range(9) for j in range(9)])
    matches = (cropped[:, None] == places[None]).flatten(2).all(2).sum(0)
    # Large shifts of a narrow image look alike: where nothing is left of it, several places match.
    distinct = [i * 9 + j for i in range(9) for j in range(9)]
    assert (cropped[:, None] == places[None]).flatten(2).all(2).any(1).all()
    # 8100 draws of 81 places: 100 each, with a deviation of 10
    assert all(50 <= matches[place] <= 150 for place in distinct)


def test_images_of_a_batch_move_independently():
    down = random_crop(random_images(500, 1, 9, 9), padding=2, generator=seeded())[:, 0]
    places = {tuple(image.flatten().tolist()) for image in down}
    assert len(places) == 25


def test_flips_half_of_the_images_whole():
    images = random_images(2000)
    flipped = random_flip(images, generator=seeded())
    kept = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert 900 <= kept.sum() <= 1100


@pytest.mark.parametrize(
    "augment", [lambda x, g: random_crop(x, padding=2, generator=g), lambda x, g: random_flip(x, generator=g)]
)
def test_the_generator_decides_alone(augment):
    images = random_images(64)
    before = torch.get_rng_state()
    first = augment(images, seeded(1))
    assert torch.equal(first, augment(images, seeded(1)))
    assert not torch.equal(first, augment(images, seeded(2)))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(images, random_images(64))  # the input is not touched


def test_no_padding_changes_nothing():
    assert torch.equal(random_crop(random_images(), padding=0, generator=seeded()), random_images())


def test_nothing_is_read_back_from_the_device():
    # The meta device has no values: whatever reads one raises.
    images = torch.empty(4, 3, 8, 8, dtype=torch.uint8, device="meta")
    assert random_flip(random_crop(images, padding=4)).shape == images.shape
