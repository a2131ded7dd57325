"""Images that are all in memory, and fetched by the batch."""

from copy import copy

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.sampling import BatchKey

# (uint8 images, labels, what was drawn): what a loader delivers.
Batch = tuple[Tensor, Tensor, BatchKey]


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
        """The same images in a device's memory, where batches of them are drawn without crossing the bus."""
        part = copy(self)
        part.images, part.all_labels, part.indices = (
            tensor.to(device) for tensor in (self.images, self.all_labels, self.indices)
        )
        return part

    def subset(self, indices: Tensor, training: bool) -> "TensorImages":
        """The images at ``indices``, without copying them."""
        part = copy(self)
        part.indices = self.indices[indices.to(self.device)]
        return part

    def __getitem__(self, draw: BatchKey) -> Batch:
        indices = self.indices.index_select(0, draw.indices)  # which copies rows; images[indices] goes pixel by pixel
        return self.images.index_select(0, indices), self.all_labels.index_select(0, indices), draw
