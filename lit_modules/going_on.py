"""Whether a training can go on from a checkpoint: by the same optimizer and schedule, in the same place of an epoch."""

import inspect
import logging
from typing import Any

from lightning import LightningModule
from torch.optim.lr_scheduler import LambdaLR

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
        "options": module.restored_options,
    }


def restored_options(module: LightningModule) -> dict[str, Any]:
    """The options of this run, by their names on the command line, that loading a checkpoint replaces by its own."""
    optimizer, scheduler = module.optimizers(use_pl_optimizer=False), module.lr_schedulers()
    options = {f"optimizer.{name}": value for name, value in optimizer.defaults.items()}
    options["lit_module.backbone_lr_ratio"] = module.backbone_lr_ratio
    if scheduler and not isinstance(scheduler, LambdaLR):  # which keeps its functions outside its state
        typed = getattr(inspect.unwrap(module.scheduler), "keywords", {})  # of the partial in the config
        options |= {f"scheduler.{name}": value for name, value in typed.items()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def check_trained_by(before: dict[str, Any], module: LightningModule) -> dict[str, Any]:
    """Compare this run's optimization with that of the checkpoint, and warn about options that have no effect.

    Returns:
        The options in effect: the checkpoint's.

    Raises: ValueError: the optimizer, the schedule or the parameter groups are other ones.
    """
    now, file = trained_by(module), module.trainer.ckpt_path
    kinds = [f"{found.get('optimizer')} with {found.get('scheduler')}" for found in (before, now)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"{file} was trained by {kinds[0]}, and here is {kinds[1]}; expected the same (a ResNet can begin "
            f"anew from its weights: model.weights={file})"
        )
    if len(before.get("lr", now["lr"])) != len(now["lr"]):
        raise ValueError(
            f"{file} has {len(before['lr'])} parameter groups, this run {len(now['lr'])}; expected the same "
            "lit_module.backbone_lr_ratio and the same callbacks.backbone_freezing"
        )
    typed = now["options"]
    if "options" not in before:  # of an earlier version
        pairs = {f"optimizer.{name}": (before.get(name), now[name]) for name in ("lr", "weight_decay")}
    else:
        pairs = {name: (before["options"].get(name), typed.get(name)) for name in typed | before["options"]}
    for name, (old, new) in pairs.items():
        if old != new:
            log.warning(f"{name}={new} has no effect: the training continues with {old}, as in {file}")
    return before.get("options", typed)


def check_place(before: dict[str, Any], batches: int, module: LightningModule) -> None:
    """Raise a ValueError if a checkpoint is from within an epoch, after so many batches, and epochs now differ."""
    file, then, now = module.trainer.ckpt_path, before.get("batches"), module.trainer.num_training_batches
    if isinstance(then, int) and then != now and 0 < batches < then:
        raise ValueError(
            f"{file} was written after {batches} of the {then} batches of an epoch, which has {now} here; expected the "
            "same data in batches of the same size"
        )
