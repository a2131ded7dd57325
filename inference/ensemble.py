"""Several networks as one: the mean of their probabilities."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """Maps images to log-probabilities: the logarithm of the members' mean probabilities.

    Args:
        members: map ``(N, C, H, W)`` float images to logits of the same classes.
    """

    def __init__(self, members: Iterable[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """``(N, C, H, W)`` → ``(N, num_classes)`` float32, whose softmax is the mean of the members' softmax."""
        each = torch.stack([member(images).float().log_softmax(1) for member in self.members])  # (M, N, num_classes)
        return each.logsumexp(0) - math.log(len(self.members))
