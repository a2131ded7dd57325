"""Errors that the user can fix: one line on stderr, exit code 2."""

import functools
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from results.record import is_main_process, one_line, out_of_memory

TRACEBACKS = "SHOW_TRACEBACKS"  # environment variable: the user's HYDRA_FULL_ERROR, before launch.main sets it


class ConfigError(ValueError):
    """Invalid user input."""


def report_error(error: Exception) -> int:
    """Print a user error on one line and return exit code 2; re-raise any other error."""
    if tracebacks() or not is_user_error(error):
        raise error
    if is_main_process():
        print(f"error: {one_line(error)}", file=sys.stderr)
    return 2


def tracebacks() -> bool:
    """Whether the user asked for the traceback of every error."""
    return os.environ.get(TRACEBACKS, os.environ.get("HYDRA_FULL_ERROR")) == "1"


def is_user_error(error: BaseException) -> bool:
    """Whether the user can fix this: a ConfigError, or another error that is never a bug in this project."""
    known = (ValueError, OSError, HydraException, OmegaConfBaseException, YAMLError)
    misconfigured = type(error).__name__ == "MisconfigurationException"  # Lightning may not be imported
    return isinstance(error, known) or misconfigured or out_of_memory(error) is not None


@contextmanager
def building(part: str, config: DictConfig | None = None) -> Iterator[None]:
    """Turn any error in the block into a ConfigError that names ``part``.

    Args:
        part: the key of the config that is being built, such as ``optimizer``.
        config: the value of that key; the message then lists all arguments that ``_target_`` does not accept.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        message = None
        if isinstance(error, TypeError) or isinstance(error.__cause__, TypeError):
            message = _unknown_arguments(part, OmegaConf.to_container(config) if config else None)
        raise ConfigError(message or f"{part}: {one_line(error)}") from error


def build(part: str, config: DictConfig | None, expected: type = object, **arguments: Any) -> Any:
    """Instantiate a part of the config; None if it is empty.

    A partial reports errors and checks the result in the same way when it is called later.

    Args:
        part: the key in the config, for messages.
        expected: the required class of the result.
        arguments: set by the script; the config must not contain them.

    Raises: ConfigError: for any error.
    """
    from hydra.utils import instantiate

    def check(built: Any) -> Any:
        if not isinstance(built, expected):
            kind = f"{expected.__module__.partition('.')[0]} {expected.__name__}"
            target = config.get("_target_", "a config without _target_")
            raise ConfigError(f"{part}: {target} returned a {type(built).__name__}; expected a {kind}")
        return built

    if not config:
        return None
    for key in arguments:
        if config.get(key) is not None:
            raise ConfigError(f"{part}.{key} is set by the script; remove it")
    with building(part, config):
        # Plain lists and dicts, because a checkpoint cannot hold OmegaConf containers.
        built = instantiate(config, _convert_="all", **arguments)
    if not isinstance(built, functools.partial):
        return check(built)

    @functools.wraps(built)
    def later(*args, **kwargs):
        with building(part, config):
            return check(built(*args, **kwargs))

    return later


def build_all(part: str, config: DictConfig | None, expected: type) -> list[Any]:
    """Instantiate each entry of a group of objects, such as ``callbacks``; null entries are skipped."""
    return [build(f"{part}.{name}", entry, expected) for name, entry in (config or {}).items() if entry is not None]


def _unknown_arguments(part: str, config: Any) -> str | None:
    """A message about the first ``_target_``, at any depth, that does not accept some argument; or None."""
    from hydra.utils import get_object

    if not isinstance(config, Mapping):
        return None
    if "_target_" in config:
        try:
            parameters = inspect.signature(get_object(config["_target_"])).parameters
        except Exception:  # no such target, or no signature
            return None
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        unknown = [key for key in config if key not in parameters and not key.startswith("_")]
        if unknown and not takes_any:
            remove = " ".join(f"'~{part}.{key}'" for key in unknown)
            return f"{part}: {config['_target_']} has no argument {', '.join(unknown)}; leave out or remove: {remove}"
    return next(filter(None, (_unknown_arguments(f"{part}.{key}", value) for key, value in config.items())), None)
