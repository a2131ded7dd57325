"""Batch transforms: drawn for each image, decided by the generator alone."""

import pytest
import torch
from torch.nn import functional as F

from datamodules import RandomCrop, RandomHorizontalFlip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.randint(1, 256, (500, 3, 12, 10), dtype=torch.uint8, generator=generator(7))


def test_each_crop_is_a_window_of_its_padded_image_and_they_differ(images):
    out = RandomCrop(2)(images, generator())
    assert out.shape == images.shape
    assert out.dtype == torch.uint8
    padded = F.pad(images, (2, 2, 2, 2))
    places = []
    for image, source in zip(out, padded, strict=True):
        fits = [(y, x) for y in range(5) for x in range(5) if torch.equal(image, source[:, y : y + 12, x : x + 10])]
        assert len(fits) == 1
        places += fits
    counts = torch.zeros(5, 5)
    for y, x in places:
        counts[y, x] += 1
    assert (counts > 0).all()  # 500 draws among 25 places: each is missed with probability 1e-9


def test_flips_are_each_images_own(images):
    out = RandomHorizontalFlip(0.5)(images, generator())
    flipped = [torch.equal(a, b.flip(2)) for a, b in zip(out, images, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(out, images, strict=True)]
    assert all(f != k for f, k in zip(flipped, kept, strict=True))
    assert 180 < sum(flipped) < 320


@pytest.mark.parametrize(("p", "expected"), [(0, False), (1, True)])
def test_flip_probability_bounds(images, p, expected):
    out = RandomHorizontalFlip(p)(images, generator())
    assert torch.equal(out, images.flip(3) if expected else images)


@pytest.mark.parametrize("transform", [RandomCrop(3), RandomHorizontalFlip()])
def test_the_generator_decides(transform, images):
    assert torch.equal(transform(images, generator(1)), transform(images, generator(1)))
    assert not torch.equal(transform(images, generator(1)), transform(images, generator(2)))
    before = torch.get_rng_state()
    transform(images, generator(1))
    assert torch.equal(before, torch.get_rng_state())


def test_no_padding_changes_nothing(images):
    assert torch.equal(RandomCrop(0)(images, generator()), images)


def test_bad_parameters_are_refused():
    with pytest.raises(ValueError, match="padding=-1"):
        RandomCrop(-1)
    with pytest.raises(ValueError, match=r"p=1\.5"):
        RandomHorizontalFlip(1.5)
