"""The steps from an image to the input of a network, in training, evaluation and prediction."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

LONGEST = 16  # in short sides: longer images are cut to this length before the central crop
TALL = 32  # in widths: the height of taller images is resized first


class Preprocessing:
    """Convert uint8 images of any size, grey or RGB, to the input of a network.

    Args:
        in_channels: of the network, 1 or 3: grey images are repeated, RGB images converted to grey.
        image_size: height and width in pixels.
        mean, std: of each channel, for pixels from 0 to 1; three values are reduced to luminance for a grey network.
        resize_ratio: images are resized to ``image_size * resize_ratio``, then cropped at the centre; None resizes
            whole images.

    Attributes:
        values: these arguments, as plain values.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        resize_ratio: float | None = None,
    ):
        if len(mean) != len(std) or len(mean) not in (1, 3) or min(std) <= 0:
            raise ValueError(
                f"mean={list(mean)} and std={list(std)}; expected a mean and a positive deviation per channel"
            )
        if in_channels not in (1, 3):
            raise ValueError(f"in_channels={in_channels} is neither 1 (grey) nor 3 (RGB)")
        if in_channels == 1 and len(mean) == 3:  # torchvision's weights of the colours; channels are correlated
            mean = (sum(w * m for w, m in zip((0.2989, 0.587, 0.114), mean, strict=True)),)
            std = (sum(std) / 3,)
        self.in_channels, self.image_size, self.mean, self.std = in_channels, image_size, mean, std
        self.values = {"in_channels": in_channels, "image_size": image_size, "mean": list(mean), "std": list(std)}
        self._crop = None
        if resize_ratio is not None:
            if resize_ratio < 1:
                raise ValueError(f"resize_ratio={resize_ratio}; expected 1 or more")
            self.values["resize_ratio"] = resize_ratio
            self._crop = v2.Compose([v2.Resize(round(image_size * resize_ratio)), v2.CenterCrop(image_size)])
        means, deviations = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (mean, std))
        self._scale, self._shift = 1 / (255 * deviations), -means / deviations

    def __call__(self, images: Tensor) -> Tensor:
        """``(N, 1 or 3, h, w)`` uint8 → ``(N, in_channels, image_size, image_size)`` float32."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            kind = f"{images.dtype} of {tuple(images.shape)}".removeprefix("torch.")
            raise ValueError(f"images are {kind}; expected uint8 of (N, 1 or 3, height, width)")
        return self.normalize(self.fit(images))

    def fit(self, images: Tensor) -> Tensor:
        """``(…, c, h, w)`` uint8 of any size → ``(…, c, image_size, image_size)`` uint8, as in evaluation."""
        return self._crop(without_ends(images)) if self._crop else self.resize(images)

    def resize(self, images: Tensor) -> Tensor:
        """``(…, c, h, w)`` uint8 → ``(…, c, image_size, image_size)`` uint8."""
        height, width = images.shape[-2:]
        if (height, width) == (self.image_size, self.image_size):
            return images
        if height > TALL * width:  # otherwise the width would be resized first, in all rows
            images = F.resize(images, [self.image_size, width], antialias=True)
        return F.resize(images, [self.image_size, self.image_size], antialias=True)

    def normalize(self, images: Tensor) -> Tensor:
        """``(N, c, h, w)`` uint8 → ``(N, in_channels, h, w)`` float32 of mean 0 and deviation 1."""
        if self._scale.device != images.device:
            self._scale, self._shift = self._scale.to(images.device), self._shift.to(images.device)
        if images.shape[1] > self.in_channels:
            images = F.rgb_to_grayscale(images)
        elif images.shape[1] < len(self.mean):  # grey images for an RGB network
            images = images.expand(-1, len(self.mean), -1, -1)
        images = images.to(torch.float32).mul_(self._scale).add_(self._shift)
        return images.expand(-1, self.in_channels, -1, -1)

    def unnormalize(self, images: Tensor) -> Tensor:
        """The input of a network, ``(N, in_channels, h, w)``, → uint8 images to look at."""
        images = images.float()
        return ((images - self._shift.to(images)) / self._scale.to(images)).round().clamp(0, 255).to(torch.uint8)


def without_ends(images: Tensor) -> Tensor:
    """Cut off most of what a central crop would discard from very long images ``(…, h, w)``.

    Otherwise, resizing an image of 1×100,000 pixels before the crop would take gigabytes.
    """
    height, width = images.shape[-2:]
    top, left = (max(0, (long - LONGEST * short) // 2) for long, short in ((height, width), (width, height)))
    return images[..., top : height - top, left : width - left]
