"""Losses that are infinite or no number: a training stops at one, or leaves its step out."""

import math

import torch
from lightning import LightningModule
from torch import Tensor

from lit_modules.train_metrics import AT_ONCE


class Losses:
    """Watches the training losses of a module.

    ``look_at`` raises in the step itself on a CPU, where reading a number is free. On a device, and with several
    processes, the module's ``train_scores`` count there how many batches went well, and that is read every 50 batches;
    ``read`` does so at once. Which batch was the first is known in both cases.

    ``step_is_sound`` has to know at once, so that with ``skip`` each step waits for the device.

    Attributes:
        left_out: how many optimizer steps were.
    """

    def __init__(self, module: LightningModule):
        self.module = module
        self.left_out = 0
        self._begin_batch = self._begin_step = 0
        self._kept: list[Tensor] = []
        self._window: Tensor | None = None

    def begin(self, batches: int) -> None:
        """Where an epoch begins, or a run goes on within one, after so many batches."""
        self._begin_batch, self._begin_step = batches, self.module.trainer.global_step

    def look_at(self, loss: Tensor, batch_idx: int) -> None:
        """Args: loss: of the batch, which the module's ``train_scores`` have."""
        if self.module.nonfinite == "skip":
            sound = loss.detach().isfinite()
            self._window = sound if self._window is None else self._window & sound
        elif self._at_once():
            if not math.isfinite(loss.item()):
                raise self.error(f"the loss is {loss.item()} in", batch_idx + 1)
        elif (batch_idx + 1) % AT_ONCE == 0:
            self.read(batch_idx + 1)

    def read(self, batches: int) -> None:
        """Raise if one of an epoch's first so many batches had such a loss, in any process."""
        scores = self.module.train_scores
        if self.module.nonfinite == "skip" or self._at_once() or scores.sound is None:
            return
        scores.count()
        sound = self._begin_batch + int(self.module.trainer.strategy.reduce(scores.sound.clone(), reduce_op="min"))
        if sound < batches:
            raise self.error("the loss is not finite in", sound + 1)

    def _at_once(self) -> bool:
        return self.module.device.type == "cpu" and self.module.trainer.world_size == 1

    def check_weights(self, batches: int) -> None:
        """Raise if a weight is not finite: a sound loss can have a gradient that is not. Waits for the device."""
        weights = [p for p in self.module.backbone.parameters() if p.is_floating_point()]
        if weights and not torch.stack([p.detach().isfinite().all() for p in weights]).all():
            raise self.error("weights are not finite after", batches)

    def remember(self, batch_idx: int) -> None:
        """Before an optimizer step's first batch: keep what the forward pass changes, batch norm's statistics."""
        if batch_idx % self.module.trainer.accumulate_grad_batches == 0:
            self._kept, self._window = [b.clone() for b in self.module.backbone.buffers()], None

    def step_is_sound(self) -> bool:
        """Whether all losses of this step were finite, in all processes; if not it is counted and undone."""
        sound = self.module.trainer.strategy.reduce(self._window.float(), reduce_op="min").item() == 1
        if not sound:
            self.left_out += 1
            for buffer, kept in zip(self.module.backbone.buffers(), self._kept, strict=True):
                buffer.copy_(kept)
        return sound

    def error(self, what: str, batch: int) -> ValueError:
        """What to raise, with remedies. Args: what: ends before ``batch``, which is counted from 1."""
        trainer = self.module.trainer
        accumulated = trainer.accumulate_grad_batches
        step = self._begin_step + max(0, math.ceil((batch - self._begin_batch) / accumulated))
        remedies = ["a lower optimizer.lr", "trainer.gradient_clip_val=1.0"]
        if trainer.precision == "16-mixed":
            remedies.insert(0, "trainer.precision=bf16-mixed, which holds larger numbers")
        return ValueError(
            f"{what} batch {batch} of epoch {trainer.current_epoch + 1} (step {step}): the training has diverged; "
            f"try {', or '.join(remedies)}"
        )
