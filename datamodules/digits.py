"""Handwritten digits that come with scikit-learn: no download, trained in seconds."""

from functools import cache

import torch

from datamodules.base import ImageDataModule, TensorImages

TEST_IMAGES = 360


class Digits(ImageDataModule):
    """1,797 grey digits of 8×8 pixels, enlarged to ``image_size`` (UCI optdigits; Alpaydin & Kaynak 1998).

    The set has no official test part. Here it is the last 360 images (a fifth), whose writers are not those of
    the first 1,437.
    """

    class_names = tuple("0123456789")
    mean = (0.306,)
    std = (0.323,)

    def load(self, split: str) -> TensorImages | None:
        if split == "val":
            return None
        digits = read_digits()
        part = slice(None, -TEST_IMAGES) if split == "train" else slice(-TEST_IMAGES, None)
        pixels = torch.from_numpy(digits.images[part]).mul(255 / 16).round().to(torch.uint8)  # stored as 0 to 16
        return TensorImages(self.resize(pixels.unsqueeze(1)), torch.from_numpy(digits.target[part]).long())


@cache  # the jobs of a sweep share them
def read_digits():
    """scikit-learn's bunch of ``images`` ``(1797, 8, 8)`` from 0 to 16 and ``target`` ``(1797,)``."""
    from sklearn.datasets import load_digits  # slow to import, and no other data needs it

    return load_digits()
