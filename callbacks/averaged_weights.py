"""Base class of EMA and SWA."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class AveragedWeights(WeightAveraging):
    """Validate, test and save an average of the weights and of batch norm's statistics; training does not change.

    ``last.ckpt`` holds the current weights and the average. A subclass defines ``kept``. Lightning's
    ``EMAWeightAveraging`` keeps the average on the CPU in GPU training, and tests the current weights instead.

    Args:
        update_every_n_steps: optimizer steps between two updates of the average.
    """

    def __init__(self, update_every_n_steps: int = 1):
        if update_every_n_steps < 1:
            raise ValueError(f"update_every_n_steps={update_every_n_steps}; expected at least 1")
        super().__init__()
        self.update_every_n_steps = update_every_n_steps

    def kept(self, updates: int) -> float:
        """The weight of the old average in an update; the rest is the weight of the current weights.

        Args:
            updates: number of earlier updates, at least 1: the first update copies the weights.
        """
        raise NotImplementedError

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":  # only now is the device known
            super().__init__(trainer.strategy.root_device, use_buffers=True, multi_avg_fn=self._average)
        super().setup(trainer, pl_module, stage)

    def _average(self, averaged: list[Tensor], current: list[Tensor], updates: Tensor) -> None:
        """Update tensors of one type in place.

        Args:
            updates: number of earlier updates, a scalar.
        """
        if averaged[0].is_floating_point():
            get_ema_multi_avg_fn(self.kept(int(updates)))(averaged, current, updates)
        else:  # batch norm's counters
            for average, value in zip(averaged, current, strict=True):
                average.copy_(value)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises: ValueError: the training is too short for an update."""
        super().on_train_start(trainer, pl_module)
        if self.update_every_n_steps > trainer.estimated_stepping_batches:
            raise ValueError(
                f"update_every_n_steps={self.update_every_n_steps}, but the training has "
                f"{trainer.estimated_stepping_batches} steps: the average would never be updated"
            )

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and (step_idx + 1) % self.update_every_n_steps == 0

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)  # Lightning skips it if a resumed run had finished training

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit":  # a test has loaded the average already
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
