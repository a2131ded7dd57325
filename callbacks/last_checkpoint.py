"""The checkpoint from which a run goes on."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class LastCheckpoint(ModelCheckpoint):
    """``last.ckpt`` after every whole epoch.

    ModelCheckpoint's own ``save_last`` writes only when the best is written, and an epoch that ``trainer.max_time`` cut
    short is saved as if it were whole: a run that goes on from there would never train on the rest of it.

    Args:
        dirpath: the folder to write to.
        options: as in ``ModelCheckpoint``.
    """

    def __init__(self, dirpath: str, **options: Any):
        super().__init__(
            dirpath, filename="last", save_on_train_epoch_end=True, enable_version_counter=False, **options
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.current.completed >= trainer.num_training_batches:
            super().on_train_epoch_end(trainer, pl_module)
