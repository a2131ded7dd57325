"""Checks before a training resumes: the same optimizer and schedule, and the same position in an epoch."""

import inspect
import logging
from typing import Any

from lightning import LightningModule
from torch.optim.lr_scheduler import LambdaLR

log = logging.getLogger(__name__)


def describe_optimization(module: LightningModule) -> dict[str, Any]:
    """Optimizer, schedule and their options, as plain values for a checkpoint."""
    optimizer, scheduler = module.optimizers(use_pl_optimizer=False), module.lr_schedulers()
    steps = getattr(scheduler, "total_steps", None)  # of a schedule with a fixed length
    schedule = f"{type(scheduler).__name__}{f' of {steps} steps' if steps else ''}" if scheduler else "no schedule"
    return {
        "optimizer": type(optimizer).__name__,
        "scheduler": schedule,
        "lr": [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups],  # schedules change lr
        "weight_decay": [group.get("weight_decay", 0.0) for group in optimizer.param_groups],
        "batches": module.trainer.num_training_batches,  # per epoch
        "options": module.restored_options,
    }


def restored_options(module: LightningModule) -> dict[str, Any]:
    """The options of this run that loading a checkpoint overrides, by command-line name."""
    optimizer, scheduler = module.optimizers(use_pl_optimizer=False), module.lr_schedulers()
    options = {f"optimizer.{name}": value for name, value in optimizer.defaults.items()}
    options["lit_module.backbone_lr_ratio"] = module.backbone_lr_ratio
    if scheduler and not isinstance(scheduler, LambdaLR):  # the state of a LambdaLR lacks the function and options
        configured = getattr(inspect.unwrap(module.scheduler), "keywords", {})  # of the partial in the config
        options |= {f"scheduler.{name}": value for name, value in configured.items()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def check_optimization(before: dict[str, Any], module: LightningModule) -> dict[str, Any]:
    """Compare this run's optimization with the checkpoint's; warn about options that the checkpoint overrides.

    Returns:
        The options in effect: the checkpoint's.

    Raises: ValueError: the optimizer, the schedule or the parameter groups differ.
    """
    now, file = describe_optimization(module), module.trainer.ckpt_path
    kinds = [f"{kind.get('optimizer')} with {kind.get('scheduler')}" for kind in (before, now)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"{file} was trained by {kinds[0]}, and this run has {kinds[1]}; expected the same (a new training can "
            f"start from these weights: model.weights={file})"
        )
    if len(before.get("lr", now["lr"])) != len(now["lr"]):
        raise ValueError(
            f"{file} has {len(before['lr'])} parameter groups, this run {len(now['lr'])}; expected the same "
            "lit_module.backbone_lr_ratio and the same callbacks.backbone_freezing"
        )
    options = now["options"]
    if "options" in before:
        pairs = {name: (before["options"].get(name), options.get(name)) for name in options | before["options"]}
    else:  # an older checkpoint
        pairs = {f"optimizer.{name}": (before.get(name), now[name]) for name in ("lr", "weight_decay")}
    for name, (old, new) in pairs.items():
        if old != new:
            log.warning(f"{name}={new} has no effect: the training continues with {old}, as in {file}")
    return before.get("options", options)


def check_epoch_length(before: dict[str, Any], batches: int, module: LightningModule) -> None:
    """Raise a ValueError if a checkpoint was written within an epoch, and the length of an epoch has changed.

    Args:
        batches: batches of the epoch before the checkpoint.
    """
    file, then, now = module.trainer.ckpt_path, before.get("batches"), module.trainer.num_training_batches
    if isinstance(then, int) and then != now and 0 < batches < then:
        raise ValueError(
            f"{file} was written after {batches} of the {then} batches of an epoch, and an epoch now has {now}; "
            "expected the same data and batch size"
        )
