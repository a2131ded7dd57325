"""Batch transforms: drawn for each image, decided by the generator alone."""

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import v2

from datamodules import AlternatingFlip, PerImage, RandomAffine, RandomCrop, RandomErasing, RandomHorizontalFlip
from datamodules.batch_transforms import RandomResizedCrop
from datamodules.sampling import BatchKey


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


@pytest.mark.parametrize("size", [7, 24, 40])
def test_a_resized_crop_has_torchvisions_pixels(size):
    images = torch.randint(256, (60, 3, 24, 24), dtype=torch.uint8, generator=generator(7))
    crop, key = RandomResizedCrop(size, aspects=torch.linspace(0.5, 2, 60)), BatchKey(torch.arange(60))
    out = crop(images, generator(), key)
    assert out.shape == (60, 3, size, size) and out.dtype == torch.uint8
    boxes = crop.boxes(images, generator(), key).int().T.tolist()
    usual = [
        v2.functional.resized_crop(image, top, left, high, wide, [size, size], antialias=True)
        for image, (high, wide, top, left) in zip(images, boxes, strict=True)
    ]
    assert len({tuple(box) for box in boxes}) > 50
    assert (out.int() - torch.stack(usual).int()).abs().max() <= 1  # torchvision rounds between its two passes


def test_resized_crops_are_drawn_as_torchvisions():
    """Areas and width / height in the file, of images of 400 × 200 that were squeezed to squares."""
    images, count = torch.zeros(1, 1, 400, 400, dtype=torch.uint8).expand(4000, -1, -1, -1), 4000
    crop = RandomResizedCrop(8, (0.1, 0.9), aspects=torch.full((count,), 2.0))
    high, wide, top, left = crop.boxes(images, generator(), BatchKey(torch.arange(count)))
    assert (top >= 0).all() and (left >= 0).all() and (top + high <= 400).all() and (left + wide <= 400).all()
    area, ratio = high * wide / 400**2, wide * 2 / high
    with torch.random.fork_rng():
        torch.manual_seed(0)
        usual = v2.RandomResizedCrop(8, (0.1, 0.9))
        drawn = [usual.make_params([torch.empty(1, 200, 400)]) for _ in range(count)]
    theirs = torch.tensor([[box["height"] * box["width"] / 80_000, box["width"] / box["height"]] for box in drawn])
    for share in (0.1, 0.5, 0.9):
        ours = torch.tensor([area.quantile(share), ratio.log().quantile(share)])
        usual = torch.tensor([theirs[:, 0].quantile(share), theirs[:, 1].log().quantile(share)])
        assert (ours - usual).abs().max() < 0.03


@pytest.mark.parametrize(
    ("aspect", "box"),  # height, width, top, left in a square of 60 pixels: the widest crop in the middle
    [(0.25, (20, 60, 20, 0)), (8.0, (60, 10, 0, 25))],
)
def test_where_no_crop_of_that_area_fits_it_is_the_largest_in_the_middle(aspect, box):
    crop = RandomResizedCrop(8, (1.0, 1.0), aspects=torch.tensor([aspect]))
    images = torch.zeros(1, 3, 60, 60, dtype=torch.uint8)
    assert tuple(crop.boxes(images, generator(), BatchKey(torch.tensor([0])))[:, 0].int().tolist()) == box


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


@pytest.mark.parametrize("transform", [RandomAffine(), RandomCrop(3), RandomHorizontalFlip(), RandomErasing()])
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
    with pytest.raises(ValueError, match=r"scale=\[0\.5, 0\.2\]"):
        RandomErasing(scale=(0.5, 0.2))
    with pytest.raises(ValueError, match="value=256"):
        RandomErasing(value=256)
    with pytest.raises(ValueError, match=r"scale=\[0, 1\]"):
        RandomAffine(scale=(0, 1))
    with pytest.raises(ValueError, match="shear=90"):
        RandomAffine(shear=90)


STILL = {"degrees": 0.0, "shift": 0.0, "scale": (1.0, 1.0)}


def test_an_affine_transform_of_nothing_changes_nothing(images):
    assert torch.equal(RandomAffine(**STILL)(images, generator()), images)


def extent(image):
    """The first and last row and column that are not black."""
    rows, columns = (image[0].amax(axis).nonzero().flatten() for axis in (1, 0))
    return rows[0].item(), rows[-1].item(), columns[0].item(), columns[-1].item()


def test_each_part_of_an_affine_transform_moves_pixels_by_what_it_says():
    """Of a bar of 8 × 4 pixels in the middle of 40 × 20."""
    bar = torch.zeros(2000, 1, 40, 20, dtype=torch.uint8)
    bar[:, :, 16:24, 8:12] = 255
    doubled = RandomAffine(**STILL | {"scale": (2.0, 2.0)})(bar, generator())
    assert extent(doubled[0] > 127) == (12, 27, 6, 13)  # 16 × 8, about the same centre
    moved = RandomAffine(**STILL | {"shift": 0.1})(bar, generator())
    top, _, left, _ = zip(*(extent(image > 127) for image in moved), strict=True)
    assert (min(top), max(top), min(left), max(left)) == (12, 20, 6, 10)  # a tenth of 40 and of 20
    turned = RandomAffine(**STILL | {"degrees": 90.0})(bar, generator())
    flattest = min(turned > 127, key=lambda image: extent(image)[1] - extent(image)[0])
    assert extent(flattest) == (18, 21, 6, 13)  # a bar keeps its shape, though the image is not square
    leaning = RandomAffine(**STILL | {"shear": 45.0})(bar, generator())
    assert {extent(image)[:2] for image in leaning > 127} == {(16, 23)}  # rows stay where they are
    assert 3 <= 8 - min(extent(image)[2] for image in leaning > 127) <= 4  # half of eight rows, at 45 degrees


def test_every_image_is_flipped_in_every_second_epoch_one_half_in_each(images):
    indices = torch.arange(500)
    flipped = []
    for epoch in range(4):
        out = AlternatingFlip()(images, generator(), BatchKey(indices, epoch))
        mirrored = (out == images.flip(3)).flatten(1).all(1)
        assert ((out == images).flatten(1).all(1) ^ mirrored).all()
        flipped.append(mirrored)
    assert torch.equal(flipped[0], ~flipped[1]) and torch.equal(flipped[0], flipped[2])
    assert torch.equal(flipped[1], flipped[3])
    assert 200 < flipped[0].sum() < 300
    runs = (flipped[0][1:] == flipped[0][:-1]).float().mean()  # no pattern in the order of the images
    assert 0.3 < runs < 0.7
    shuffled = torch.randperm(500, generator=generator(3))
    out = AlternatingFlip()(images[shuffled], generator(), BatchKey(shuffled, 0))
    assert torch.equal(out, AlternatingFlip()(images, generator(), BatchKey(indices, 0))[shuffled])


def erased(value=0, **options):
    """Where 4,000 white images of 20 × 30 were erased: (N, H, W)."""
    white = torch.full((4000, 3, 20, 30), 255, dtype=torch.uint8)
    out = RandomErasing(value=value, **options)(white, generator())
    assert out.shape == white.shape and out.dtype == torch.uint8
    assert torch.equal(out[:, 0], out[:, 2])
    return out[:, 0] == value


def test_erasing_cuts_one_rectangle_of_the_area_and_shape_asked_for():
    gone = erased(p=1.0, scale=(0.1, 0.3), ratio=(0.5, 2.0))
    rows, columns = gone.any(2).sum(1), gone.any(1).sum(1)
    assert torch.equal(rows * columns, gone.sum((1, 2)))  # a full rectangle
    shares = gone.float().mean((1, 2))
    assert shares.min() > 0.08 and shares.max() < 0.33  # whole pixels
    assert shares.mean() == pytest.approx(0.2, abs=0.005)  # uniform from 0.1 to 0.3
    ratios = (rows / columns).log()
    assert ratios.mean() == pytest.approx(0.0, abs=0.03) and ratios.abs().max() < 0.85  # log 2 is 0.69
    centres = gone.float().mean(0)
    assert centres[10, 15] > 2 * centres[0, 0] > 0  # anywhere inside, as windows of an image lie


def test_erasing_touches_a_share_of_the_images():
    gone = erased(p=0.3, scale=(0.1, 0.3))
    assert gone.flatten(1).any(1).float().mean() == pytest.approx(0.3, abs=0.03)
    assert not erased(p=0.0).any()


def test_erasing_fills_with_noise_unless_told_a_value(images):
    out = RandomErasing(1.0, scale=(1.0, 1.0), ratio=(1.2, 1.2))(images, generator())  # all of 12 × 10
    assert out.float().mean() == pytest.approx(127.5, abs=2)
    assert out.float().std() == pytest.approx(73.9, abs=2)
    assert not torch.equal(out[0], out[1])
    few = torch.zeros(3, 1, 5, 7, dtype=torch.uint8)  # 105 pixels, where four are drawn at once
    assert RandomErasing(1.0, scale=(1.0, 1.0), ratio=(0.7, 0.7))(few, generator()).bool().all(3).any()


def test_a_transform_of_torchvisions_is_drawn_for_each_image_by_itself_and_keyed(images):
    transform = PerImage(v2.TrivialAugmentWide())
    before = torch.get_rng_state()
    out = transform(images[:40], generator(), BatchKey(torch.arange(40), key=5))
    assert torch.equal(before, torch.get_rng_state())
    assert out.shape == (40, 3, 12, 10) and out.dtype == torch.uint8
    assert torch.equal(out, transform(images[:40], generator(), BatchKey(torch.arange(40), key=5)))
    assert not torch.equal(out, transform(images[:40], generator(), BatchKey(torch.arange(40), key=6)))
    same = images[:1].expand(40, -1, -1, -1)
    assert (
        len({tuple(image.flatten().tolist()) for image in transform(same, generator(), BatchKey(torch.arange(40)))})
        > 20
    )
