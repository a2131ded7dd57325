"""Stochastic weight averaging."""

import math

from lightning import LightningModule, Trainer

from callbacks.averaged_weights import AveragedWeights


class SWA(AveragedWeights):
    """Validate, test and save the mean of the weights at the end of each epoch from ``start`` on.

    Before ``start`` the current weights are validated. Source: Izmailov et al. 2018, "Averaging weights leads to wider
    optima and better generalization". Unlike there, batch norm's statistics are averaged too, not recomputed.

    Args:
        start: share of the epochs before averaging starts, from 0 to below 1.
    """

    def __init__(self, start: float = 0.75):
        if not 0 <= start < 1:
            raise ValueError(f"start={start}; expected a share of the epochs from 0 to below 1, such as 0.75")
        super().__init__()
        self.start = start
        self._first = 0  # the first averaged epoch, counted from 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises: ValueError: the number of epochs is unknown."""
        if trainer.max_epochs < 1:
            raise ValueError("callbacks=swa averages over a share of the epochs: set trainer.max_epochs")
        self._first = min(int(self.start * trainer.max_epochs), trainer.max_epochs - 1)
        # In the last step of an epoch, before the validation.
        self.update_every_n_steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        super().on_train_start(trainer, pl_module)

    def kept(self, updates: int) -> float:
        averaged = max(0, updates - self._first)  # epochs that are in the average so far
        return averaged / (averaged + 1)
