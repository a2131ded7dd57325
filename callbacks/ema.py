"""Averaged weights."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA(WeightAveraging):
    """Validate, test and save an exponential moving average of the weights and of batch norm's statistics.

    The average starts as the weights after the first update. Update n + 1 moves it towards the current weights by
    ``1 - decay``, at first by ``9 / (10 + n)``, so that it forgets the initial weights also in a short training.
    Training itself is unchanged; ``last.ckpt`` holds both.

    Lightning's ``EMAWeightAveraging`` keeps the average on the CPU when a GPU trains, and tests the current weights
    instead of the average.

    Args:
        decay: from 0 to below 1. The average spans about ``update_every_n_steps / (1 - decay)`` steps, at first fewer.
        update_every_n_steps: optimizer steps between two updates.
    """

    def __init__(self, decay: float = 0.999, update_every_n_steps: int = 1):
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}; expected from 0 to below 1, such as 0.999")
        if update_every_n_steps < 1:
            raise ValueError(f"update_every_n_steps={update_every_n_steps}; expected at least 1")
        super().__init__()
        self.decay, self.update_every_n_steps = decay, update_every_n_steps

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":  # only now is the device known
            super().__init__(trainer.strategy.root_device, use_buffers=True, multi_avg_fn=self._average)
        super().setup(trainer, pl_module, stage)

    def _average(self, averaged: list[Tensor], current: list[Tensor], updates: Tensor) -> None:
        """Update tensors of one type in place.

        Args:
            updates: the number of earlier ones, a scalar.
        """
        if averaged[0].is_floating_point():
            n = int(updates)
            get_ema_multi_avg_fn(min(self.decay, (1 + n) / (10 + n)))(averaged, current, updates)
        else:  # batch norm's counters
            for average, value in zip(averaged, current, strict=True):
                average.copy_(value)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises: ValueError: there would be no update."""
        super().on_train_start(trainer, pl_module)
        if self.update_every_n_steps > trainer.estimated_stepping_batches:
            raise ValueError(
                f"update_every_n_steps={self.update_every_n_steps}, but the training has "
                f"{trainer.estimated_stepping_batches} steps: the average would stay the initial weights"
            )

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and (step_idx + 1) % self.update_every_n_steps == 0

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)  # Lightning does not call it if a resumed run's training was over

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit":  # a test has loaded the average already
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
