"""A mean that never waits for the device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class Mean(Metric):
    """A mean over images, of batches that may differ in size.

    torchmetrics' ``MeanMetric`` looks at each value, which waits for the device; told not to, it forgets the weights.

    Args:
        first: called before the mean is computed; it may still update it.
    """

    full_state_update = False

    def __init__(self, first: Callable[[], None] | None = None):
        super().__init__(compute_with_cache=False)  # which would keep first from being called again
        self.first = first
        self.add_state("total", torch.zeros(()), "sum")
        self.add_state("images", torch.zeros((), dtype=torch.long), "sum")

    def update(self, total: Tensor, images: int | Tensor) -> None:
        """Args: total: the sum over a batch's images, or of several batches a sum each, ``(B,)``; images: in all.

        Sums are added one by one, so that it makes no difference, not even in rounding, how many come at once.
        """
        for one in total.reshape(-1):
            self.total.add_(one)
        self.images.add_(images)

    def sync(self, *args: Any, **options: Any) -> None:
        """What torchmetrics begins to compute with, in one process as in many."""
        if self.first is not None:
            self.first()
        super().sync(*args, **options)

    def compute(self) -> Tensor:
        return self.total / self.images
