"""Handle NaN and infinite training losses: stop the training, or skip the optimizer step."""

import torch
from lightning import Trainer
from torch import Tensor, nn


class NonFiniteGuard:
    """Checks the losses and weights of a training.

    To stop a training, ``check_loss`` reads the running sum of the losses occasionally, because reading waits for the
    GPU. To skip steps, ``observe`` and ``step_is_finite`` check each optimizer step, which waits each time.

    Attributes:
        skipped_steps: optimizer steps skipped so far.
    """

    def __init__(self):
        self.skipped_steps = 0
        self._buffers: list[Tensor] = []
        self._finite: Tensor | None = None  # whether all losses for the next step are finite

    def check_loss(self, loss_sum: Tensor, trainer: Trainer, batch: int, step: int) -> None:
        """Raise a ValueError if the sum of an epoch's losses is not finite in any process."""
        total = trainer.strategy.reduce(loss_sum.detach().clone(), reduce_op="sum")
        if not total.isfinite():
            raise self.error(f"the running loss is {total.item()}", trainer, batch, step)

    def check_weights(self, backbone: nn.Module, trainer: Trainer, batch: int) -> None:
        """Raise a ValueError if a weight is not finite, which can follow a finite loss. Waits for the device."""
        weights = [p.detach() for p in backbone.parameters() if p.is_floating_point()]
        if weights and not torch.stack([weight.isfinite().all() for weight in weights]).all():
            raise self.error("weights are not finite", trainer, batch, trainer.global_step)

    def snapshot_buffers(self, backbone: nn.Module) -> None:
        """Before the first batch of an optimizer step: save the buffers, which batch norm changes."""
        self._buffers, self._finite = [buffer.clone() for buffer in backbone.buffers()], None

    def observe(self, finite: Tensor) -> None:
        """Args: finite: whether a batch's loss is finite, ``()`` bool."""
        self._finite = finite if self._finite is None else self._finite & finite

    def step_is_finite(self, backbone: nn.Module, trainer: Trainer) -> bool:
        """Whether all losses of an optimizer step are finite, in all processes; if not, restore the buffers."""
        finite = trainer.strategy.reduce(self._finite.float(), reduce_op="min").item() == 1
        if not finite:
            self.skipped_steps += 1
            for buffer, before in zip(backbone.buffers(), self._buffers, strict=True):
                buffer.copy_(before)
        return finite

    @staticmethod
    def error(problem: str, trainer: Trainer, batch: int, step: int) -> ValueError:
        """The error to raise, with remedies. Args: batch: number in the epoch, from 1."""
        remedies = ["a lower optimizer.lr", "trainer.gradient_clip_val=1.0"]
        if trainer.precision == "16-mixed":
            remedies.insert(0, "trainer.precision=bf16-mixed, which holds larger numbers")
        return ValueError(
            f"{problem} after batch {batch} of epoch {trainer.current_epoch + 1} (step {step}): the training has "
            f"diverged; try {', or '.join(remedies)}"
        )
