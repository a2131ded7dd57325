"""Loss and accuracy of an epoch's training, at next to no cost in a step."""

import torch
from torch import Tensor, nn

from lit_modules.mean import Mean

AT_ONCE = 50  # batches


class TrainingScores(nn.Module):
    """Mean loss and top-1 accuracy over the images of an epoch's training so far.

    A step only keeps its loss and its predictions. They are counted fifty batches at a time: that takes a dozen small
    operations, which in each step of a small network would be seen.

    Args:
        only_finite: leave out the batches whose loss is not a finite number.

    Attributes:
        loss, top1: to be logged; right whenever they are asked.
        sound: how many batches were counted before the first whose loss was not finite, on the device; before
            ``begin`` None.
    """

    def __init__(self, only_finite: bool = False):
        super().__init__()
        self.only_finite = only_finite
        self.loss, self.top1 = Mean(self.count), Mean(self.count)
        self.sound: Tensor | None = None
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def begin(self, device: torch.device) -> None:
        """Where an epoch begins, or a run goes on within one."""
        self._kept, self.sound = [], torch.zeros((), dtype=torch.long, device=device)
        for mean in self.children():
            mean.update(torch.zeros((), device=device), 0)  # lest torchmetrics warn that it has had nothing

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """One batch. Args: loss: its mean, ``()``; logits: ``(N, num_classes)``; labels: ``(N,)`` int64."""
        if len(self._kept) == AT_ONCE or self._kept and len(self._kept[0][2]) != len(labels):
            self.count()
        self._kept.append((loss.detach(), logits.argmax(1), labels))

    def count(self) -> None:
        """Count what is kept. Waits for nothing."""
        if not self._kept:
            return
        losses, predictions, labels = (torch.stack(parts) for parts in zip(*self._kept, strict=True))
        self._kept = []
        losses, hits, images = losses.float(), (predictions == labels).sum(1), labels.numel()
        finite = losses.isfinite()
        if self.only_finite:
            losses, hits, images = losses.where(finite, 0), hits * finite, finite.sum() * labels.shape[1]
        else:  # a sum stays what it is once it is not finite
            self.sound += finite.cumprod(0).sum() * self.loss.total.isfinite()
        self.loss.update(losses * labels.shape[1], images)
        self.top1.update(hits.sum(), images)

    def so_far(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Sum and number of images of each score, for ``go_on`` in another process."""
        self.count()
        return {name: (mean.total, mean.images) for name, mean in self.named_children()}

    def go_on(self, so_far: dict[str, tuple[Tensor, Tensor]]) -> None:
        for name, (total, images, *_) in so_far.items():  # older checkpoints have a third part
            mean = self.get_submodule(name)
            mean.reset()
            mean.update(total, images)
