"""Whether a training can go on from a checkpoint: by the same optimizer and schedule, in the same place of an epoch."""

import logging
from typing import Any

from lightning import LightningModule

log = logging.getLogger(__name__)


def trained_by(module: LightningModule) -> dict[str, Any]:
    """What a training goes on with, as plain values for its checkpoint."""
    optimizer, scheduler = module.optimizers(use_pl_optimizer=False), module.lr_schedulers()
    lr = "initial_lr" if scheduler else "lr"  # which a schedule leaves as it is
    steps = getattr(scheduler, "total_steps", None)  # of a schedule that cannot become longer
    return {
        "optimizer": type(optimizer).__name__,
        "scheduler": f"{type(scheduler).__name__}{f' of {steps} steps' if steps else ''}"
        if scheduler
        else "no schedule",
        "lr": [group[lr] for group in optimizer.param_groups],
        "weight_decay": [group.get("weight_decay", 0.0) for group in optimizer.param_groups],
        "batches": module.trainer.num_training_batches,  # an epoch
    }


def check_trained_by(before: dict[str, Any], module: LightningModule) -> None:
    """Raise a ValueError if the optimizer or the schedule is another than before; say what of it counts no more."""
    now, file = trained_by(module), module.trainer.ckpt_path
    kinds = [f"{found.get('optimizer')} with {found.get('scheduler')}" for found in (before, now)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"{file} was trained by {kinds[0]}, and here is {kinds[1]}; expected the same (a ResNet can begin "
            f"anew from its weights: model.weights={file})"
        )
    for option in ("lr", "weight_decay"):
        if before.get(option) != now[option]:
            log.warning(
                f"{option} {now[option]} of the parameter groups does not count: the training goes on with "
                f"{before.get(option)}, as {file} has it"
            )


def check_place(before: dict[str, Any], batches: int, module: LightningModule) -> None:
    """Raise a ValueError if a checkpoint is from within an epoch, after so many batches, and epochs now differ."""
    file, then, now = module.trainer.ckpt_path, before.get("batches"), module.trainer.num_training_batches
    if isinstance(then, int) and then != now and 0 < batches < then:
        raise ValueError(
            f"{file} was written after {batches} of the {then} batches of an epoch, which has {now} here; expected the "
            "same data in batches of the same size"
        )
