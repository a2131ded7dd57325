"""Log learning rates and gradients."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from callbacks.tensorboard import tag_of, writers


class OptimizerMonitor(Callback):
    """Log ``lr`` and ``grad_norm`` every ``trainer.log_every_n_steps`` steps and in the last step of each epoch.

    ``lr`` is one curve if all parameter groups have the same rate, otherwise ``lr/backbone`` and ``lr/head``.
    ``grad_norm`` is the norm of all gradients as one vector, before clipping. Values stay on the device until the epoch
    ends or a checkpoint is written, so that no step waits for them (except with 16-mixed and a fused optimizer).

    Args:
        histograms: epochs between two histograms of each weight and gradient in TensorBoard, computed in the last step
            of the epoch, which waits for them; None: never.
    """

    def __init__(self, histograms: int | None = None):
        if histograms is not None and histograms < 1:
            raise ValueError(f"histograms={histograms}; expected at least 1 epoch, or null")
        self.histograms = histograms
        self._one_rate = True
        self._pending: list[tuple[int, dict[str, Tensor | float]]] = []  # (step, metrics)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        self._one_rate = len({group.get("initial_lr", group["lr"]) for group in groups}) <= 1

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        step, every = trainer.global_step, trainer.log_every_n_steps
        if not trainer.loggers or not (trainer.is_last_batch or (every and (step + 1) % every == 0)):
            return
        self._pending.append((step, {**self._rates(optimizer), "grad_norm": gradient_norm(trainer, optimizer)}))
        if self.histograms and trainer.is_last_batch and (trainer.current_epoch + 1) % self.histograms == 0:
            self._draw_histograms(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._write(trainer)  # a run that resumes from this checkpoint does not log these steps again
        for logger in trainer.loggers:
            logger.save()

    def _write(self, trainer: Trainer) -> None:
        for step, metrics in self._pending:
            for logger in trainer.loggers:
                logger.log_metrics({name: float(value) for name, value in metrics.items()}, step)
        self._pending = []

    def _rates(self, optimizer: Optimizer) -> dict[str, float]:
        if self._one_rate:
            return {"lr": optimizer.param_groups[0]["lr"]}
        names = (group.get("name", str(n)).removesuffix("_gains") for n, group in enumerate(optimizer.param_groups))
        return {f"lr/{name}": group["lr"] for name, group in zip(names, optimizer.param_groups, strict=True)}

    def _draw_histograms(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for writer in writers(trainer):
            for name, parameter in pl_module.backbone.named_parameters():
                for kind, values in (("weights", parameter.detach()), ("gradients", parameter.grad)):
                    if values is not None and values.isfinite().all():
                        writer.add_histogram(tag_of(f"{kind}/{name}"), values.float(), trainer.global_step)


def gradient_norm(trainer: Trainer, optimizer: Optimizer) -> Tensor:
    """The norm of all gradients of an optimizer, a scalar on the device."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    scaler = getattr(trainer.precision_plugin, "scaler", None)  # of 16-mixed
    if scaler is not None and optimizer.defaults.get("fused"):  # a fused step unscales the gradients later
        norm = norm / scaler.get_scale()
    return norm
