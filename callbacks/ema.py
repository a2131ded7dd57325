"""Averaged weights."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging


class EMA(WeightAveraging):
    """Validation, test and checkpoints see an exponential moving average of the weights and of batch norm's statistics.

    The average begins with the weights after the first update, and is the network as it began until then. After n
    updates the next one brings it nearer to the weights at hand by ``1 - decay``, at first by ``9 / (10 + n)``, so that
    it forgets how the network began, also in a short training.
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

        super().__init__(use_buffers=True)
        self.decay, self.update_every_n_steps = decay, update_every_n_steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises: ValueError: there would be no update."""
        super().on_train_start(trainer, pl_module)
        if self.update_every_n_steps > trainer.estimated_stepping_batches:
            raise ValueError(
                f"update_every_n_steps={self.update_every_n_steps}, but the training has "
                f"{trainer.estimated_stepping_batches} steps: the average would stay what the network began with"
            )

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and (step_idx + 1) % self.update_every_n_steps == 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step > self._latest_update_step and self.should_update(trainer.global_step - 1):
            self._update(pl_module)
            self._latest_update_step = trainer.global_step

    @torch.no_grad()
    def _update(self, pl_module: LightningModule) -> None:
        """As ``AveragedModel.update_parameters``, which in each step has a GPU wait for the number of updates."""
        n = int(self._average_model.n_averaged)  # on the CPU
        decay = min(self.decay, (1 + n) / (10 + n)) if n else 0.0
        averaged, current = ([*m.parameters(), *m.buffers()] for m in (self._average_model.module, pl_module))
        pairs = list(zip(averaged, current, strict=True))
        floats = [(a, c) for a, c in pairs if a.is_floating_point()]
        counters = [(a, c) for a, c in pairs if not a.is_floating_point()]  # batch norm's, of batches
        torch._foreach_lerp_(*map(list, zip(*floats, strict=True)), 1 - decay)
        if counters:
            torch._foreach_copy_(*map(list, zip(*counters, strict=True)))
        self._average_model.n_averaged += 1

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._copy_average_to_current(pl_module)  # where a run goes on when its training is over, there is no train end

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
        if stage == "fit":  # a counter that each update looks at: on a GPU that would wait for it
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit":  # else the average, which is loaded already, would be replaced
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
