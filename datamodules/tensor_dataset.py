"""A data set in memory that is indexed by batch."""

from collections.abc import Sequence
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.sampling import BatchKey


class Batch(NamedTuple):
    """A batch from a loader."""

    images: Tensor  # (N, c, h, w) uint8
    labels: Tensor  # (N,) int64
    key: BatchKey
    errors: Sequence[tuple[int, str]] = ()  # (index, message) of each image file that was skipped


class TensorImages(Dataset):
    """Images in memory.

    Args:
        images: ``(N, C, H, W)`` uint8.
        labels: ``(N,)`` int64.
    """

    def __init__(self, images: Tensor, labels: Tensor):
        self.images, self.all_labels = images, labels
        self.indices = torch.arange(len(labels))

    @property
    def labels(self) -> Tensor:
        return self.all_labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def device(self) -> torch.device:
        return self.images.device

    def to(self, device: torch.device) -> "TensorImages":
        """A copy on a device, so that batches are not copied from the host."""
        moved = copy(self)
        moved.images, moved.all_labels = self.images.to(device), self.all_labels.to(device)
        moved.indices = self.indices.to(device)
        return moved

    def subset(self, indices: Tensor, training: bool) -> "TensorImages":
        """The images at ``indices``, without copying them."""
        part = copy(self)
        part.indices = self.indices[indices.to(self.device)]
        return part

    def __getitem__(self, key: BatchKey) -> Batch:
        indices = self.indices.index_select(0, key.indices)  # copies whole rows; images[indices] copies pixels
        return Batch(self.images.index_select(0, indices), self.all_labels.index_select(0, indices), key)
