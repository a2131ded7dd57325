"""The interfaces that callbacks need from the LightningModule and the data module, beyond Lightning's.

Callbacks for the Evaluator (reliability diagram, explanations) also need ``probabilities``, ``labels`` and ``bins``.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchmetrics import Metric


class ImageClassifier(Protocol):
    """A LightningModule whose ``test_step`` returns the logits."""

    backbone: nn.Module  # (N, C, H, W) float → logits (N, num_classes)
    num_classes: int
    class_names: Sequence[str]
    memory_format: torch.memory_format
    confusion: Metric  # (true class, predicted class) counts of the test


class ImageData(Protocol):
    """A batch is a pair of images as the network sees them and labels ``(N,)`` or shares ``(N, num_classes)``."""

    sets: Mapping[str, Dataset]  # split → data with ``labels`` (N,) int64; image files also have ``samples``
    test_images: Dataset  # data of the tested split
    batch_size: int
    in_channels: int
    image_size: int

    def fetch(self, split: str, indices: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 images and labels, without augmentation."""

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 pixels → the network's input."""

    def unnormalize(self, images: Tensor) -> Tensor:
        """The network's input → uint8 pixels."""

    def pixels(self, indices: Tensor) -> Tensor:
        """uint8 test images, cropped and resized for the network."""
