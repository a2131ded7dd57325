"""Cost and scores of a run, for the record and the curves."""

import copy
import functools
import logging
import math
import os
import resource
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.throughput import measure_flops
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn

from callbacks.best_checkpoint import BestCheckpoint
from callbacks.training_position import (
    batches_in_total,
    batches_of_epoch,
    end_skipped_epoch,
    is_out_of_time,
    resumes_own_run,
)
from results.metrics import check_monitor, wrong_mode
from results.record import one_line

log = logging.getLogger(__name__)


def cost(backbone: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int]:
    """(parameters, FLOPs of one forward pass on one image of shape ``(C, H, W)``).

    A multiplication and an addition are two FLOPs; counted by torch's FlopCounterMode, on the meta device if possible.

    Raises: ValueError: the network fails on such an image; names the layer and the input shape.
    """
    flops, error = None, None
    for device in ("meta", "cpu"):  # meta fails if the forward pass depends on values
        network, image = copy.deepcopy(backbone).to(device).eval(), torch.zeros(1, *shape, device=device)
        try:
            with torch.no_grad():
                flops = measure_flops(network, lambda network=network, image=image: network(image))
            break
        except Exception as failed:
            error = failed
    if flops is None:
        raise ValueError(f"model: {_failing_layer(network, image)}: {one_line(error)}") from error
    return sum(p.numel() for p in backbone.parameters()), flops


def _failing_layer(network: nn.Module, image: Tensor) -> str:
    """A message about the layer that fails on a batch of images, with the input shape."""
    running: list[str] = []  # the layers that have not returned

    def begin(name: str, layer: nn.Module, inputs: tuple) -> None:
        shapes = " and ".join(str(tuple(part.shape)) for part in inputs if isinstance(part, Tensor))
        kind = type(layer).__name__ if next(layer.children(), None) else str(layer)
        running.append(f"{name or 'the network'} ({kind}) fails on input of shape {shapes}")

    for name, layer in network.named_modules():
        layer.register_forward_pre_hook(functools.partial(begin, name))
        layer.register_forward_hook(lambda *_: running.pop() and None)
    with suppress(Exception), torch.no_grad():
        network(image)
    return running[-1] if running else type(network).__name__


def peak_memory(device: torch.device) -> float:
    """MiB: the peak of allocated GPU memory; without a GPU, the peak of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def check_monitors(trainer: Trainer, validated: bool) -> None:
    """Raise a ValueError if a callback monitors a metric that is not logged.

    Args:
        validated: True after a validation: check ``val/``; False after an epoch: check the rest.
    """
    metrics = sorted(trainer.callback_metrics)
    for callback in trainer.callbacks:
        monitor = getattr(callback, "monitor", None)
        if not monitor or monitor.startswith("val/") != validated or monitor in metrics:
            continue
        if getattr(callback, "strict", True):  # EarlyStopping's option to wait for a metric
            near = get_close_matches(monitor, metrics, n=1, cutoff=0.8)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(metrics)}"
            raise ValueError(f"monitor={monitor}: no such metric; {hint}")


def check_callbacks(trainer: Trainer, run_monitor: str, run_mode: str) -> None:
    """Raise a ValueError if a callback's mode is wrong, or the best checkpoint and the run have different metrics."""
    for callback in trainer.callbacks:
        monitor, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
        chosen = f"monitor={monitor} mode={mode}"
        if isinstance(callback, BestCheckpoint) and (monitor, mode) != (run_monitor, run_mode):
            right_mode = {"max": "min", "min": "max"}.get(wrong_mode(monitor), mode)
            raise ValueError(
                f"callbacks.checkpoint has {chosen}, but the run has monitor={run_monitor} mode={run_mode}; to choose "
                f"the best epoch by this metric, set it for the run: monitor={monitor} mode={right_mode}"
            )
        if monitor and mode == wrong_mode(monitor):
            raise ValueError(
                f"{type(callback).__name__} has {chosen}; expected mode=min for a loss, mode=max for a score"
            )


def check_spelling_of_monitors(trainer: Trainer, metrics: Iterable[str]) -> None:
    """Raise a ValueError if a callback's monitor is a misspelt metric, before any was logged."""
    for callback in trainer.callbacks:
        monitor = getattr(callback, "monitor", None)
        near = get_close_matches(str(monitor), metrics, n=1, cutoff=0.9)
        if monitor and near and monitor not in metrics:
            raise ValueError(f"monitor={monitor}: no such metric; did you mean {near[0]}?")


def _rounded(point: Sequence[float]) -> list[float | None]:
    """An (epochs so far, value) pair for the record: six digits, and null for NaN and infinite values."""
    return [float(f"{number:.6g}") if math.isfinite(number) else None for number in point]


class RunMetrics(Callback):
    """Count images and seconds of training, and keep the metrics of each epoch and of the last validation.

    Every checkpoint holds this state, and with it the scores of that checkpoint. The best scores are read from the file
    that is tested, whichever callback wrote it.

    Seconds exclude validation; the run waits for the device once per epoch. Logs ``throughput/images_per_second`` and
    ``memory/peak_mb`` of each epoch, as in the record.

    Args:
        monitor: the metric that decides what is best.
        mode: ``max`` or ``min``.

    Attributes:
        validation, validation_epoch: metrics and epoch, counted from 0, of the last validation.
        best, best_epoch: the same for the tested checkpoint, or without one, the last validation. Set at the end of
            training.
        history: metric of training or validation → (epochs so far, value) pairs, in order.
    """

    def __init__(self, monitor: str, mode: str):
        check_monitor(monitor, mode)
        self.monitor, self.mode = monitor, mode
        self.params = self.flops_per_image = None
        self.images, self.train_seconds = 0, 0.0
        self.last: dict[str, float] = {}
        self.validation: dict[str, float] = {}
        self.validation_epoch: int | None = None
        self.best: dict[str, float] = {}
        self.best_epoch: int | None = None
        self.history: dict[str, list[list[float]]] = {}
        self._before = (0, 0.0)  # images and seconds when this epoch began or was resumed
        self._since: float | None = None
        self._began = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            check_callbacks(trainer, self.monitor, self.mode)
            # Otherwise a job of a sweep would report the peak of earlier jobs.
            if trainer.strategy.root_device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)
            data = trainer.datamodule
            shape = (data.in_channels, data.image_size, data.image_size)
            self.params, self.flops_per_image = cost(pl_module.backbone, shape)
            name = type(pl_module.backbone).__name__
            log.info(f"{'size':<12} {name}: {self.params:,} parameters, {self.flops_per_image:,} FLOPs per image")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        known = [*getattr(pl_module, "val_metrics", ()), *trainer.callback_metrics, "train/loss", "train/top1"]
        check_spelling_of_monitors(trainer, known)
        self._began = True
        if not resumes_own_run(trainer):  # an earlier run's validation has no checkpoint in this folder
            self.validation, self.validation_epoch = {}, None
        if not sum(trainer.num_val_batches):
            for callback in trainer.callbacks:
                monitor = str(getattr(callback, "monitor", ""))
                if isinstance(callback, EarlyStopping) and callback.strict and monitor.startswith("val/"):
                    raise ValueError(f"monitor={monitor} of EarlyStopping: there is no validation in this run")
        self._begin_epoch()  # a run may resume within an epoch

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read_best(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises: ValueError: nothing was trained, although this run's training had not ended before."""
        if self._began:
            return
        if resumes_own_run(trainer):
            self._end_skipped_training(trainer, pl_module)
            self._read_best(trainer)
            return
        ckpt_path = trainer.ckpt_path
        before = f", of which {Path(ckpt_path).name} has had {trainer.current_epoch}" if ckpt_path else ""
        raise ValueError(
            f"nothing to train: trainer.max_epochs={trainer.max_epochs}{before}, "
            f"trainer.limit_train_batches={trainer.limit_train_batches}"
        )

    def _end_skipped_training(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set counts and scores to those at the end of the training; the checkpoint is from the moment before."""
        if end_skipped_epoch(trainer):
            scores = getattr(pl_module, "train_metrics", torch.nn.Module()).named_children()
            self.last = {f"train/{name}": score.compute().item() for name, score in scores}
            self._remember(trainer.current_epoch, self.last)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_epoch()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.images += len(batch[1]) * trainer.world_size

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        check_monitors(trainer, validated=True)
        if trainer.sanity_checking:
            return
        metrics = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
        self.validation, self.validation_epoch = metrics, trainer.current_epoch
        self._remember(trainer.current_epoch + batches_of_epoch(trainer) / trainer.num_training_batches, metrics)
        self._start()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop(pl_module)
        check_monitors(trainer, validated=False)
        self.last = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("train/")}
        self._remember(trainer.current_epoch + 1, self.last)
        images, seconds = self.images - self._before[0], self.train_seconds - self._before[1]
        metrics = {"memory/peak_mb": peak_memory(pl_module.device)}
        if images:
            metrics["throughput/images_per_second"] = images / seconds
        for logger in trainer.loggers:
            logger.log_metrics(metrics, trainer.global_step - 1)  # the step at which Lightning logs the epoch's metrics

    def _begin_epoch(self) -> None:
        self._before = (self.images, self.train_seconds)
        self._start()

    def _remember(self, epochs: float, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.history.setdefault(name, []).append([epochs, value])

    def _start(self) -> None:
        self._since = time.perf_counter()

    def _stop(self, pl_module: LightningModule) -> None:
        if self._since is not None:
            if pl_module.device.type == "cuda":
                torch.cuda.synchronize(pl_module.device)
            self.train_seconds += time.perf_counter() - self._since
            self._since = None

    def facts(self, trainer: Trainer) -> dict[str, Any]:
        """This callback's part of the run's record."""
        device = trainer.strategy.root_device
        if device.type == "cuda":
            name = torch.cuda.get_device_name(device)
        else:
            threads = torch.get_num_threads()
            name = f"{device.type}, {threads} thread{'s' * (threads != 1)}"
        return {
            "metrics": self.last | self.best,
            "params": self.params,
            "flops_per_image": self.flops_per_image,
            "train_seconds": self.train_seconds,
            "images_per_second": self.images / self.train_seconds if self.train_seconds else None,
            "peak_memory_mb": peak_memory(device),
            "history": {name: list(map(_rounded, points)) for name, points in self.history.items()},
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "device": name if trainer.world_size == 1 else f"{trainer.world_size} × {name}",
        }

    def best_checkpoint(self, trainer: Trainer) -> str | None:
        """The path of the best checkpoint; None if none was written, as without a validation."""
        candidates = [c for c in trainer.checkpoint_callbacks if getattr(c, "monitor", None) == self.monitor]
        candidates.sort(key=lambda callback: not isinstance(callback, BestCheckpoint))
        best = candidates[0].best_model_path if candidates else ""
        if best and trainer.is_global_zero and not os.path.isfile(best):
            raise FileNotFoundError(f"{best} was written but no longer exists")
        return best or None

    def _read_best(self, trainer: Trainer) -> None:
        """Set the best scores and epoch from the best checkpoint's file, otherwise from the last validation."""
        self.best, self.best_epoch = self.validation, self.validation_epoch
        if path := self.best_checkpoint(trainer):
            states = trainer.strategy.load_checkpoint(path, weights_only=True).get("callbacks", {})
            state = states.get(self.state_key, {})
            earlier = "validation" not in state  # earlier versions stored the best scores
            self.best = state.get("best" if earlier else "validation", {})
            self.best_epoch = state.get("best_epoch" if earlier else "validation_epoch")

    def out_of_time(self, trainer: Trainer) -> str | None:
        """A message if ``trainer.max_time`` ended the training before the last batch."""
        batches = batches_in_total(trainer)
        planned = trainer.num_training_batches * (trainer.max_epochs or 0)
        if batches < planned and is_out_of_time(trainer):
            return f"out of time: trainer.max_time ended the training after {batches} of {planned} batches; raise it"
        return None

    def state_dict(self) -> dict[str, Any]:
        keys = ("images", "train_seconds", "last", "validation", "validation_epoch", "history")
        state = {key: getattr(self, key) for key in keys}
        if self._since is not None:
            state["train_seconds"] += time.perf_counter() - self._since
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        keys = vars(self).keys() - {"best", "best_epoch"}  # earlier versions stored these too
        vars(self).update({key: value for key, value in state_dict.items() if key in keys})
