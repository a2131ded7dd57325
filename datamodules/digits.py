"""Handwritten digits that are part of this project: no download, training takes seconds.

``digits.csv.gz`` holds 8×8 pixels from 0 to 16 and the label of each image, one image per line: the test part of
"Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998), published by the UCI Machine Learning
Repository, doi.org/10.24432/C50P49, under the licence CC BY 4.0. The file is the one in scikit-learn, unchanged.
"""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.base import ImageDataModule
from datamodules.tensor_dataset import TensorImages

TEST_IMAGES = 382


class Digits(ImageDataModule):
    """1,797 grey digits of 8×8 pixels, enlarged to ``image_size`` (UCI optdigits; Alpaydin & Kaynak 1998).

    There is no official test set; here it is the last 382 images (a fifth). The file does not name the writers, but the
    labels restart with each sheet of about 130 digits, as they do at image 1,415: no sheet is in both splits.
    """

    class_names = tuple("0123456789")
    source_folder = None
    mean = (0.306,)
    std = (0.323,)

    def load(self, split: str) -> TensorImages | None:
        if split == "val":
            return None
        images, labels = read_digits()
        part = slice(None, -TEST_IMAGES) if split == "train" else slice(-TEST_IMAGES, None)
        pixels = images[part].mul(255 / 16).round().to(torch.uint8)
        return TensorImages(self.resize(pixels.unsqueeze(1)), labels[part])


@cache  # shared by the jobs of a sweep
def read_digits() -> tuple[Tensor, Tensor]:
    """Images ``(1797, 8, 8)`` float32 from 0 to 16, and labels ``(1797,)`` int64."""
    table = np.loadtxt(Path(__file__).with_name("digits.csv.gz"), dtype=np.int64, delimiter=",")
    return torch.from_numpy(table[:, :-1]).float().view(-1, 8, 8), torch.from_numpy(table[:, -1])
