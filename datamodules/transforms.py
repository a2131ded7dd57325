"""Batch transforms: augmentation of a whole batch at once, with parameters drawn for each image.

torchvision's v2 transforms draw once a call, so a batch would get one crop. These take ``(N, C, H, W)`` uint8
and a generator on the images' device, and return the same shape and type; the generator's state and the
batch's size decide everything.
"""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


class RandomCrop:
    """Pad with zeros and crop back to the size, at another place for each image.

    Args:
        padding: pixels added on each side; shifts are uniform from -padding to +padding.
    """

    def __init__(self, padding: int):
        if padding < 0:
            raise ValueError(f"padding={padding} is no number of pixels; expected 0 or more")
        self.padding = padding

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        count, _, height, width = images.shape
        if self.padding == 0:
            return images
        shifts = 2 * self.padding + 1
        top, left = torch.randint(shifts, (2, count), generator=generator, device=images.device)
        padded = F.pad(images, (self.padding,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, shifts, shifts, H, W), a view
        return windows[torch.arange(count, device=images.device), :, top, left]


class RandomHorizontalFlip:
    """Mirror each image with probability ``p``."""

    def __init__(self, p: float = 0.5):
        if not 0 <= p <= 1:
            raise ValueError(f"p={p} is no probability; expected a number from 0 to 1")
        self.p = p

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        flipped = torch.rand(len(images), generator=generator, device=images.device) < self.p
        return torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)
