"""Batch transforms: augment a whole batch at once, with parameters drawn per image.

torchvision's v2 transforms draw parameters once per call, so all images of a batch would get the same crop. These take
``(N, C, H, W)`` uint8, a generator on the images' device and the ``BatchKey``, and return the same shape and type
(``RandomResizedCrop``: another height and width). The output depends on nothing else.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from datamodules.sampling import BatchKey, seeded


def _check_probability(p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"p={p}: expected a probability from 0 to 1")


def check_scale(scale: Sequence[float], name: str = "scale") -> None:
    """Raise a ValueError for bounds that are not shares of an image's area."""
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"{name}={list(scale)}: expected 0 < from <= to <= 1")


@lru_cache(maxsize=8)  # most batches have the same shape
def _row_starts(shape: torch.Size, padding: int, device: torch.device) -> Tensor:
    """The offset of each row of an unshifted crop in a flat batch of padded images, ``(N, C, H)``."""
    count, channels, height, width = shape
    high, wide = height + 2 * padding, width + 2 * padding
    corners = torch.arange(count * channels, device=device).view(count, channels, 1) * (high * wide)
    return corners + torch.arange(height, device=device) * wide


class RandomCrop:
    """Pad with zeros and crop to the original size, at a random position per image.

    Args:
        padding: pixels added on each side; shifts are uniform from -padding to +padding.
    """

    def __init__(self, padding: int):
        if padding < 0:
            raise ValueError(f"padding={padding}: expected 0 or more pixels")
        self.padding = padding

    def __call__(self, images: Tensor, generator: Generator, key: BatchKey | None = None) -> Tensor:
        count, _, height, width = images.shape
        if self.padding == 0:
            return images
        shifts, wide = 2 * self.padding + 1, width + 2 * self.padding
        top, left = torch.randint(shifts, (2, count), generator=generator, device=images.device)
        padded = F.pad(images, (self.padding,) * 4).flatten()
        starts = _row_starts(images.shape, self.padding, images.device) + (top * wide + left).view(-1, 1, 1)
        # unfold is a view of all slices with a row's length, so that each row is copied as a whole.
        return padded.unfold(0, width, 1).index_select(0, starts.flatten()).view(images.shape)


class RandomResizedCrop:
    """Crop a rectangle of random position, area and aspect ratio from each image, and resize it (Szegedy et al. 2015).

    The pixels differ by at most 1 of 255 from torchvision's antialiased transform of one image, because both passes are
    exact here.

    Args:
        size: height and width of the result.
        scale: bounds of the area as a share of the image.
        ratio: bounds of width / height, uniform in the logarithm.
        aspects: ``(number of training images,)``, width / height before images were made square; None: all are square.
    """

    tries = 10  # to draw a rectangle inside the image

    def __init__(
        self,
        size: int,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        aspects: Tensor | None = None,
    ):
        check_scale(scale)
        self.size, self.scale, self.ratio, self.aspects = size, scale, ratio, aspects

    def __call__(self, images: Tensor, generator: Generator, key: BatchKey) -> Tensor:
        high, wide, top, left = self.boxes(images, generator, key)
        images = _resize_rows(images.to(torch.float32), top, high, self.size)  # (N, C, size, W)
        images = _resize_rows(images.mT, left, wide, self.size).mT  #             (N, C, size, size)
        return images.round().clamp_(0, 255).to(torch.uint8, memory_format=torch.contiguous_format)

    def boxes(self, images: Tensor, generator: Generator, key: BatchKey) -> Tensor:
        """``(4, N)`` float32: height, width, top and left of each rectangle, in whole pixels of the images."""
        count, _, height, width = images.shape
        aspects = torch.full((count,), height / width, device=images.device)
        if self.aspects is not None:
            self.aspects = self.aspects.to(images.device)
            aspects = self.aspects[key.indices] * aspects
        area, ratio = torch.rand(2, self.tries, count, generator=generator, device=images.device)
        area = torch.lerp(*_bounds(self.scale, area))
        ratio = torch.lerp(*_bounds([math.log(bound) for bound in self.ratio], ratio)).exp()
        # Both of shape (tries, N), as shares of the sides.
        high, wide = (area * aspects / ratio).sqrt(), (area / aspects * ratio).sqrt()
        inside = (high <= 1) & (wide <= 1)
        first = inside.to(torch.uint8).argmax(0, keepdim=True)
        found = inside.any(0)
        high = torch.where(found, high.gather(0, first)[0], (aspects / self.ratio[0]).clamp(max=1))
        wide = torch.where(found, wide.gather(0, first)[0], (self.ratio[1] / aspects).clamp(max=1))
        high, wide = (high * height).round().clamp(1, height), (wide * width).round().clamp(1, width)
        place = torch.rand(2, count, generator=generator, device=images.device)
        top, left = torch.where(found, place * torch.stack([height - high + 1, width - wide + 1]), 0).floor()
        top = torch.where(found, top, ((height - high) / 2).floor())
        left = torch.where(found, left, ((width - wide) / 2).floor())
        return torch.stack([high, wide, top, left])


def _resize_rows(images: Tensor, start: Tensor, length: Tensor, size: int) -> Tensor:
    """Resize a range of rows of each image with a triangular filter, widened by the scale if that is above 1.

    Args:
        images: ``(N, C, H, W)`` float32.
        start, length: ``(N,)``, the first row and the number of rows of each image.

    Returns:
        ``(N, C, size, W)``.
    """
    count, channels, height, width = images.shape
    scale = (length / size)[:, None, None]  # (N, 1, 1)
    reach, start = scale.clamp(min=1), start[:, None, None]
    centres = start + scale * (torch.arange(size, device=images.device)[:, None] + 0.5)  # (N, size, 1)
    steps = torch.arange(math.ceil(2 * max(1, height / size)) + 1, device=images.device)
    rows = (centres - reach + 0.5).floor() + steps  # (N, size, T): the rows under each filter
    weights = (1 - (rows + 0.5 - centres).abs() / reach).clamp(min=0)
    weights = weights * (rows >= start) * (rows < start + length[:, None, None])
    weights = weights / weights.sum(2, keepdim=True)
    corners = torch.arange(count * channels, device=images.device).view(count, channels, 1, 1) * height
    rows = rows.clamp(0, height - 1).long()[:, None] + corners  # (N, C, size, T), of all images' rows
    weights = weights[:, None].expand(rows.shape)
    bags, weights = rows.flatten(0, 2), weights.flatten(0, 2)
    summed = F.embedding_bag(bags, images.reshape(-1, width), per_sample_weights=weights, mode="sum")
    return summed.view(count, channels, size, width)


def _where(chosen: Tensor, changed: Tensor, images: Tensor) -> Tensor:
    """``torch.where`` for a bool and two uint8 tensors, in place in ``changed``.

    uint8 wraps around, so the result is exact; on a CPU this is two to six times as fast, because it is vectorised.
    """
    return changed.sub_(images).mul_(chosen).add_(images)


class RandomHorizontalFlip:
    """Mirror each image with probability ``p``."""

    def __init__(self, p: float = 0.5):
        _check_probability(p)
        self.p = p

    def __call__(self, images: Tensor, generator: Generator, key: BatchKey | None = None) -> Tensor:
        flipped = torch.rand(len(images), generator=generator, device=images.device) < self.p
        return _where(flipped.view(-1, 1, 1, 1), images.flip(3), images)


class AlternatingFlip:
    """Mirror each image in every second epoch, half of the images in even epochs (Jordan 2024, "94% on CIFAR-10").

    Any two consecutive epochs then show each image both ways; with independent flips, half of the images are the
    same in both.
    """

    def __call__(self, images: Tensor, generator: Generator, key: BatchKey) -> Tensor:
        mixed = key.indices * 0x9E3779B1  # a hash, so that the halves do not depend on the images' order
        mixed = (mixed ^ mixed >> 15) * 0x85EBCA77
        flipped = ((mixed >> 13) + key.epoch) % 2 == 1
        return _where(flipped.view(-1, 1, 1, 1), images.flip(3), images)


class RandomAffine:
    """Rotate, shift, scale and shear each image about the centre, with bilinear interpolation and black padding.

    Args:
        degrees: rotations are uniform from -degrees to +degrees.
        shift: as a share of height and width, uniform from -shift to +shift.
        scale: bounds of the magnification, uniform.
        shear: angle of vertical lines in degrees, uniform from -shear to +shear.
    """

    def __init__(
        self, degrees: float = 10.0, shift: float = 0.1, scale: Sequence[float] = (0.9, 1.1), shear: float = 0.0
    ):
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale={list(scale)}: expected 0 < from <= to")
        if not 0 <= shear < 90:
            raise ValueError(f"shear={shear}: expected degrees from 0 to below 90")
        self.degrees, self.shift, self.scale, self.shear = degrees, shift, scale, shear

    def __call__(self, images: Tensor, generator: Generator, key: BatchKey | None = None) -> Tensor:
        count, _, height, width = images.shape
        angle, slant, right, down, size = torch.rand(5, count, generator=generator, device=images.device)
        angle, slant = (math.radians(limit) * (2 * u - 1) for limit, u in ((self.degrees, angle), (self.shear, slant)))
        right, down = (2 * self.shift * (2 * u - 1) for u in (right, down))  # affine_grid's coordinates are -1 to 1
        size = torch.lerp(*_bounds(self.scale, size))
        # Maps output to input pixels: rotate(angle) @ [[1, tan(slant)], [0, 1]] / size
        cos, sin, tan = angle.cos() / size, angle.sin() / size, slant.tan()
        row_x = (cos, (cos * tan - sin) * (height / width), right)
        row_y = (sin * (width / height), sin * tan + cos, down)
        theta = torch.stack([*row_x, *row_y], 1).view(-1, 2, 3)
        grid = F.affine_grid(theta, images.shape, align_corners=False)  # (N, H, W, 2)
        return F.grid_sample(images.float(), grid, align_corners=False).round_().to(torch.uint8)


class RandomErasing:
    """Fill a rectangle of random position and size in each image (Zhong et al. 2017).

    Args:
        p: the probability to change an image.
        scale: bounds of the area as a share of the image. The rectangle is cropped at the image's borders.
        ratio: bounds of height / width, uniform in the logarithm.
        value: pixel value, 0 to 255; None fills with noise.
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: Sequence[float] = (0.02, 0.4),
        ratio: Sequence[float] = (0.3, 1 / 0.3),
        value: int | None = None,
    ):
        _check_probability(p)
        check_scale(scale)
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"ratio={list(ratio)}: expected 0 < from <= to")
        if value is not None and not 0 <= value <= 255:
            raise ValueError(f"value={value}: expected 0 to 255, or null for noise")
        self.p, self.scale, self.ratio, self.value = p, scale, [math.log(bound) for bound in ratio], value

    def __call__(self, images: Tensor, generator: Generator, key: BatchKey | None = None) -> Tensor:
        count, _, height, width = images.shape
        device = images.device
        chance, area, ratio, top, left = torch.rand(5, count, generator=generator, device=device)
        area = torch.lerp(*_bounds(self.scale, area)) * height * width
        ratio = torch.lerp(*_bounds(self.ratio, ratio)).exp()
        tall = (area * ratio).sqrt().round().clamp(1, height)  # (N,)
        wide = (area / ratio).sqrt().round().clamp(1, width)
        top = (top * (height - tall + 1)).floor()
        left = (left * (width - wide + 1)).floor()
        rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
        in_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])  # (N, H)
        in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])  # (N, W)
        erased = in_rows[:, :, None] & in_columns[:, None, :] & (chance < self.p)[:, None, None]  # (N, H, W)
        if self.value is None:
            size, options = (-(-images.numel() // 4),), {"device": device, "dtype": torch.int32}
            words = torch.randint(-(2**31), 2**31 - 1, size, generator=generator, **options)  # four pixels at once
            filling = words.view(torch.uint8)[: images.numel()].view(images.shape)
        else:
            filling = torch.full_like(images, self.value)
        return _where(erased[:, None], filling, images)


def _bounds(pair: Sequence[float], share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments of ``torch.lerp``: low, high and weight."""
    low, high = (torch.full_like(share, bound) for bound in pair)
    return low, high, share


class PerImage:
    """Apply a transform of torchvision to each image separately, so that parameters are drawn per image.

    It costs a Python call per image. For image folders use ``image_transforms``, which run when files are decoded.

    Args:
        transform: maps ``(C, H, W)`` uint8 to the same shape and type; such as torchvision's ``v2.TrivialAugmentWide``.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor]):
        self.transform = transform

    def __call__(self, images: Tensor, generator: Generator, key: BatchKey) -> Tensor:
        with seeded(key.key):  # torchvision's transforms draw from the global generator
            return torch.stack([self.transform(image) for image in images])
