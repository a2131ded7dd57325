"""Progress on the console: a line an epoch, or now and then in prediction, and on a terminal a bar."""

import logging
import sys
import time

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

log = logging.getLogger(__name__)


class Progress(TQDMProgressBar):
    """Lightning's bar while an epoch runs, on a terminal only; a line with the results when it ends, always.

    Args:
        refresh_rate: batches between two updates of the bar.
        line_seconds: between two lines of a prediction, where there is no bar.
    """

    def __init__(self, refresh_rate: int = 10, line_seconds: float = 30.0):
        super().__init__(refresh_rate=refresh_rate, leave=False)
        self.line_seconds = line_seconds
        self._began = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if not sys.stderr.isatty():
            self.disable()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._began = time.perf_counter()  # a run may go on within an epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self._began = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.is_global_zero:
            names = ("train/loss", "train/top1", "val/loss", "val/top1")
            found = {name: trainer.callback_metrics.get(name) for name in names}
            scores = "  ".join(f"{name} {value:.4f}" for name, value in found.items() if value is not None)
            seconds = time.perf_counter() - self._began
            last = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
            self._line(f"epoch {trainer.current_epoch + 1:>3}/{last}  {scores}  {seconds:.1f} s")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_predict_start(trainer, pl_module)
        self._began = time.perf_counter()

    def on_predict_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        super().on_predict_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if self.is_disabled and time.perf_counter() - self._began >= self.line_seconds and trainer.is_global_zero:
            log.info(f"batch {batch_idx + 1:,} of {self.total_predict_batches_current_dataloader:,}")
            self._began = time.perf_counter()

    def _line(self, text: str) -> None:
        bar = self._train_progress_bar
        if bar is not None:
            bar.clear()
        log.info(text)
        if bar is not None:
            bar.refresh()
