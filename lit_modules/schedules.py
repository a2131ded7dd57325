"""Learning-rate schedules. To add one, write a ``Schedule`` here, and a config in ``conf/scheduler``."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Protocol

from lightning import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau


class Schedule(Protocol):
    """Builds a scheduler for a training of known length. The Classifier steps it after every optimizer step.

    A ``ReduceLROnPlateau`` is stepped after every validation, with ``val/loss``.
    """

    def __call__(self, optimizer: Optimizer, total_steps: int) -> LRScheduler: ...


def total_steps(trainer: Trainer) -> int:
    """The number of optimizer steps of a training, even if gradient accumulation changes between epochs.

    Raises: ValueError: the training has no end.
    """
    steps = trainer.estimated_stepping_batches
    if steps == math.inf:
        raise ValueError("a schedule needs a last step: set trainer.max_epochs or scheduler=none")
    for callback in trainer.callbacks:
        if isinstance(callback, GradientAccumulationScheduler) and trainer.max_epochs > 0:
            accumulated = map(callback.get_accumulate_grad_batches, range(trainer.max_epochs))
            steps = sum(math.ceil(trainer.num_training_batches / batches) for batches in accumulated)
            steps = steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)
    return int(steps)


def cosine(optimizer: Optimizer, total_steps: int, warmup: float = 0.05, final: float = 0.0) -> LambdaLR:
    """Linear warm-up, then half a cosine (Loshchilov & Hutter 2017, "SGDR", without restarts).

    Args:
        warmup: the share of all steps during which the rate rises to the optimizer's ``lr``.
        final: the rate at the end, as a fraction of ``lr``.
    """
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup={warmup}; expected a share of the training from 0 to below 1, such as 0.05")
    if final < 0:
        raise ValueError(f"final={final}; expected 0 or more")
    rising = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        progress = min(1.0, (step - rising) / max(1, total_steps - rising))
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

    return LambdaLR(optimizer, factor)


def one_cycle(optimizer: Optimizer, total_steps: int, pct_start: float = 0.3) -> OneCycleLR:
    """Raise the rate to each group's ``lr`` and lower it again, momentum inversely (Smith 2018, "super-convergence").

    Args:
        pct_start: the share of all steps during which the rate rises.
    """
    return OneCycleLR(optimizer, [group["lr"] for group in optimizer.param_groups], total_steps, pct_start=pct_start)


def step(
    optimizer: Optimizer, total_steps: int, milestones: Sequence[float] = (0.5, 0.75), gamma: float = 0.1
) -> LambdaLR:
    """Multiply the rate by ``gamma`` at each milestone, a share of all steps (He et al. 2015, section 4.2)."""
    if not all(0 < milestone < 1 for milestone in milestones):
        raise ValueError(f"milestones={list(milestones)}; expected shares of the training, above 0 and below 1")
    return LambdaLR(optimizer, lambda at: gamma ** sum(at >= share * total_steps for share in milestones))


def plateau(optimizer: Optimizer, total_steps: int, factor: float = 0.1, patience: int = 5) -> ReduceLROnPlateau:
    """Multiply the rate by ``factor`` when ``val/loss`` has not improved for more than ``patience`` validations.

    The Classifier steps it after each validation instead of each optimizer step.
    """
    return ReduceLROnPlateau(optimizer, factor=factor, patience=patience)


def exponential(optimizer: Optimizer, total_steps: int, first: float = 1e-5) -> LambdaLR:
    """Raise the rate from ``first`` times ``lr`` to the optimizer's ``lr``, by the same factor in each step."""
    if not 0 < first < 1:
        raise ValueError(f"first={first}; expected a fraction of the optimizer's lr, above 0 and below 1")
    return LambdaLR(optimizer, lambda at: first ** (1 - min(at, total_steps - 1) / max(1, total_steps - 1)))


def check_takes_total_steps(scheduler: Callable) -> None:
    """Raise a ValueError for a scheduler that is not a ``Schedule``."""
    try:
        parameters = inspect.signature(scheduler).parameters.values()
    except (TypeError, ValueError):  # no signature to inspect
        return
    if not any(p.name == "total_steps" or p.kind is p.VAR_KEYWORD for p in parameters):
        inner = inspect.unwrap(scheduler)
        name = getattr(inner, "func", inner).__name__
        raise ValueError(
            f"scheduler={name} does not take total_steps, the number of optimizer steps; expected "
            "scheduler=cosine, one_cycle, step, plateau or none, or torch.optim.lr_scheduler.OneCycleLR"
        )
