"""Random images with learnable labels, for benchmarks and tests."""

import torch

from datamodules.base import ImageDataModule
from datamodules.tensor_dataset import TensorImages


class Synthetic(ImageDataModule):
    """Noise with a brighter horizontal band, whose position is the class: easy to learn, any size and number.

    Args:
        num_images: number of training images; the test set has a fifth of that.
    """

    source_folder = None
    mean = (0.5,)
    std = (0.25,)

    def __init__(self, num_classes: int, in_channels: int, image_size: int, num_images: int = 2048, **options):
        self.class_names = tuple(f"band {i}" for i in range(num_classes))
        super().__init__(num_classes, in_channels, image_size, **options)
        self.num_images = num_images

    def load(self, split: str) -> TensorImages | None:
        if split == "val":
            return None
        count = self.num_images if split == "train" else max(self.num_images // 5, self.num_classes)
        generator = torch.Generator().manual_seed(2 * self.seed + (split == "test"))
        size = self.image_size
        images = torch.randint(0, 192, (count, self.in_channels, size, size), dtype=torch.uint8, generator=generator)
        labels = torch.arange(count) % self.num_classes
        rows = torch.arange(size) * self.num_classes // size  # the class whose band each row belongs to
        images += 63 * (rows == labels[:, None]).to(torch.uint8)[:, None, :, None]
        return TensorImages(images, labels)
