"""Check overrides against ``conf/`` before torch is imported: one line per error, with the nearest valid choice."""

import codecs
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString, Transformer
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from models.resnet_config import CHECKS
from results.errors import ConfigError

CONF = Path(__file__).parent.parent / "conf"
# Choices that need an extra of this project → the extra, and a module that it installs.
EXTRAS = {
    "logger=wandb": ("wandb", "wandb"),
    "logger=mlflow": ("mlflow", "mlflow"),
    "datamodule=hub": ("hub", "datasets"),
    "datamodule=svhn": ("mat", "scipy"),
    "hydra/launcher=parallel": ("joblib", "hydra_plugins.hydra_joblib_launcher"),
    "hydra/launcher=slurm": ("submitit", "hydra_plugins.hydra_submitit_launcher"),
    "hydra/launcher=cluster": ("ray", "hydra_plugins.hydra_ray_launcher"),
    "hydra/sweeper=search": ("optuna", "hydra_plugins.hydra_optuna_sweeper"),
}
BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Keys whose values are paths, even if they look like numbers.
PATHS = "data_dir datamodule.data_dir ckpt ckpt_path resume images output grid model.weights".split()
# Keys whose values may have another type than the default.
UNTYPED = ("trainer.devices", "lit_module.compile", "model.width_per_group", "datamodule.num_workers")
TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "keys"}
# Names from other projects, and what to write here.
HABITS = {
    "epochs": "trainer.max_epochs=…",
    "learning_rate": "optimizer.lr=…",
    "wd": "optimizer.weight_decay=…",
    "bs": "datamodule.batch_size=…",
    "workers": "datamodule.num_workers=…",
    "pretrained": "model.weights=DEFAULT (ResNets have it)",
    "arch": "model=…",
    "dataset": "datamodule=…",
    "data": "datamodule=…",
    "gpus": "trainer=gpu trainer.devices=…",
    "device": "trainer=gpu or trainer=cpu",
    "amp": "trainer.precision=auto",
}
# Arguments of the Trainer that the scripts set, and what to use instead.
SET_BY_SCRIPTS = {
    "trainer.logger": "logger=…",
    "trainer.callbacks": "+callbacks.NAME._target_=…",
    "trainer.enable_checkpointing": "callbacks.checkpoint=null",
}
# The limits that users hit most; constructors check the rest.
LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda value: 0 <= value < 2**32, "0 to 4294967295"),
    "optimizer.lr": (lambda value: value >= 0, "0 or more"),
    "optimizer.momentum": (lambda value: 0 <= value < 1, "0 or more, below 1"),
    "optimizer.weight_decay": (lambda value: value >= 0, "0 or more"),
    "datamodule.batch_size": (lambda value: value >= 1, "1 or more"),
    "datamodule.folds": (lambda value: value >= 2, "2 or more"),
    "datamodule.fold": (lambda value: value >= 0, "0 or more, below datamodule.folds"),
    "datamodule.image_size": (lambda value: value >= 1, "1 or more"),
    "datamodule.num_workers": (lambda value: value >= 0, "0 or more"),
    "datamodule.val_fraction": (lambda value: 0 < value < 1, "above 0, below 1"),
    "trainer.max_epochs": (lambda value: value >= 1 or value == -1, "1 or more, or -1 for no end"),
    "trainer.accumulate_grad_batches": (lambda value: value >= 1, "1 or more"),
    "trainer.val_check_interval": (lambda value: value > 0, "above 0"),
    "callbacks.last.minutes": (lambda value: value > 0, "above 0"),
    "callbacks.early_stopping.patience": (lambda value: value >= 0, "0 or more"),
}
CHOICES = {
    "mode": ("max", "min"),
    "impossible": ("skip", "refuse"),
    "datamodule.sampling": (None, "balanced"),
    "datamodule.cache": ("auto", "memory", "none"),
    "lit_module.memory_format": ("contiguous_format", "channels_last", "auto"),
    "lit_module.compile": (False, True, "reduce-overhead", "max-autotune", "auto"),
    "trainer.accelerator": ("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.precision": ("32-true", "bf16-mixed", "16-mixed", "auto", "32", "bf16", "16", 32, 16),
}


def check_overrides(config_name: str, overrides: Sequence[str], multirun: bool) -> None:
    """Raise a ConfigError for an unknown group, option, key or flag, or a value of the wrong type."""
    parsed = [override for override in map(parse, overrides) if not override.is_delete()]
    groups = [override for override in parsed if (CONF / override.key_or_group).is_dir()]
    for override in groups:
        _check_extra(override)
        _check_option(override, config_name)
    parsed = [override for override in parsed if not override.is_hydra_override()]
    chosen = [
        f"{o.input_line.partition('=')[0]}={format_value(first_value(o))}"
        for o in groups
        if o in parsed and values_of(o)
    ]
    chosen += [text for text in overrides if text.startswith("hydra.mode=")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(config_name, chosen, return_hydra_config=True)
    multirun = multirun or str(config.hydra.mode or "").endswith("MULTIRUN")
    defaults = OmegaConf.to_container(config, resolve=False)
    for override in parsed:
        if override.is_sweep_override() and not multirun:
            name, _, value = override.input_line.partition("=")
            hint = f'several values need -m; one value with a comma needs quotes: "{name}={quote(value)}"'
            raise ConfigError(f"{override.input_line}: {hint}")
        if override not in groups:
            _check_value(override, defaults)
    given = {override.key_or_group for override in parsed}
    for key, value in _leaves(defaults):
        if value == "???" and key not in given and not key.startswith("hydra."):
            raise ConfigError(f"{key} has no value; give it one: {key}=…")


def check_config_files(folders: Iterable[Path]) -> None:
    """Raise a ConfigError for a YAML file that is not plain UTF-8: Hydra overlooks a ``@package`` line after a BOM."""
    for file in (file for folder in folders for file in sorted(folder.rglob("*.yaml"))):
        content = file.read_bytes()
        wrong = "begins with a byte order mark" if content.startswith(BYTE_ORDER_MARKS) else None
        try:
            content.decode("utf-8")
        except UnicodeDecodeError:
            wrong = wrong or "is not UTF-8"
        if wrong:
            raise ConfigError(f"{file} {wrong}; save it as UTF-8 without a byte order mark (BOM)")


def readable(override: str, multirun: bool) -> str:
    """Put the value of an override in quotes if Hydra's grammar could not read it, or would misread it.

    A shell removes the quotes of ``data_dir="my photos (1)"``, but Hydra needs them. It would also misread an existing
    path with commas or brackets (in a sweep these may be several values), and ``ckpt=2024`` as a number.
    """
    key, equals, value = override.partition("=")
    in_quotes = f"{key}={quote(value)}"
    if not equals or not _parses(in_quotes):
        return override  # the error is not in the value
    folder = key in ("hydra.run.dir", "hydra.sweep.dir")  # takes one value, even in a sweep
    several = multirun and not folder
    exists = os.path.exists(os.path.expanduser(value))
    if not _parses(override):
        if not several or exists or "," not in value:
            return in_quotes
        if set("()[]{}'\"") & set(value):  # a comma may be inside one value
            return override
        return f"{key}={','.join(part if _parses(f'{key}={part}') else quote(part) for part in value.split(','))}"
    found = OverridesParser.create().parse_override(override)
    if found.is_sweep_override() or isinstance(found.value(), list | dict):
        return in_quotes if not several and (exists or folder) else override
    return in_quotes if key in PATHS and isinstance(found.value(), bool | int | float) else override


def rename_checkpoint(config_name: str, overrides: Sequence[str]) -> list[str]:
    """Replace ``ckpt`` or ``ckpt_path`` in the overrides by whichever of the two the script uses.

    Raises: ConfigError: both were typed.
    """
    right, wrong = ("ckpt_path", "ckpt") if config_name == "train" else ("ckpt", "ckpt_path")
    if {right, wrong} <= {override.partition("=")[0] for override in overrides}:
        raise ConfigError("ckpt and ckpt_path are the same; expected one of them")
    return [f"{right}{text.removeprefix(wrong)}" if text.startswith(f"{wrong}=") else text for text in overrides]


def _parses(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def parse(text: str) -> Override:
    """Parse an override. Raises: ConfigError: it has no value, or one that Hydra cannot read."""
    key, equals, _ = text.partition("=")
    if not key or not equals and not text.startswith("~"):
        raise ConfigError(f"{text}: expected key=value; --help lists the choices")
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        if not _parses(f"{key}=x"):
            raise
        raise ConfigError(
            f"{text}: Hydra cannot read this value; quote each part that is text: \"{key}='…'\""
        ) from None


def quote(text: str) -> str:
    """Quote any text as a value for Hydra's command line."""
    text = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    return f"'{text}'"


def values_of(override: Override) -> list[Any]:
    """The value of an override, or every value that it sweeps over; none for an interval or a pattern."""
    found: Iterable[Any] = [override.value()]
    if override.is_sweep_override():
        if not override.is_discrete_sweep() or isinstance(override.value(), Glob):
            return []
        found = override.sweep_iterator(transformer=Transformer.identity)
    return [value.text if isinstance(value, QuotedString) else value for value in found]


def first_value(override: Override) -> Any:
    return next(iter(values_of(override)), None)


def _check_extra(override: Override) -> None:
    extra, module = EXTRAS.get(override.input_line, (None, None))
    package = module and module.partition(".")[0]
    if extra and not (find_spec(package) and find_spec(module)):
        raise ConfigError(f"{override.input_line} needs the extra {extra}: pip install -e '.[{extra}]'")


def _check_option(override: Override, config_name: str) -> None:
    """Raise a ConfigError for an option that a group does not have, or a group that a script does not have."""
    group = override.key_or_group
    options = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    root = {
        k: v
        for item in OmegaConf.load(CONF / f"{config_name}.yaml").defaults
        if item != "_self_"
        for k, v in item.items()
        if not k.startswith("optional ")
    }
    if group not in root and not override.is_add() and not group.startswith("hydra/"):
        raise ConfigError(f"{override.input_line}: {config_name}.py has no group {group}{suggest(group, _names(root))}")
    if group == "study" and override.is_sweep_override():
        raise ConfigError(f"{override.input_line}: each study is a separate sweep; run one at a time")
    for value in _flatten(values_of(override)):
        if value in options or value is None and root.get(group, "") is None:
            continue
        if group.startswith("hydra/") and not get_close_matches(str(value), options):
            continue  # an option of a plugin
        raise ConfigError(f"{group}={format_value(value)}: no such option{suggest(value, options)}")


def _names(root: dict) -> list[str]:
    return [name for name in root if not name.startswith("override ")]


def _flatten(values: Iterable[Any]) -> list[Any]:
    return [item for value in values for item in (value if isinstance(value, list) else [value])]


def _check_value(override: Override, defaults: dict) -> None:
    key = override.key_or_group
    for argument, instead in SET_BY_SCRIPTS.items():
        if f"{key}.".startswith(f"{argument}."):
            raise ConfigError(f"{override.input_line}: the script sets {argument}; use {instead}")
    default = None if override.is_add() or override.is_force_add() else _default(key, defaults)
    for value in values_of(override):
        _check_type(key, value, default)
    check_limits(override)


def check_limits(override: Override) -> None:
    """Raise a ConfigError for a value outside of ``LIMITS`` or ``CHOICES``."""
    key = override.key_or_group
    valid, expected = LIMITS.get(key, (None, None))
    interval = override.is_interval_sweep()
    for value in (override.value().start, override.value().end) if interval else values_of(override):
        if key in CHOICES:
            check_choice(key, value, CHOICES[key])
        if valid and isinstance(value, int | float) and not valid(value):
            raise ConfigError(f"{key}={value}: expected {expected}")


def _default(key: str, defaults: dict) -> Any:
    """The default of a key; None if it may be of any type. Raises: ConfigError: there is no such key."""
    node, path = defaults, []
    for part in key.split("."):
        if not isinstance(node, dict):
            return None  # an index into a list, or below an interpolation
        if part not in node:
            raise ConfigError(f"{key}: no such key{_hint(key, part, path, node, defaults)}")
        node = node[part]
        path.append(part)
    has_target = isinstance(node, dict) and "_target_" in node  # null or an interpolation may replace it
    return None if has_target or key in UNTYPED else node


def _hint(key: str, part: str, path: list[str], node: dict, defaults: dict) -> str:
    """What to write instead of a key that does not exist."""
    if part in HABITS and re.split("[.=]", HABITS[part])[0] in defaults:
        return f"; did you mean {HABITS[part]}?"
    if path and (CONF / Path(*path) / f"{part}.yaml").exists():
        return f"; it comes with {'.'.join(path)}={part}"
    deeper = [name for name, _ in _leaves(defaults) if name.endswith(f".{key}")]
    if deeper:
        return f"; did you mean {' or '.join(deeper[:3])}?"
    adds = f" (+{key}=… would add it)" if "_target_" in node else ""
    return suggest(part, [name for name in node if not name.startswith("_") and name != "hydra"], path) + adds


def _leaves(node: dict, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """The values of a config under their full keys."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _check_type(key: str, value: Any, default: Any) -> None:
    """Raise a ConfigError if a value does not have the default's type. Numbers and booleans are valid text."""
    if isinstance(default, str) and "${" in default or isinstance(value, str) and "${" in value:
        return
    if default == "???":
        if value in (None, ""):
            raise ConfigError(f"{key}={format_value(value)}: expected a value")
        return
    if default is None or isinstance(default, str) and not isinstance(value, list | dict):
        return
    optional = not isinstance(default, int | float | list) or key.startswith("trainer.")
    if value is None and optional and key != "seed":
        return
    if isinstance(value, bool) is isinstance(default, bool):
        whole = isinstance(value, float) and value.is_integer() and key.startswith("trainer.")  # 1e3
        if isinstance(value, type(default)) or isinstance(default, float) and isinstance(value, int) or whole:
            return
    raise ConfigError(f"{key}={format_value(value)}: expected {TYPES[type(default)]}, such as {format_value(default)}")


def check_choice(key: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise a ConfigError if a value is not among the choices."""
    if value not in choices:
        texts = list(dict.fromkeys(map(format_value, choices)))
        near = get_close_matches(str(value), texts, n=1, cutoff=0.55)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{key}={format_value(value)}: expected one of {', '.join(texts)}{hint}")


def check_choices(cfg: DictConfig, choices: Mapping[str, Sequence[Any]]) -> None:
    """Raise a ConfigError if a key's value is not among the key's choices."""
    for key, allowed in choices.items():
        check_choice(key, cfg[key], allowed)


def check_minimum(cfg: DictConfig, minima: Mapping[str, int]) -> None:
    """Raise a ConfigError if a key's value is neither null nor a whole number of at least the minimum."""
    for key, minimum in minima.items():
        if cfg[key] is not None and not (isinstance(cfg[key], int) and cfg[key] >= minimum):
            raise ConfigError(f"{key}={cfg[key]}: expected a whole number, at least {minimum}")


def model_conflict(config: DictConfig) -> str | None:
    """Why no network can be built from a config; None if the torch-free checks in ``models`` find no conflict."""
    model = OmegaConf.to_container(config.model, resolve=True) if config.get("model") else {}
    check = CHECKS.get(model.get("_target_"))
    arguments = signature(check).parameters.values() if check else ()
    names = [a.name for a in arguments if a.name in model or a.default is a.empty]
    if not check or any(model.get(name, "???") == "???" for name in names):
        return None
    try:
        check(**{name: model[name] for name in names})
    except ValueError as error:
        return str(error)
    except TypeError:  # null instead of a number: the constructor reports it
        return None
    return None


def format_value(value: Any) -> str:
    """A value as it is written on the command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def suggest(word: Any, options: Sequence[str], path: Sequence[str] = ()) -> str:
    """A hint with the one or two options most like a word, or with all options; as full keys below ``path``."""
    near = get_close_matches(str(word), options, n=2, cutoff=0.55)
    shown = [".".join([*path, option]) for option in near or options]
    return f"; did you mean {' or '.join(shown)}?" if near else f"; there are: {', '.join(shown)}" if shown else ""
