"""Mistakes in what was typed, found by comparing it with ``conf/`` before anything is imported or run."""

import ast
import os
import re
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString, Transformer
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

from studies.runs import nearest

CONF = Path(__file__).parent / "conf"
# Values that may be of another kind than the default.
SEVERAL_KINDS = ("trainer.devices", "lit_module.compile", "model.width_per_group")
WORKERS = "datamodule.num_workers"  # null: as many as there are cores

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
# The plugins behind hydra/launcher=… and hydra/sweeper=…, Hydra's names and ours, as extras of this project.
PLUGINS = {
    "hydra/launcher": {
        "basic": None,
        "parallel": "joblib",
        "joblib": "joblib",
        "slurm": "submitit",
        "submitit_slurm": "submitit",
        "submitit_local": "submitit",
        "cluster": "ray",
        "ray": "ray",
    },
    "hydra/sweeper": {"basic": None, "search": "optuna", "optuna": "optuna"},
}
# The groups that the other scripts leave to choice; the rest is the checkpoint's.
AFTER_TRAINING = {"evaluate": ("datamodule", "trainer"), "predict": ("trainer",), "export": ()}
# Packages of choices, each an extra of this project by the same name.
PACKAGES = {"logger=wandb": "wandb", "logger=mlflow": "mlflow"}


class Mistake(ValueError):
    """Something that was typed and cannot be meant."""


def check(args: Namespace, config_name: str) -> None:
    """Compare the overrides on a command line with what ``conf/`` has.

    Args:
        args: the command line, as Hydra's parser sees it.
        config_name: of the root config.

    Raises:
        Mistake: an option, a key or a kind of value that does not exist, with the nearest that does.
    """
    typed = parsed(args.overrides)
    for override in typed:
        if override.key_or_group in PLUGINS:
            _check_plugin(override.key_or_group, override.value())
        package = PACKAGES.get(override.input_line)
        if package and not find_spec(package):
            raise Mistake(f"{override.input_line} needs {package}, not installed: pip install -e '.[{package}]'")
    runs_here = not (args.cfg or args.info or any(o.key_or_group == "hydra/launcher" for o in typed))
    typed = [o for o in typed if not o.is_hydra_override() and not o.is_delete()]
    if not typed and config_name == "train":  # the one root that leaves nothing to the user
        return
    groups = [o for o in typed if (CONF / o.key_or_group).is_dir()]
    choices = []
    for override in groups:
        group = override.key_or_group
        if config_name in AFTER_TRAINING and not override.is_add() and group not in AFTER_TRAINING[config_name]:
            known = _nearest(group, list(AFTER_TRAINING[config_name]))
            raise Mistake(f"{override.input_line}: {config_name}.py has no choice of {group}{known}")
        options = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        picked = values_of(override)
        if group == "study" and override.is_sweep_override():
            raise Mistake(f"{override.input_line}: each study is a sweep of its own; run one at a time")
        for value in (one for several in picked for one in (several if isinstance(several, list) else [several])):
            if value not in options:
                raise Mistake(f"{group}={_say(value)}: no such option{_nearest(value, options)}")
        if picked:
            choices.append(f"{override.input_line.partition('=')[0]}={picked[0]}")
    base = hydra.compose(config_name, choices)
    tree = OmegaConf.to_container(base, resolve=False)
    valued = [o for o in typed if o not in groups]
    for override in valued:
        _check_range(override)
        if not override.is_add() and not override.is_force_add():
            _check_value(override, tree)
        elif (
            override.key_or_group.startswith("trainer.")
            and (tree.get("trainer") or {}).get("_target_") == "lightning.Trainer"
        ):
            _check_trainers(override)
        if runs_here:
            _check_folder(override, tree)
    given = {override.key_or_group for override in valued}
    for key, value in values(tree):
        if value == "???" and key not in given:  # left to the user
            raise Mistake(f"{key} has no value; give it one: {key}=…")


def parsed(overrides: Iterable[str]) -> list[Override]:
    """What was typed. Raises: Mistake: a value that is not in Hydra's grammar, and would be with quotes."""
    parser, found = OverridesParser.create(), []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals and not override.startswith("~"):
            raise Mistake(f"{override}: expected key=value; --help shows what there is")
        try:
            found += parser.parse_overrides([override])
        except HydraException:
            in_quotes = f"{key}={quoted(value)}"
            try:
                parser.parse_override(in_quotes)
            except HydraException:  # it is not the value
                in_quotes = ""
            if not in_quotes:
                raise
            raise Mistake(f'{override}: Hydra cannot read this value; put it in quotes: "{in_quotes}"') from None
    return found


def quoted(text: str) -> str:
    """A value as Hydra's command line takes it, whatever is in it."""
    return "'" + text.replace("'", "\\'") + "'"


def _check_plugin(group: str, name: Any) -> None:
    """Raise a Mistake that says what to install, where Hydra would list its search path."""
    extras = PLUGINS[group]
    if name not in extras:  # one of another plugin's, or a slip
        if get_close_matches(str(name), extras) and not (CONF / group / f"{name}.yaml").exists():
            raise Mistake(f"{group}={name}: no such option{_nearest(name, list(extras))}")
        return
    kind = group.rpartition("/")[2]
    plugin = f"hydra_plugins.hydra_{extras[name]}_{kind}"
    if extras[name] and not (find_spec("hydra_plugins") and find_spec(plugin)):
        raise Mistake(f"{group}={name} needs a plugin that is not installed: pip install -e '.[{extras[name]}]'")


def values(tree: dict, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """The values of a config under their full keys."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from values(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _check_range(override: Override) -> None:
    """Raise a Mistake for a number or a word that this key cannot have, whatever else is chosen."""
    key, found = override.key_or_group, values_of(override)
    if override.is_interval_sweep():
        found = [override.value().start, override.value().end]
        if not found[0] < found[1]:
            raise Mistake(f"{override.input_line}: expected an interval from a smaller number to a larger one")
    for value in found:
        if key in CHOICES:
            check_choices({key: value}, CHOICES)
        if _kind(value) == "number":
            if key in LEAST and not value >= LEAST[key]:
                raise Mistake(f"{key}={value}: expected at least {LEAST[key]}")
            if key in ABOVE_ZERO and not value > 0:
                raise Mistake(f"{key}={value}: expected above 0")
            if key in MOST and not value <= MOST[key]:
                raise Mistake(f"{key}={value}: expected at most {MOST[key]}")
            if key in BELOW_ONE and not value < 1:
                raise Mistake(f"{key}={value}: expected below 1, say {BELOW_ONE[key]}")
            if key == "trainer.max_epochs" and not (value >= 1 or value == -1):
                raise Mistake(f"{key}={value}: expected at least 1, or -1 for no end")
        if key.startswith("trainer.limit_") and _kind(value) not in ("number", None):
            raise Mistake(f"{key}={_say(value)}: expected a number of batches, or a share from 0.0 to 1.0")
        if key == "optimizer.betas" and isinstance(value, list) and len(value) != 2:
            raise Mistake(f"{key}={_say(value)}: expected two numbers, say [0.9,0.999]")
        if key == "trainer.max_time" and _kind(value) in ("number", "text") and not DURATION.fullmatch(str(value)):
            raise Mistake(f"{key}={value}: expected days:hours:minutes:seconds, say 00:01:00:00 for an hour")


def _check_value(override: Override, tree: dict) -> None:
    key, node, path = override.key_or_group, tree, []
    for part in key.split("."):
        if not isinstance(node, dict):
            return  # an index into a list, or a value that only Hydra can resolve
        if part not in node:
            option = CONF / Path(*path) / f"{part}.yaml"
            if path and option.exists():
                raise Mistake(f"{key}: no such key; it comes with {'.'.join(path)}={part}")
            if key.startswith("trainer.limit_"):  # Lightning's own
                raise Mistake(f"{key}: no such key; +{key}=… adds it")
            if not path and part == key and (deeper := [name for name, _ in values(tree) if name.endswith(f".{key}")]):
                raise Mistake(f"{key}: no such key; did you mean {' or '.join(deeper[:3])}?")
            names = [name for name in node if not name.startswith("_")]
            raise Mistake(f"{key}: no such key{_nearest(part, names, path)} (+{key}=… would add it)")
        node = node[part]
        path.append(part)
    if isinstance(node, dict) and "_target_" in node:
        return  # an object: null or a name may take its place
    expected = _kind(node)
    for value in values_of(override):
        if key == "seed" and value is None:
            raise Mistake("seed=null: expected a whole number, so that the run can be repeated")
        if node == "???" and value in (None, ""):
            raise Mistake(f"{key}={_say(value)} is no value; give it one")
        if value is None and expected in ("number", "list") and not key.startswith("trainer.") and key != WORKERS:
            raise Mistake(f"{key}=null: expected {expected}, say {_say(node)}")
        found = _kind(value)
        whole = type(node) is int and isinstance(value, float)
        if key.startswith("trainer."):  # Lightning's takes 1e3 for 1000, and a share of the batches for their number
            whole = whole and not key.startswith("trainer.limit_") and not value.is_integer()
        if expected == "text" and found in ("number", "true or false") or key in SEVERAL_KINDS:
            continue
        if None not in (expected, found) and (expected != found or whole):
            example = "" if node == "???" else f", say {_say(node)}"
            raise Mistake(f"{key}={value}: expected {'whole number' if whole else expected}{example}")


def _check_trainers(override: Override) -> None:
    """Raise a Mistake for what is no argument of Lightning's Trainer, by its source: to import it takes seconds."""
    source = Path(find_spec("lightning").submodule_search_locations[0], "pytorch", "trainer", "trainer.py")
    tree = ast.parse(source.read_text(encoding="utf-8") if source.is_file() else "")
    trainers = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Trainer"]
    methods = [node for trainer in trainers for node in trainer.body if isinstance(node, ast.FunctionDef)]
    names = [a.arg for method in methods if method.name == "__init__" for a in method.args.kwonlyargs]
    name = override.key_or_group.split(".")[1]
    if names and name not in names:
        near = get_close_matches(name, names, n=1)
        hint = f"; did you mean +trainer.{near[0]}?" if near else ""
        raise Mistake(f"{override.input_line}: Lightning's Trainer has no such argument{hint}")


def _check_folder(override: Override, tree: dict) -> None:
    """Raise a Mistake for a folder of images that is not there. What is downloaded has a default, and need not be."""
    if override.key_or_group == "datamodule.data_dir" and tree.get("datamodule", {}).get("data_dir") == "???":
        for value in values_of(override):
            if _kind(value) == "text" and not Path(value).expanduser().is_dir():
                raise Mistake(f"datamodule.data_dir={value} is not a folder{nearest(Path(value).expanduser())}")


def values_of(override: Override) -> list[Any]:
    """The value of an override, or all that it sweeps over; nothing where they cannot be listed."""
    found: Iterable[Any] = [override.value()]
    if override.is_sweep_override():
        if not override.is_discrete_sweep() or isinstance(override.value(), Glob):
            return []
        found = override.sweep_iterator(transformer=Transformer.identity)
    return [value.text if isinstance(value, QuotedString) else value for value in found]


def _kind(value: Any) -> str | None:
    """What kind of value this is, None for one that could become anything."""
    if value is None or isinstance(value, str) and "${" in value:
        return None
    kinds = {bool: "true or false", int: "number", float: "number", str: "text", list: "list", dict: "group of keys"}
    return kinds.get(type(value))


def _say(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _nearest(word: Any, options: list[str], path: Iterable[str] = ()) -> str:
    """The one or two options most like a word, or all of them; as keys, if they stand under a path."""
    near = get_close_matches(str(word), options, n=2, cutoff=0.55)
    shown = [".".join([*path, option]) for option in near or options]
    said = f"; there are: {', '.join(shown)}" if shown else ""
    return f"; did you mean {' or '.join(shown)}?" if near else said


def check_choices(config: Mapping[str, Any], choices: Mapping[str, Sequence[Any]]) -> None:
    """Raise a Mistake if a key's value is none of those it may have; None is written null."""
    for key, allowed in choices.items():
        if key in config and config[key] not in allowed:
            options = list(dict.fromkeys(map(_say, allowed)))
            near = get_close_matches(str(config[key]), options, n=1, cutoff=0.55)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise Mistake(f"{key}={_say(config[key])}: expected one of {', '.join(options)}{hint}")


def check_least(config: DictConfig, least: Mapping[str, int]) -> None:
    """Raise a Mistake if a key's value, unless it is None, is below what it must be at least."""
    for key, value in least.items():
        if config[key] is not None and not isinstance(config[key], int):
            raise Mistake(f"{key}={config[key]}: expected a whole number, at least {value}")
        if config[key] is not None and config[key] < value:
            raise Mistake(f"{key}={config[key]}: expected at least {value}")


def check_monitor(monitor: str, mode: str) -> None:
    """Raise a Mistake if no checkpoint could be chosen by this metric, or if the worst would be."""
    if not monitor.startswith("val/"):
        raise Mistake(f"monitor={monitor}; expected a metric of the validation, say val/top1 or val/loss")
    known = ("val/loss", "val/top1", "val/top5", "val/f1_macro")  # a module of your own may log others
    if monitor not in known and (near := get_close_matches(monitor, known, n=1, cutoff=0.9)):
        raise Mistake(f"monitor={monitor}: no such metric; did you mean {near[0]}?")
    wrong = "max" if monitor.endswith("loss") else "min" if monitor.endswith(("top1", "top5", "f1_macro")) else None
    if mode not in ("min", "max") or mode == wrong:
        raise Mistake(f"mode={mode} with monitor={monitor}; expected mode=min for a loss, mode=max for a score")


def is_grid(config: DictConfig) -> bool:
    """Whether a sweep takes every combination; else a search decides as it goes."""
    return config.hydra.sweeper._target_.endswith("BasicSweeper")


def refuse_several_processes(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Each of a job's further processes would run the whole sweep again. Under SLURM they are tasks of the job."""
    if "LOCAL_RANK" in os.environ:
        raise Mistake("a sweep cannot be started by torchrun: each of its processes would run the whole sweep")
    if "submitit" in config.hydra.launcher._target_ or "trainer" not in config:
        return
    for name in ("devices", "num_nodes"):
        swept = [v for o in overrides if o.key_or_group == f"trainer.{name}" for v in values_of(o)]
        for value in swept or [config.trainer.get(name)]:
            count = value if isinstance(value, int) else len(value) if isinstance(value, list | ListConfig) else 1
            if count > 1:
                what = f"trainer.{name}={value}"
                raise Mistake(f"{what}: a job of several processes cannot be part of a sweep, but on SLURM")


def check_search(config: DictConfig, overrides: Sequence[Override]) -> None:
    """An interval needs a search, and a search must go where the metric gets better."""
    if is_grid(config):
        for override in overrides:
            if override.is_sweep_override() and not override.is_discrete_sweep():
                raise Mistake(f"{override.input_line}: an interval needs a search; add hydra/sweeper=search")
        return
    if not any(o.is_sweep_override() for o in overrides) and not config.hydra.sweeper.get("custom_search_space"):
        raise Mistake("a search needs something to search, say 'optimizer.lr=tag(log, interval(0.001, 0.5))'")
    if "direction" in config.hydra.sweeper:
        direction = getattr(config.hydra.sweeper.direction, "name", config.hydra.sweeper.direction)
        if direction != f"{config.mode}imize":
            raise Mistake(f"hydra.sweeper.direction={direction} with mode={config.mode}; expected {config.mode}imize")
