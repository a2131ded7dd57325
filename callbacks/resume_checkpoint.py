"""The checkpoint from which a run resumes."""

import inspect
import logging
import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, GradientAccumulationScheduler
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.loggers import service_runs
from callbacks.training_position import batches_of_epoch, can_resume_after, ends_here, is_out_of_time, resumes_own_run
from results.run_folder import LAST

log = logging.getLogger(__name__)
STOP = (signal.SIGINT, signal.SIGTERM)
REQUEUE = signal.SIGUSR1  # SLURM is configured to send it before a job's time limit
SYNC_EVERY = 20  # steps or validation batches after which several processes agree on signals and clocks


class ResumeCheckpoint(Checkpoint):
    """``last.ckpt``: a run that resumes from it ends, on a CPU, with the same bits as an uninterrupted run.

    Written before the first step of a new run, so that a full disk is noticed at once; after every epoch; within an
    epoch after some time or number of steps; and when ``trainer.max_time`` or ``max_steps`` ends the training there.
    After SIGINT or SIGTERM it is written after the current batch, and the run ends; a second signal ends the process at
    once. After SIGUSR1, a SLURM job writes it after the current batch, is requeued, and runs until SLURM ends it.
    (Lightning would save inside the signal handler, in the middle of a step.)

    Within an epoch it is not written while gradients are being accumulated, nor right before a validation, but after
    the next batch instead. A signal during a validation ends the run without writing.
    Besides the contents of Lightning's checkpoints it holds the state of the random generators and whether a callback
    has requested a stop; data module and Classifier add the position in the epoch and the metrics so far.

    It also holds the options of the other callbacks. If a run resumes with different options, they take effect, even
    if a callback's state would restore the earlier ones (such as the patience of ``EarlyStopping``), and callbacks
    decide again whether to stop. With another ``seed``, the random generators are not restored.

    Args:
        dirpath: the folder to write to.
        minutes: time between two checkpoints within an epoch.
        every_n_train_steps: also write after this number of optimizer steps.
    """

    def __init__(self, dirpath: str, minutes: float = 5, every_n_train_steps: int | None = None):
        if minutes <= 0:
            raise ValueError(f"minutes={minutes}; expected above 0")
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise ValueError(f"every_n_train_steps={every_n_train_steps}; expected at least 1, or null")
        self.path = Path(dirpath) / LAST
        self.seconds, self.every_n_train_steps = 60 * minutes, every_n_train_steps
        self._written = 0.0
        self._rng_state: dict[str, Any] | None = None
        self._options: dict[str, dict[str, Any]] = {}  # of the other callbacks, as constructed
        self._saved_options: dict[str, dict[str, Any]] = {}  # the options in the resumed checkpoint
        self._stop_requested = False
        self._resumes = False
        self._handlers: dict[int, Any] = {}  # the previously installed handlers
        self._stop_signal: int | None = None
        self._requeue_signal = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            callbacks = [callback for callback in trainer.callbacks if not isinstance(callback, Checkpoint)]
            options = {callback.state_key: constructor_options(callback) for callback in callbacks}
            self._options = {name: values for name, values in options.items() if values}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for callback in trainer.callbacks:
            name = callback.state_key
            restore_changed_options(callback, self._options.get(name, {}), self._saved_options.get(name, {}))
        if self._stop_requested:
            self._stop_requested = resumes_own_run(trainer) and self._options == self._saved_options
            trainer.should_stop |= self._stop_requested

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._install_handlers()
        self._written = time.monotonic()
        if self._rng_state is not None:
            set_rng_state(self._rng_state, pl_module.device)
        if not self._resumes:
            self._save(trainer)
        for callback in trainer.callbacks:  # Lightning would use the trainer's number within a resumed epoch
            if isinstance(callback, GradientAccumulationScheduler):
                trainer.accumulate_grad_batches = callback.get_accumulate_grad_batches(trainer.current_epoch)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:  # write metrics that were logged after the last epoch's checkpoint
            logger.save()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, batch, batch_idx: int) -> None:
        if not can_resume_after(trainer, batch_idx + 1):
            return
        every, steps = self.every_n_train_steps, (batch_idx + 1) // trainer.accumulate_grad_batches
        due = time.monotonic() - self._written > self.seconds or self._stop_signal is not None
        counted = ends_here(trainer) or (every and trainer.global_step % every == 0)
        if any_process(trainer, due, steps) or counted:
            self._save(trainer)
        self._requeue_if_signalled(trainer, steps)
        self._stop_if_signalled(trainer, steps)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if batches_of_epoch(trainer) >= trainer.num_training_batches:
            self._save(trainer)
            self._requeue_if_signalled(trainer)
        self._stop_if_signalled(trainer)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx: int, dataloader_idx=0) -> None:
        self._stop_if_signalled(trainer, batch_idx + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_handlers()
        self._stop_if_signalled(trainer)  # a signal during other callbacks at the end of the last epoch

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.should_stop and not is_out_of_time(trainer):  # a resumed run may be given more time
            self._stop_requested = True
        checkpoint["callbacks"][self.state_key]["stop_requested"] = self._stop_requested
        if runs := service_runs(trainer.loggers):
            checkpoint["logger_runs"] = runs

    def state_dict(self) -> dict[str, Any]:
        return {"generators": rng_state(), "seed": torch.initial_seed(), "options": self._options}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumes = True
        if state_dict.get("seed", torch.initial_seed()) == torch.initial_seed():
            self._rng_state = state_dict["generators"]
        self._saved_options = state_dict.get("options", {})
        self._stop_requested = state_dict.get("stop_requested", False)

    def _save(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:  # a resumed run does not log these metrics again
            logger.save()
        trainer.save_checkpoint(self.path)
        self._written = time.monotonic()

    def _install_handlers(self) -> None:
        self._stop_signal, self._requeue_signal = None, False
        if threading.current_thread() is threading.main_thread():
            caught = (*STOP, REQUEUE) if "SLURM_JOB_ID" in os.environ else STOP
            self._handlers = {number: signal.signal(number, self._on_signal) for number in caught}

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _on_signal(self, number: int, frame: Any) -> None:
        """Only record the signal: in the middle of a step, the weights may be updated only in part."""
        if number == REQUEUE:
            self._requeue_signal = True
        elif self._stop_signal is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        else:
            self._stop_signal = number
            log.warning(f"{signal.Signals(number).name}: saving after this batch; send it again to stop at once")

    def _requeue_if_signalled(self, trainer: Trainer, count: int = 0) -> None:
        if REQUEUE in self._handlers and any_process(trainer, self._requeue_signal, count):
            self._save(trainer)
            signal.signal(REQUEUE, self._handlers.pop(REQUEUE))  # once
            if trainer.is_global_zero:
                requeue_slurm_job()

    def _stop_if_signalled(self, trainer: Trainer, count: int = 0) -> None:
        if any_process(trainer, self._stop_signal is not None, count):
            raise KeyboardInterrupt if self._stop_signal == signal.SIGINT else SIGTERMException


def requeue_slurm_job() -> None:
    array, job = (os.environ.get(f"SLURM_{name}") for name in ("ARRAY_JOB_ID", "JOB_ID"))
    if array is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
        log.info(f"{'requeued':<12} SLURM job {job}")
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning(f"SLURM job {job} could not be requeued: {error}")


def any_process(trainer: Trainer, value: bool, count: int) -> bool:
    """Whether a value is true in any process; several processes communicate only at multiples of ``SYNC_EVERY``."""
    if trainer.world_size == 1:
        return value
    return count % SYNC_EVERY == 0 and trainer.strategy.reduce_boolean_decision(value, all=False)


def constructor_options(callback: Callback) -> dict[str, Any]:
    """The plain values of a callback's arguments that are stored under the same names."""
    names = inspect.signature(type(callback)).parameters.keys() & vars(callback).keys()
    return {name: vars(callback)[name] for name in sorted(names) if _is_plain(vars(callback)[name])}


def restore_changed_options(callback: Callback, given: dict[str, Any], saved: dict[str, Any]) -> None:
    """Set options again that loading a checkpoint has replaced, if this run was given different ones.

    Args:
        given: the options of this run.
        saved: the options in the checkpoint; an older one has none: then the values restored from the state count.
    """
    for name, value in given.items():
        loaded = vars(callback)[name]
        if _is_plain(loaded) and loaded != value and saved.get(name, loaded) != value:
            setattr(callback, name, value)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def rng_state() -> dict[str, Any]:
    """The state of the global random generators, as plain values and tensors."""
    _, key, *rest = np.random.get_state()
    states = {"torch": torch.get_rng_state(), "python": random.getstate()}
    states["numpy"] = (torch.from_numpy(key.astype(np.int64)), *rest)
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_rng_state(states: dict[str, Any], device: torch.device) -> None:
    """Set the global random generators to a state that ``rng_state`` returned."""
    torch.set_rng_state(states["torch"].cpu())
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    key, *rest = states["numpy"]
    np.random.set_state(("MT19937", key.numpy().astype(np.uint32), *rest))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
