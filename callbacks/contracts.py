"""What the callbacks need from the LightningModule and the data module, beyond Lightning's own methods.

Callbacks for a test by an Evaluator (reliability diagram, explanations) also need its ``probabilities``, ``labels`` and
``bins``.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchmetrics import Metric


class ImageClassifier(Protocol):
    """Its ``test_step`` returns the logits."""

    backbone: nn.Module  # (N, C, H, W) float → logits (N, num_classes)
    num_classes: int
    class_names: Sequence[str]
    memory_format: torch.memory_format
    confusion: Metric  # (true class, predicted class) counts of the test


class ImageData(Protocol):
    """A batch is a pair of images as the network sees them and labels ``(N,)`` or shares ``(N, num_classes)``."""

    sets: Mapping[str, Dataset]  # split → data with ``labels`` (N,) int64; image files also have ``samples``
    test_images: Dataset  # that of the split that is tested
    batch_size: int
    in_channels: int
    image_size: int

    def fetch(self, split: str, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images, uint8, and labels, without augmentation."""

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 pixels → the network's input."""

    def unnormalize(self, images: Tensor) -> Tensor:
        """The network's input → uint8 pixels."""

    def pixels(self, indices: Tensor) -> Tensor:
        """Test images as the network sees them, uint8."""
