"""A mean over images, updated without waiting for the device."""

import torch
from torch import Tensor
from torchmetrics import Metric


class Mean(Metric):
    """The mean of a loss or a score over images, from a sum and a count per batch.

    torchmetrics' ``MeanMetric`` checks each value for NaN, which waits for the device; without that
    check it ignores the weights.
    """

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.zeros(()), "sum")
        self.add_state("images", torch.zeros((), dtype=torch.long), "sum")

    def update(self, total: Tensor, images: int | Tensor) -> None:
        """Args: total: sum over the images of a batch."""
        self.total.add_(total)
        self.images.add_(images)

    def compute(self) -> Tensor:
        return self.total / self.images
