"""The overrides on a command line, compared with what ``conf/`` has before anything is imported or run."""

import ast
import codecs
import os
import re
from argparse import Namespace
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString, Transformer
from hydra.errors import HydraException
from omegaconf import OmegaConf

from launch.mistakes import ConfigError, check_limits, kind, nearest_of, say
from results.run_folder import nearest

CONF = Path(__file__).parent.parent / "conf"
# Values that may be of another kind than the default.
SEVERAL_KINDS = ("trainer.devices", "lit_module.compile", "model.width_per_group")
WORKERS = "datamodule.num_workers"  # null: as many as there are cores
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
# Arguments of the Trainer that the scripts set themselves, and the keys that decide them.
SET_BY_SCRIPTS = {
    "trainer.logger": ("logger", "logger=…"),
    "trainer.callbacks": ("callbacks", "+callbacks.NAME._target_=…"),
    "trainer.enable_checkpointing": ("optimizer", "callbacks.checkpoint=null"),
}
BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Keys whose values are paths, even if they look like numbers.
PATHS = "data_dir datamodule.data_dir ckpt ckpt_path resume images output grid model.weights".split()
# The groups that the other scripts leave to choice; the rest is the checkpoint's.
AFTER_TRAINING = {"evaluate": ("datamodule", "trainer"), "predict": ("trainer",), "export": ()}
# Packages of choices, each an extra of this project by the same name.
PACKAGES = {"logger=wandb": "wandb", "logger=mlflow": "mlflow"}


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
        _check_package(override)
    runs_here = not (args.cfg or args.info or any(o.key_or_group == "hydra/launcher" for o in typed))
    typed = [o for o in typed if not o.is_hydra_override() and not o.is_delete()]
    if not typed and config_name == "train":  # the one root that leaves nothing to the user
        return
    groups = [o for o in typed if (CONF / o.key_or_group).is_dir()]
    valued = [o for o in typed if o not in groups]
    picked = {o.input_line.partition("=")[0]: _options(o, config_name) for o in groups}  # with its +, if it has one
    picked = {group: options for group, options in picked.items() if options}
    tree = _composed(config_name, {group: options[0] for group, options in picked.items()})
    for override in valued:
        _check_override(override, tree)
        if runs_here:
            _check_folder(override, tree)
    for group, options in picked.items():
        below = [o for o in valued if o.key_or_group.startswith(f"{group}.") and not _adds(o)]
        for option in options[1:] if below else ():  # what is there with the first need not be with the others
            other = _composed(config_name, {group: options[0] for group, options in picked.items()} | {group: option})
            for override in below:
                try:
                    _check_value(override, other)
                except ConfigError as mistake:
                    raise ConfigError(f"{group}={option}: {mistake}") from None
    given = {override.key_or_group for override in valued}
    for key, value in values(tree):
        if value == "???" and key not in given:  # left to the user
            raise ConfigError(f"{key} has no value; give it one: {key}=…")


def _composed(config_name: str, choices: Mapping[str, str]) -> dict:
    """A root config with these options of its groups."""
    config = hydra.compose(config_name, [f"{group}={option}" for group, option in choices.items()])
    return OmegaConf.to_container(config, resolve=False)


def _options(override: Override, config_name: str) -> list:
    """What was chosen of a group, or is swept. Raises: Mistake: one does not exist, or is not for this script."""
    group, picked = override.key_or_group, values_of(override)
    if config_name in AFTER_TRAINING and not override.is_add() and group not in AFTER_TRAINING[config_name]:
        known = nearest_of(group, list(AFTER_TRAINING[config_name]))
        raise ConfigError(f"{override.input_line}: {config_name}.py has no choice of {group}{known}")
    if group == "study" and override.is_sweep_override():
        raise ConfigError(f"{override.input_line}: each study is a sweep of its own; run one at a time")
    options = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    for value in (one for several in picked for one in (several if isinstance(several, list) else [several])):
        if value not in options:
            raise ConfigError(f"{group}={say(value)}: no such option{nearest_of(value, options)}")
    return picked


def _check_override(override: Override, tree: dict) -> None:
    for argument, (part, right) in SET_BY_SCRIPTS.items():
        if f"{override.key_or_group}.".startswith(f"{argument}."):
            hint = f"; use {right}" if part in tree else ""
            raise ConfigError(f"{override.input_line}: {argument} is set by the script itself{hint}")
    found = values_of(override)
    if override.is_interval_sweep():
        found = [override.value().start, override.value().end]
        if not found[0] < found[1]:
            raise ConfigError(f"{override.input_line}: expected an interval from a smaller number to a larger one")
    for value in found:
        check_limits(override.key_or_group, value)
    trainer = tree.get("trainer") or {}
    if not _adds(override):
        _check_value(override, tree)
    elif override.key_or_group.startswith("trainer.") and trainer.get("_target_") == "lightning.Trainer":
        _check_trainers(override)


def _adds(override: Override) -> bool:
    return override.is_add() or override.is_force_add()


def check_config_files(folders: Iterable[Path]) -> None:
    """Raise a Mistake for a YAML file that is not plain UTF-8. Hydra overlooks the ``@package`` line after a BOM."""
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
    """An override as Hydra's grammar reads it: a value that it could not read, or would misread, is put in quotes.

    A shell removes the quotes of ``data_dir="my photos (1)"``, and Hydra needs quotes of its own. It would misread an
    existing path with commas or brackets (in a sweep these may be several values), and the number in ``ckpt=2024``.
    """
    key, equals, value = override.partition("=")
    in_quotes = f"{key}={quoted(value)}"
    if not equals or not _parses(in_quotes):
        return override  # it is not the value
    folder = key in ("hydra.run.dir", "hydra.sweep.dir")  # of these there is one
    several = multirun and not folder
    exists = os.path.exists(os.path.expanduser(value))
    if not _parses(override):
        if not several or exists or "," not in value:
            return in_quotes
        if set("()[]{}'\"") & set(value):  # not every comma need be between two values
            return override
        return f"{key}={','.join(part if _parses(f'{key}={part}') else quoted(part) for part in value.split(','))}"
    found = OverridesParser.create().parse_override(override)
    if found.is_sweep_override() or isinstance(found.value(), list | dict):
        return in_quotes if not several and (exists or folder) else override
    return in_quotes if key in PATHS and kind(found.value()) in ("number", "true or false") else override


def _parses(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def parsed(overrides: Iterable[str]) -> list[Override]:
    """The overrides of a command line. Raises: Mistake: one that is not in Hydra's grammar."""
    parser, found = OverridesParser.create(), []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals and not override.startswith("~"):
            raise ConfigError(f"{override}: expected key=value; --help shows what there is")
        try:
            found += parser.parse_overrides([override])
        except HydraException:
            if not _parses(f"{key}=x"):
                raise
            raise ConfigError(
                f"{override}: Hydra cannot read this value; put each part that is text in quotes: \"{key}='…'\""
            ) from None
    return found


def quoted(text: str) -> str:
    """A value as Hydra's command line takes it, whatever is in it."""
    text = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    return f"'{text}'"


def values_of(override: Override) -> list[Any]:
    """The value of an override, or all that it sweeps over; nothing where they cannot be listed."""
    found: Iterable[Any] = [override.value()]
    if override.is_sweep_override():
        if not override.is_discrete_sweep() or isinstance(override.value(), Glob):
            return []
        found = override.sweep_iterator(transformer=Transformer.identity)
    return [value.text if isinstance(value, QuotedString) else value for value in found]


def values(tree: dict, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """The values of a config under their full keys."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from values(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _check_package(override: Override) -> None:
    """Raise a Mistake that says what to install, where Hydra would list its search path."""
    package = PACKAGES.get(override.input_line)
    if package and not find_spec(package):
        raise ConfigError(f"{override.input_line} needs {package}, not installed: pip install -e '.[{package}]'")
    group, extras = override.key_or_group, PLUGINS.get(override.key_or_group)
    if extras is None:
        return
    name = override.value()
    if name not in extras:  # one of another plugin's, or a slip
        if get_close_matches(str(name), extras) and not (CONF / group / f"{name}.yaml").exists():
            raise ConfigError(f"{group}={name}: no such option{nearest_of(name, list(extras))}")
        return
    plugin = f"hydra_plugins.hydra_{extras[name]}_{group.rpartition('/')[2]}"
    if extras[name] and not (find_spec("hydra_plugins") and find_spec(plugin)):
        raise ConfigError(f"{group}={name} needs a plugin that is not installed: pip install -e '.[{extras[name]}]'")


def _check_value(override: Override, tree: dict) -> None:
    key, node, path = override.key_or_group, tree, []
    for part in key.split("."):
        if not isinstance(node, dict):
            return  # an index into a list, or a value that only Hydra can resolve
        if part not in node:
            option = CONF / Path(*path) / f"{part}.yaml"
            if path and option.exists():
                raise ConfigError(f"{key}: no such key; it comes with {'.'.join(path)}={part}")
            if key.startswith("trainer.limit_"):  # Lightning's own
                raise ConfigError(f"{key}: no such key; +{key}=… adds it")
            if not path and part == key and (deeper := [name for name, _ in values(tree) if name.endswith(f".{key}")]):
                raise ConfigError(f"{key}: no such key; did you mean {' or '.join(deeper[:3])}?")
            names = [name for name in node if not name.startswith("_")]
            raise ConfigError(f"{key}: no such key{nearest_of(part, names, path)} (+{key}=… would add it)")
        node = node[part]
        path.append(part)
    if isinstance(node, dict) and "_target_" in node:
        return  # an object: null or a name may take its place
    expected = kind(node)
    for value in values_of(override):
        if key == "seed" and value is None:
            raise ConfigError("seed=null: expected a whole number, so that the run can be repeated")
        if node == "???" and value in (None, ""):
            raise ConfigError(f"{key}={say(value)} is no value; give it one")
        if value is None and expected in ("number", "list") and not key.startswith("trainer.") and key != WORKERS:
            raise ConfigError(f"{key}=null: expected {expected}, say {say(node)}")
        found = kind(value)
        whole = type(node) is int and isinstance(value, float)
        if key.startswith("trainer."):  # Lightning's takes 1e3 for 1000, and a share of the batches for their number
            whole = whole and not key.startswith("trainer.limit_") and not value.is_integer()
        if expected == "text" and found in ("number", "true or false") or key in SEVERAL_KINDS:
            continue
        if None not in (expected, found) and (expected != found or whole):
            example = "" if node == "???" else f", say {say(node)}"
            raise ConfigError(f"{key}={value}: expected {'whole number' if whole else expected}{example}")


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
        raise ConfigError(f"{override.input_line}: Lightning's Trainer has no such argument{hint}")


def _check_folder(override: Override, tree: dict) -> None:
    """Raise a Mistake for a folder of images that is not there. What is downloaded has a default, and need not be."""
    if override.key_or_group == "datamodule.data_dir" and tree.get("datamodule", {}).get("data_dir") == "???":
        for value in values_of(override):
            if kind(value) == "text" and not Path(value).expanduser().is_dir():
                raise ConfigError(f"datamodule.data_dir={value} is not a folder{nearest(Path(value).expanduser())}")
