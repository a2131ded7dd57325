"""The checkpoint from which a run goes on."""

import inspect
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, GradientAccumulationScheduler, Timer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.loggers import service_runs
from results.run_folder import LAST

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
REQUEUE = signal.SIGUSR1  # what SLURM is asked to send before a job's time is over
ASKED_EVERY = 20  # steps, or batches of a validation; of several processes


class ResumeCheckpoint(Checkpoint):
    """``last.ckpt``: a run that goes on from it ends, on a CPU, with the very bits that it would have had.

    Written before the first step of a new run, so that a folder without room is found out at once; after every whole
    epoch; within an epoch when so much time has passed or so many steps; when ``trainer.max_time`` or ``max_steps``
    ends the training there; and when SIGINT or SIGTERM comes: after the batch at hand it is written and the run ends.
    A second signal ends the process at once. Under SLURM, Lightning has SIGUSR1 put the job back into the queue; that
    too is done after the batch at hand, for in the midst of a step the weights may be changed in part, and of several
    processes each would be somewhere else.

    Within an epoch it is not written where gradients are being accumulated, nor where a validation is next, of which a
    checkpoint knows too little: then the next batch must do, and a signal during a validation ends the run without it.
    What Lightning's checkpoints lack is here the state of the random generators and whether a callback has requested to
    stop, and in data module and Classifier the place in the epoch and what its metrics have seen.

    A checkpoint also holds the options of the other callbacks. If a run that continues from it has other ones, these
    take effect, although the callbacks' states may bring back the earlier ones (as that of ``EarlyStopping`` does with
    its patience), and callbacks decide anew whether to stop. With another ``seed``, the random generators are not
    restored.

    Args:
        dirpath: the folder to write to.
        minutes: between two of them within an epoch.
        every_n_train_steps: optimizer steps between two of them, besides.
    """

    def __init__(self, dirpath: str, minutes: float = 5, every_n_train_steps: int | None = None):
        if minutes <= 0:
            raise ValueError(f"minutes={minutes}; expected above 0")
        if every_n_train_steps is not None and every_n_train_steps < 1:
            raise ValueError(f"every_n_train_steps={every_n_train_steps}; expected at least 1, or null")
        self.path = Path(dirpath) / LAST
        self.seconds, self.every_n_train_steps = 60 * minutes, every_n_train_steps
        self._written = 0.0
        self._generators: dict[str, Any] | None = None
        self._options: dict[str, dict[str, Any]] = {}  # of the other callbacks, as constructed
        self._saved_options: dict[str, dict[str, Any]] = {}  # those in the checkpoint that is resumed
        self._stop_requested = False
        self._resumes = False
        self._handlers: dict[int, Any] = {}
        self._received: int | None = None
        self._requeue: Callable[[], None] | None = None  # Lightning's handler
        self._requeue_asked = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            others = [callback for callback in trainer.callbacks if not isinstance(callback, Checkpoint)]
            options = {callback.state_key: constructor_options(callback) for callback in others}
            self._options = {name: values for name, values in options.items() if values}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for callback in trainer.callbacks:
            name = callback.state_key
            restore_changed_options(callback, self._options.get(name, {}), self._saved_options.get(name, {}))
        if self._stop_requested:
            here = Path(trainer.ckpt_path or "").absolute().is_relative_to(Path(trainer.default_root_dir).absolute())
            self._stop_requested = here and self._options == self._saved_options
            trainer.should_stop |= self._stop_requested

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._catch_signals(trainer)
        self._written = time.monotonic()
        if self._generators is not None:
            set_generators(self._generators, pl_module.device)
        if not self._resumes:
            self._save(trainer)
        for callback in trainer.callbacks:  # Lightning would begin the rest of an epoch with the trainer's own number
            if isinstance(callback, GradientAccumulationScheduler):
                trainer.accumulate_grad_batches = callback.get_accumulate_grad_batches(trainer.current_epoch)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:  # what was logged after the checkpoint at the end of the epoch before
            logger.save()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, batch, batch_idx: int) -> None:
        if not _may_go_on_from_here(trainer, batch_idx + 1):
            return
        every = self.every_n_train_steps
        due = time.monotonic() - self._written > self.seconds or self._received is not None
        counted = _is_over(trainer) or (every and trainer.global_step % every == 0)
        steps = (batch_idx + 1) // trainer.accumulate_grad_batches
        if _any(trainer, due, steps) or counted:
            self._save(trainer)
        self._requeue_if_told(trainer, steps)
        self._end_if_told(trainer, steps)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.current.completed >= trainer.num_training_batches:
            self._save(trainer)
            self._requeue_if_told(trainer)
        self._end_if_told(trainer)

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx: int, dataloader_idx=0) -> None:
        self._end_if_told(trainer, batch_idx + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._release_signals()
        self._end_if_told(trainer)  # since the last epoch's end: what other callbacks do there takes a while

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._release_signals()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.should_stop and not is_out_of_time(trainer):  # more time may be given to a run that resumes
            self._stop_requested = True
        checkpoint["callbacks"][self.state_key]["stop_requested"] = self._stop_requested
        if runs := service_runs(trainer.loggers):
            checkpoint["logger_runs"] = runs

    def state_dict(self) -> dict[str, Any]:
        return {"generators": generators(), "seed": torch.initial_seed(), "options": self._options}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._resumes = True
        if state_dict.get("seed", torch.initial_seed()) == torch.initial_seed():
            self._generators = state_dict["generators"]
        self._saved_options = state_dict.get("options", {})
        self._stop_requested = state_dict.get("stop_requested", False)

    def _save(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:  # what was logged before it must not be lost after it
            logger.save()
        trainer.save_checkpoint(self.path)
        self._written = time.monotonic()

    def _catch_signals(self, trainer: Trainer) -> None:
        def handler(number: int, frame: Any) -> None:
            passed_on = number == signal.SIGTERM and trainer.local_rank > 0  # as the first process does, below
            if passed_on and self._received == number:
                return  # timeout, a batch system or a container had told this process already
            if self._received is not None:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            self._received = number
            log.warning(f"{signal.Signals(number).name}: saving after this batch; once more to stop at once")
            if number == signal.SIGTERM and trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(number)  # the processes that this one has started

        def later(number: int, frame: Any) -> None:
            self._requeue_asked = True

        self._received, self._requeue, self._requeue_asked = None, None, False
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, handler) for number in SIGNALS}
            lightnings = signal.getsignal(REQUEUE)
            if callable(lightnings):  # under SLURM only
                self._requeue = partial(lightnings, REQUEUE, None)
                self._handlers[REQUEUE] = signal.signal(REQUEUE, later)

    def _release_signals(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _requeue_if_told(self, trainer: Trainer, count: int = 0) -> None:
        """Back into the queue, once; the run goes on until SLURM ends it with SIGTERM."""
        if self._requeue is None or not _any(trainer, self._requeue_asked, count):
            return
        requeue, self._requeue = self._requeue, None
        self._save(trainer)
        requeue()
        if trainer.is_global_zero:  # Lightning's own checkpoint holds no more, and a test would take it for the best
            for file in Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt"):
                file.unlink()

    def _end_if_told(self, trainer: Trainer, count: int = 0) -> None:
        if _any(trainer, self._received is not None, count):
            raise KeyboardInterrupt if self._received == signal.SIGINT else SIGTERMException


def _is_over(trainer: Trainer) -> bool:
    """Whether ``max_steps`` or ``max_time`` ends the training with this step, be it in the middle of an epoch."""
    return 0 <= trainer.max_steps <= trainer.global_step or trainer.should_stop and _may_stop(trainer)


def _may_stop(trainer: Trainer) -> bool:
    return trainer.fit_loop._can_stop_early  # as Lightning decides, by min_epochs and min_steps


def is_out_of_time(trainer: Trainer) -> bool:
    """Whether ``trainer.max_time`` is over."""
    left = [callback.time_remaining() for callback in trainer.callbacks if isinstance(callback, Timer)]
    return any(seconds is not None and seconds <= 0 for seconds in left)


def constructor_options(callback: Callback) -> dict[str, Any]:
    """The plain values that a callback was constructed with, if it keeps them under the names of its arguments."""
    names = inspect.signature(type(callback)).parameters.keys() & vars(callback).keys()
    return {name: vars(callback)[name] for name in sorted(names) if _is_plain(vars(callback)[name])}


def restore_changed_options(callback: Callback, typed: dict[str, Any], saved: dict[str, Any]) -> None:
    """Undo what loading a checkpoint did to options that differ from those of the run that wrote it.

    Args:
        typed: the options of this run.
        saved: those in the checkpoint; of one that holds none, what the callback's state brought back.
    """
    for name, value in typed.items():
        loaded = vars(callback)[name]
        if _is_plain(loaded) and loaded != value and saved.get(name, loaded) != value:
            setattr(callback, name, value)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _any(trainer: Trainer, mine: bool, count: int) -> bool:
    """Whether any process says yes: clocks and signals are each one's own. Asking waits, so it is done now and then."""
    if trainer.world_size == 1:
        return mine
    return count % ASKED_EVERY == 0 and trainer.strategy.reduce_boolean_decision(mine, all=False)


def _may_go_on_from_here(trainer: Trainer, batches: int) -> bool:
    """Whether a run that goes on after so many batches of an epoch does what it would have done."""
    if batches >= trainer.num_training_batches or batches % trainer.accumulate_grad_batches:
        return False
    if trainer.should_stop and not is_out_of_time(trainer) and _may_stop(trainer):
        return False  # a callback ends the training, with a validation; a run that resumes takes these batches again
    every = trainer.val_check_batch
    counted = trainer.fit_loop.total_batch_idx + 1 if trainer.check_val_every_n_epoch is None else batches
    return not every or every == float("inf") or counted % every != 0


def generators() -> dict[str, Any]:
    """The state of the global random generators, as plain values and tensors."""
    _, key, *rest = np.random.get_state()
    states = {"torch": torch.get_rng_state(), "python": random.getstate()}
    states["numpy"] = (torch.from_numpy(key.astype(np.int64)), *rest)
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_generators(states: dict[str, Any], device: torch.device) -> None:
    """Put the global random generators into a state that ``generators`` has given."""
    torch.set_rng_state(states["torch"].cpu())
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    key, *rest = states["numpy"]
    np.random.set_state(("MT19937", key.numpy().astype(np.uint32), *rest))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
