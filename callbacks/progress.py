"""Progress on the console: one line per epoch; within an epoch a bar on a terminal, otherwise occasional lines."""

import logging
import multiprocessing
import sys
import time

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from callbacks.training_position import batches_of_epoch

log = logging.getLogger(__name__)


class Progress(TQDMProgressBar):
    """Show Lightning's bar on a terminal, otherwise log occasional lines; log the scores of each epoch.

    Args:
        refresh_rate: batches between two updates of the bar.
        line_seconds: seconds between two lines about batches, without a bar.
    """

    def __init__(self, refresh_rate: int = 10, line_seconds: float = 30.0):
        super().__init__(refresh_rate=refresh_rate, leave=False)
        self.line_seconds = line_seconds
        self._began, self._logged, self._validated = 0.0, 0.0, False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        # Lightning draws bars on stdout, where parallel jobs would overwrite each other's.
        if not sys.stdout.isatty() or multiprocessing.parent_process():
            self.disable()
        self._logged = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._began, bar = time.perf_counter(), self.train_progress_bar
        # Lightning does not show the position of a run that resumes within an epoch.
        bar.reset(self.total_train_batches)
        bar.n = batches_of_epoch(trainer)
        bar.set_description(f"epoch {self._epoch()}")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self._began, self._validated = time.perf_counter(), False
        self.train_progress_bar.set_description(f"epoch {self._epoch()}")  # Lightning counts from 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.is_global_zero:
            parts = [f"epoch {self._epoch()}"]
            for split in ("train", *(["val"] if self._validated else [])):
                metrics = {name: trainer.callback_metrics.get(f"{split}/{name}") for name in ("loss", "top1")}
                scores = [f"{name} {value:.4f}" for name, value in metrics.items() if value is not None]
                parts += [" ".join([split, *scores])] if scores else []
            self._log("  ".join([*parts, f"{time.perf_counter() - self._began:.1f} s"]))

    def _epoch(self) -> str:
        """The current epoch, counted from 1, and the number of epochs if it is known."""
        last = self.trainer.max_epochs
        return f"{self.trainer.current_epoch + 1:>3}/{last if last and last > 0 else '?'}"

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._is_line_due():
            self._log_batches(f"epoch {self._epoch()}  ", batch_idx, self.total_train_batches)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if self._is_line_due():
            self._log_batches("validation  ", batch_idx, self.total_val_batches_current_dataloader)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        self._validated = True

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if self._is_line_due():
            self._log_batches("test  ", batch_idx, self.total_test_batches_current_dataloader)

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        super().on_predict_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if self._is_line_due():
            self._log_batches("", batch_idx, self.total_predict_batches_current_dataloader)

    def _is_line_due(self) -> bool:
        return self.is_disabled and time.perf_counter() - self._logged >= self.line_seconds

    def _log_batches(self, prefix: str, batch_idx: int, total: int | float) -> None:
        if self.trainer.is_global_zero:
            self._log(f"{prefix}batch {batch_idx + 1:,} of {total:,}")

    def _log(self, text: str) -> None:
        bar = self._train_progress_bar
        if bar is not None:
            bar.clear()
        log.info(text)
        self._logged = time.perf_counter()
        if bar is not None:
            bar.refresh()
