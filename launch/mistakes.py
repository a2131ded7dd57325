"""Mistakes: what values may be, and how one that cannot be meant is said."""

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from results.errors import ConfigError
from results.record import is_main_process, one_line, out_of_memory

# What a number must be: at least, above zero, at most, below one (and what would do).
LEAST = {
    key: least
    for least, keys in {
        0: "seed datamodule.num_workers datamodule.mixup datamodule.cutmix optimizer.lr optimizer.momentum "
        "optimizer.weight_decay scheduler.final scheduler.gamma scheduler.warmup lit_module.label_smoothing "
        "callbacks.ema.decay callbacks.early_stopping.patience trainer.log_every_n_steps trainer.gradient_clip_val",
        1: "datamodule.batch_size datamodule.image_size datamodule.num_images datamodule.resize_ratio "
        "trainer.accumulate_grad_batches",
        2: "datamodule.num_classes",
    }.items()
    for key in keys.split()
}
ABOVE_ZERO = (
    "callbacks.last.minutes callbacks.last.every_n_train_steps trainer.val_check_interval "
    "lit_module.backbone_lr_ratio datamodule.val_fraction"
).split()
MOST = {"seed": 2**32 - 1}
BELOW_ONE = {
    "optimizer.momentum": 0.9,
    "lit_module.label_smoothing": 0.1,
    "callbacks.ema.decay": 0.999,
    "scheduler.warmup": 0.05,
    "datamodule.val_fraction": 0.1,
}
CHOICES = {
    "mode": ("max", "min"),
    "impossible": ("skip", "refuse"),
    "datamodule.in_channels": (1, 3),
    "datamodule.broken": ("fail", "skip"),
    "lit_module.nonfinite": ("stop", "skip"),
    "lit_module.memory_format": ("contiguous_format", "channels_last", "auto"),
    "lit_module.compile": (False, True, "reduce-overhead", "max-autotune", "auto"),
    "trainer.accelerator": ("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.precision": ("32-true", "bf16-mixed", "16-mixed", "auto", "32", "bf16", "16", 32, 16),
}
DURATION = re.compile(r"\d+(:\d+){3}")  # of trainer.max_time


def tell(error: Exception) -> int:
    """Say what went wrong on stderr, and return the exit code."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1" or not is_user_error(error):
        raise error
    if is_main_process():
        print(f"error: {one_line(error)}", file=sys.stderr)
    return 2


def is_user_error(error: BaseException) -> bool:
    """Whether the user can fix this: a ConfigError, or another error that is never a fault of this project."""
    known = (ValueError, OSError, HydraException, OmegaConfBaseException, YAMLError)
    return (
        isinstance(error, known)
        or out_of_memory(error) is not None
        or type(error).__name__ == "MisconfigurationException"  # Lightning's, which may not be imported
    )


def check_limits(key: str, value: Any) -> None:
    """Raise a Mistake for a number or a word that this key cannot have, whatever else is chosen."""
    if key in CHOICES:
        check_choices({key: value}, CHOICES)
    if kind(value) == "number":
        if key in LEAST and not value >= LEAST[key]:
            raise ConfigError(f"{key}={value}: expected at least {LEAST[key]}")
        if key in ABOVE_ZERO and not value > 0:
            raise ConfigError(f"{key}={value}: expected above 0")
        if key in MOST and not value <= MOST[key]:
            raise ConfigError(f"{key}={value}: expected at most {MOST[key]}")
        if key in BELOW_ONE and not value < 1:
            raise ConfigError(f"{key}={value}: expected below 1, say {BELOW_ONE[key]}")
        if key == "trainer.max_epochs" and not (value >= 1 or value == -1):
            raise ConfigError(f"{key}={value}: expected at least 1, or -1 for no end")
    if key.startswith("trainer.limit_") and kind(value) not in ("number", None):
        raise ConfigError(f"{key}={say(value)}: expected a number of batches, or a share from 0.0 to 1.0")
    if key == "optimizer.betas" and isinstance(value, list) and len(value) != 2:
        raise ConfigError(f"{key}={say(value)}: expected two numbers, say [0.9,0.999]")
    if key == "trainer.accumulate_grad_batches" and isinstance(value, dict):
        raise ConfigError(
            f"{key}={say(value)}: expected one number; to change it between epochs: '+callbacks.accumulation="
            "{_target_:lightning.pytorch.callbacks.GradientAccumulationScheduler,scheduling:{0:1,4:2}}'"
        )
    if key == "trainer.max_time" and kind(value) in ("number", "text") and not DURATION.fullmatch(str(value)):
        raise ConfigError(f"{key}={value}: expected days:hours:minutes:seconds, say 00:01:00:00 for an hour")


def check_choices(config: Mapping[str, Any], choices: Mapping[str, Sequence[Any]]) -> None:
    """Raise a Mistake if a key's value is none of those it may have; None is written null."""
    for key, allowed in choices.items():
        if key in config and config[key] not in allowed:
            options = list(dict.fromkeys(map(say, allowed)))
            near = get_close_matches(str(config[key]), options, n=1, cutoff=0.55)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{key}={say(config[key])}: expected one of {', '.join(options)}{hint}")


def check_least(config: DictConfig, least: Mapping[str, int]) -> None:
    """Raise a Mistake if a key's value, unless it is None, is below what it must be at least."""
    for key, value in least.items():
        if config[key] is not None and not isinstance(config[key], int):
            raise ConfigError(f"{key}={config[key]}: expected a whole number, at least {value}")
        if config[key] is not None and config[key] < value:
            raise ConfigError(f"{key}={config[key]}: expected at least {value}")


def check_monitor(monitor: str, mode: str) -> None:
    """Raise a Mistake if no checkpoint could be chosen by this metric, or if the worst would be."""
    if not monitor.startswith("val/"):
        raise ConfigError(f"monitor={monitor}; expected a metric of the validation, say val/top1 or val/loss")
    known = ("val/loss", "val/top1", "val/top5", "val/f1_macro")  # a module of your own may log others
    if monitor not in known and (near := get_close_matches(monitor, known, n=1, cutoff=0.9)):
        raise ConfigError(f"monitor={monitor}: no such metric; did you mean {near[0]}?")
    if mode not in ("min", "max") or mode == wrong_mode(monitor):
        raise ConfigError(f"mode={mode} with monitor={monitor}; expected mode=min for a loss, mode=max for a score")


def wrong_mode(monitor: str) -> str | None:
    """The mode that would take the worst value of a metric for the best; None for a metric of unknown meaning."""
    return "max" if monitor.endswith("loss") else "min" if monitor.endswith(("top1", "top5", "f1_macro")) else None


def kind(value: Any) -> str | None:
    """What kind of value this is, None for one that could become anything."""
    if value is None or isinstance(value, str) and "${" in value:
        return None
    kinds = {bool: "true or false", int: "number", float: "number", str: "text", list: "list", dict: "group of keys"}
    return kinds.get(type(value))


def say(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def nearest_of(word: Any, options: list[str], path: Iterable[str] = ()) -> str:
    """The one or two options most like a word, or all of them; as keys, if they stand under a path."""
    near = get_close_matches(str(word), options, n=2, cutoff=0.55)
    shown = [".".join([*path, option]) for option in near or options]
    said = f"; there are: {', '.join(shown)}" if shown else ""
    return f"; did you mean {' or '.join(shown)}?" if near else said
