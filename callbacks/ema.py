"""Averaged weights."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA(WeightAveraging):
    """Validation, test and checkpoints see an exponential moving average of the weights and of batch norm's statistics.

    The average begins with the weights after the first update; update n brings it nearer to the weights at hand by
    ``1 - decay``, at first by ``9 / (10 + n)``, so that it forgets how the network began, also in a short training.
    Training itself is not changed; ``last.ckpt`` holds both.

    Lightning's own ``EMAWeightAveraging`` keeps the average on the CPU where a GPU trains, goes through the tensors one
    by one, and tests the weights as they are instead of their average.

    Args:
        decay: from 0 to below 1. The average spans about ``update_every_n_steps / (1 - decay)`` steps, at first fewer.
        update_every_n_steps: optimizer steps between two updates.
    """

    def __init__(self, decay: float = 0.999, update_every_n_steps: int = 1):
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}; expected from 0 to below 1, say 0.999")
        if update_every_n_steps < 1:
            raise ValueError(f"update_every_n_steps={update_every_n_steps}; expected at least 1")

        def average(averaged: list[Tensor], current: list[Tensor], updates: Tensor) -> None:
            n = int(self._average_model.n_averaged)  # the same as ``updates``, which may be on a GPU
            get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, updates)

        super().__init__(use_buffers=True, multi_avg_fn=average)
        self.update_every_n_steps = update_every_n_steps

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and (step_idx + 1) % self.update_every_n_steps == 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
        if stage == "fit":  # a counter that each update looks at: on a GPU that would wait for it
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit":  # else the average, which is loaded already, would be replaced
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
