"""A mean that never waits for the device."""

import torch
from torch import Tensor
from torchmetrics import Metric


class Mean(Metric):
    """A mean over images, of batches that may differ in size.

    torchmetrics' ``MeanMetric`` looks at each value, which waits for the device; told not to, it forgets the weights.
    """

    full_state_update = False

    def __init__(self):
        super().__init__(compute_with_cache=False)  # which add would have to clear
        self.add_state("total", torch.zeros(()), "sum")
        self.add_state("images", torch.zeros((), dtype=torch.long), "sum")

    def update(self, total: Tensor, images: int | Tensor) -> None:
        """Args: total: the sum over a batch's images, a scalar; images: how many they are."""
        self.total.add_(total)
        self.images.add_(images)

    def add(self, total: Tensor, images: int | Tensor) -> None:
        """``update`` without torchmetrics' wrapper around it, which in a small network's step can be seen."""
        Mean.update(self, total, images)
        self.__dict__["_update_count"] += 1

    def compute(self) -> Tensor:
        return self.total / self.images

    def so_far(self) -> tuple[Tensor, Tensor, int]:
        """Sum, images and updates, for ``go_on`` in another process."""
        return self.total, self.images, self._update_count

    def go_on(self, total: Tensor, images: Tensor, updates: int) -> None:
        self.total, self.images, self._update_count = total, images, updates
