"""The position in a training, and whether it ends here. Other callbacks do not read the state of Lightning's loops."""

from pathlib import Path

from lightning import Trainer
from lightning.pytorch.callbacks import Timer


def resumes_own_run(trainer: Trainer) -> bool:
    """Whether the training resumes from a checkpoint in this run's folder."""
    path, folder = trainer.ckpt_path, Path(trainer.default_root_dir).absolute()
    return bool(path) and Path(path).absolute().is_relative_to(folder)


def batches_of_epoch(trainer: Trainer) -> int:
    """Batches of the current epoch so far."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def batches_in_total(trainer: Trainer) -> int:
    return trainer.fit_loop.epoch_loop.batch_progress.total.completed


def is_out_of_time(trainer: Trainer) -> bool:
    """Whether ``trainer.max_time`` has passed."""
    left = [callback.time_remaining() for callback in trainer.callbacks if isinstance(callback, Timer)]
    return any(seconds is not None and seconds <= 0 for seconds in left)


def may_stop(trainer: Trainer) -> bool:
    """Whether ``min_epochs`` and ``min_steps`` are reached, before which ``trainer.should_stop`` has no effect."""
    return trainer.current_epoch >= (trainer.min_epochs or 0) and trainer.global_step >= (trainer.min_steps or 0)


def ends_here(trainer: Trainer) -> bool:
    """Whether this step is the last one, possibly within an epoch."""
    return 0 <= trainer.max_steps <= trainer.global_step or trainer.should_stop and may_stop(trainer)


def can_resume_after(trainer: Trainer, batches: int) -> bool:
    """Whether a run that resumes after this many batches of an epoch continues exactly.

    False at the end of the epoch, while gradients are being accumulated, and right before a validation.
    """
    if batches >= trainer.num_training_batches or batches % trainer.accumulate_grad_batches:
        return False
    if trainer.should_stop and not is_out_of_time(trainer) and may_stop(trainer):
        return False  # a callback ends the training, with a validation; a resumed run repeats these batches
    every = trainer.val_check_batch
    counted = trainer.fit_loop.total_batch_idx + 1 if trainer.check_val_every_n_epoch is None else batches
    return not every or every == float("inf") or counted % every != 0


def end_skipped_epoch(trainer: Trainer) -> bool:
    """If a resumed run had been stopped within an epoch, count the epoch as finished. Returns whether it had.

    Lightning does so only if ``max_epochs`` is reached.
    """
    progress, epoch_loop = trainer.fit_loop.epoch_progress.current, trainer.fit_loop.epoch_loop
    within = progress.processed < progress.started
    if within:
        progress.processed += 1
        epoch_loop.on_load_checkpoint({"_batches_that_stepped": trainer.global_step})  # the step for loggers
    progress.completed = progress.processed
    return within
