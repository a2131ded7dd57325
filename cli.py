"""The command line that all scripts share: mistakes answered in one line, before torch is imported.

Hydra composes the config; this module checks what was typed against ``conf/`` first, names runs, and turns errors
into exit codes: 2 for what the user can mend, 1 for a fault of this project (with its traceback).
``HYDRA_FULL_ERROR=1`` shows the traceback of every error.
"""

import atexit
import functools
import gc
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import hydra
import hydra._internal.utils as hydra_utils
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString, Transformer
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from studies.record import is_main_process, one_line

CONF = Path(__file__).parent / "conf"
SEVERAL_KINDS = ("trainer.devices", "lit_module.compile")  # values that may be of another kind than the default
log = logging.getLogger(__name__)


class Mistake(ValueError):
    """Something that was typed and cannot be meant."""


def run(task: Callable, config_name: str) -> NoReturn:
    """Run ``task(cfg)`` under Hydra with the command line's arguments, then exit."""
    OmegaConf.register_new_resolver("run_name", run_name, use_cache=True, replace=True)
    # Hydra would print errors and exit with 1; here they are to arrive in this function.
    hydra_utils.run_and_report = lambda function: function()
    code = 0
    try:
        check(sys.argv[1:], config_name)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(_job(task))()
    except Exception as error:
        code = report(error)
    sys.exit(code)


def _job(task: Callable) -> Callable:
    """``task``, saying at once why it failed. In a sweep the error goes on, so that Hydra runs the other jobs."""

    @functools.wraps(task)
    def job(cfg):
        try:
            return task(cfg)
        except KeyboardInterrupt:
            sys.exit(130)
        except SystemExit as end:  # how Lightning leaves after a signal
            sys.exit(143 if type(end).__name__ == "SIGTERMException" else 130 if end.code == 1 else end.code)
        except Exception as error:
            _log_to_file(error)
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                sys.exit(report(error))
            log.error(f"job {HydraConfig.get().job.num} failed: {one_line(error)}")
            raise

    return job


@contextmanager
def importing() -> Iterator[None]:
    """Import torch and all that without the garbage collector, which would search it again and again for nothing.

    Nor does it search these modules later, in the jobs of a sweep.
    """
    first = "torch" not in sys.modules and gc.isenabled()
    if first:
        gc.disable()
    try:
        yield
    finally:
        if first:
            gc.freeze()
            gc.enable()
            atexit.register(gc.unfreeze)  # else C++ bindings would report at the end that something is still there


def _log_to_file(error: Exception) -> None:
    """Keep an error's traceback in the run's log; the console gets one line."""
    trace = (type(error), error, error.__traceback__)
    entry = log.makeRecord(log.name, logging.ERROR, __file__, 0, one_line(error), (), trace)
    for handler in logging.root.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(entry)


def refuse_sweep(what: str) -> None:
    """Each of a job's further processes would run the whole sweep again, so a sweep cannot start them.

    Processes that a launcher started (torchrun, SLURM) are no such case.
    """
    sweeping = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if sweeping and "LOCAL_RANK" not in os.environ and "SLURM_PROCID" not in os.environ:
        raise ValueError(f"{what} cannot be part of a sweep; sweep with trainer.devices=1, or run each job on its own")


def report(error: Exception) -> int:
    """Say what went wrong on stderr, and return the exit code."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1" or not is_mistake(error):
        raise error
    if is_main_process():
        print(f"error: {one_line(error)}", file=sys.stderr)
    return 2


def is_mistake(error: BaseException) -> bool:
    """Whether the user can mend this."""
    if type(error).__name__ == "InstantiationException" and error.__cause__ is not None:
        told = re.search("unexpected keyword argument|missing .* required", str(error.__cause__))
        return bool(told) or is_mistake(error.__cause__)
    known = (ValueError, OSError, HydraException, OmegaConfBaseException)
    return isinstance(error, known) or type(error).__name__ == "MisconfigurationException"


def overrides() -> list[str]:
    """What was typed for this run, or nothing outside a script."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def run_name(name: str | None, choices: Mapping[str, str], overrides: Iterable[str]) -> str:
    """A folder name that says what is run: data, model (or the experiment), and every other override.

    As the resolver ``${run_name:…}`` it is cached, so all jobs of a sweep get the name of the sweep.

    Args:
        name: taken as it is, if given.
        choices: the option chosen in each config group.
        overrides: what was typed.
    """
    if name is not None:
        return name
    typed = {o.key_or_group: o for o in OverridesParser.create().parse_overrides(list(overrides))}
    given = {key: override.input_line.partition("=")[2] for key, override in typed.items()}
    chosen = {**choices, **given}  # a sweep over a group is not yet among the choices
    if chosen.get("experiment") not in (None, "null"):
        parts, said = [chosen["experiment"]], {"experiment"}
    else:
        parts, said = [chosen["datamodule"], chosen["model"]], {"datamodule", "model"}
    for key, value in given.items():
        if key not in said | {"name", "run_dir", "data_dir"} and "/" not in value:
            parts.append(f"{key.rpartition('.')[2]}-{value}")
    return re.sub(r"[^A-Za-z0-9._]+", "-", "_".join(parts)).strip("-")[:100]


def check(argv: list[str], config_name: str) -> None:
    """Compare the overrides on a command line with what ``conf/`` has.

    Raises:
        Mistake: an option, a key or a kind of value that does not exist, with the nearest that does.
    """
    args = hydra_utils.get_args_parser().parse_args(argv)
    typed = OverridesParser.create().parse_overrides(args.overrides)
    typed = [o for o in typed if not o.is_hydra_override() and not o.is_delete()]
    if args.help or args.hydra_help or args.config_dir or args.config_path or not typed:
        return
    groups = [o for o in typed if (CONF / o.key_or_group).is_dir()]
    choices = []
    for override in groups:
        options = sorted(path.stem for path in (CONF / override.key_or_group).glob("*.yaml"))
        picked = _values(override)
        for value in picked:
            if value not in options and not isinstance(value, list):
                raise Mistake(f"{override.key_or_group}={value}: no such option{_nearest(value, options)}")
        if picked:
            choices.append(f"{override.input_line.partition('=')[0]}={picked[0]}")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        base = hydra.compose(args.config_name or config_name, choices)
    tree = OmegaConf.to_container(base, resolve=False)
    values = [o for o in typed if o not in groups]
    for override in values:
        if not override.is_add() and not override.is_force_add():
            _check_value(override, tree)
    given = {override.key_or_group for override in values}
    for key in _missing(tree):
        if key not in given:
            raise Mistake(f"{key} has no value; give it one: {key}=…")


def _missing(tree: dict, prefix: str = "") -> Iterable[str]:
    """The keys that the config leaves to the user (``???``)."""
    for key, value in tree.items():
        if value == "???":
            yield prefix + key
        elif isinstance(value, dict):
            yield from _missing(value, f"{prefix}{key}.")


def _check_value(override: Override, tree: dict) -> None:
    key, node, path = override.key_or_group, tree, []
    for part in key.split("."):
        if not isinstance(node, dict):
            return  # an index into a list, or a value that only Hydra can resolve
        if part not in node:
            names = [name for name in node if not name.startswith("_")]
            raise Mistake(f"{key}: no such key{_nearest(part, names, path)} (+{key}=… would add it)")
        node = node[part]
        path.append(part)
    if isinstance(node, dict) and "_target_" in node:
        return  # an object: null or a name may take its place
    expected = _kind(node)
    for value in _values(override):
        if key == "seed" and value is None:
            raise Mistake("seed=null: expected a whole number, so that the run can be repeated")
        found = _kind(value)
        whole = isinstance(node, int) and isinstance(value, float) and not value.is_integer()
        if key.startswith("trainer.limit_"):  # a share or a number
            whole = False
        if expected == "text" and found in ("number", "true or false") or value == "auto" or key in SEVERAL_KINDS:
            continue
        if None not in (expected, found) and (expected != found or whole):
            raise Mistake(f"{key}={value}: expected {'whole number' if whole else expected}, say {_say(node)}")


def _values(override: Override) -> list[Any]:
    """The value of an override, or all that it sweeps over; nothing where they cannot be listed."""
    values: Iterable[Any] = [override.value()]
    if override.is_sweep_override():
        if not override.is_discrete_sweep() or isinstance(override.value(), Glob):
            return []
        values = override.sweep_iterator(transformer=Transformer.identity)
    return [value.text if isinstance(value, QuotedString) else value for value in values]


def _kind(value: Any) -> str | None:
    """What kind of value this is, None for one that could become anything."""
    if value is None or isinstance(value, str) and "${" in value:
        return None
    kinds = {bool: "true or false", int: "number", float: "number", str: "text", list: "list", dict: "group of keys"}
    return kinds.get(type(value))


def _say(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _nearest(word: Any, options: list[str], path: Iterable[str] = ()) -> str:
    """The one or two options most like a word, or all of them; as keys, if they stand under a path."""
    near = get_close_matches(str(word), options, n=2, cutoff=0.55)
    shown = [".".join([*path, option]) for option in near or options]
    return f"; did you mean {' or '.join(shown)}?" if near else f"; there are: {', '.join(shown)}"
