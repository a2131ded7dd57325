"""A sweep's folder belongs to one command, which is stored there in ``sweep.json``.

Hydra's own ``multirun.yaml`` is not enough: each start overwrites it, and sweepers other than Hydra's do not write it.
"""

import json
import shlex
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from results import record as records
from results.errors import ConfigError
from results.run_folder import SWEEP_FILES, is_sweep

FILE, HYDRAS = SWEEP_FILES
# Overrides of Hydra that belong to one start of a sweep, not to the command.
OF_ONE_START = ("hydra.mode", "hydra.sweep.dir")


@dataclass
class Command:
    """The command of a sweep.

    Args:
        script: ``train``, ``evaluate`` …
        overrides: as typed, including those of Hydra, without the sweep's folder.
        config_dir: the value of ``--config-dir``.
        cwd: the folder in which the command was typed.
    """

    script: str
    overrides: list[str]
    config_dir: str | None
    cwd: str

    def arguments(self, folder: Path, overrides: Sequence[str] = ()) -> list[str]:
        """The command's arguments for a sweep in ``folder``, with ``overrides`` added or replaced."""
        flags = ["-m", *(("--config-dir", self.config_dir) if self.config_dir else ())]
        return [*flags, *self.with_overrides(overrides), f"hydra.sweep.dir={folder}"]

    def with_overrides(self, overrides: Sequence[str]) -> list[str]:
        """The command's overrides, with ``overrides`` in place of those with the same keys."""
        replaced = {_key(override) for override in overrides}
        return [*(override for override in self.overrides if _key(override) not in replaced), *overrides]

    def swept(self) -> set[str]:
        """The keys that are swept."""
        return _fixed_and_swept(self.overrides)[1]

    def line(self, folder: Path) -> str:
        """The command as it can be pasted into a shell, without secrets."""
        arguments = map(records.redact_override, self.arguments(folder))
        return f"python {self.script}.py {shlex.join(arguments)}"


def stored_command(folder: Path) -> Command | None:
    """The command in ``sweep.json``, or else the last one in Hydra's ``multirun.yaml``; None if both are unreadable."""
    try:
        return Command(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        pass
    try:
        return of_config(OmegaConf.load(folder / HYDRAS))
    except (OSError, ValueError, YAMLError, AttributeError, KeyError, TypeError):
        return None


def of_config(config: DictConfig) -> Command:
    """The command that Hydra composed a config for."""
    hydra = OmegaConf.to_container(config.hydra)
    sources = hydra["runtime"]["config_sources"]
    hydra_overrides = [o for o in hydra["overrides"]["hydra"] if _key(o) not in OF_ONE_START]
    return Command(
        script=hydra["job"]["config_name"],
        overrides=[*hydra["overrides"]["task"], *hydra_overrides],
        config_dir=next((source["path"] for source in sources if source["provider"] == "command-line"), None),
        cwd=hydra["runtime"]["cwd"],
    )


def store_command(folder: Path, command: Command) -> None:
    """Store the command of a sweep; new values of swept keys are added to the stored ones."""
    if before := stored_command(folder):
        searched = [override for override in command.overrides if _key(override).startswith("hydra.sweeper.")]
        before = replace(before, overrides=before.with_overrides(searched))  # such as more trials
        command = replace(before, overrides=_extended(before.overrides, command.overrides))
    records.write_json(folder / FILE, asdict(command))


def _extended(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """The overrides of one grid with the jobs of both; ``now`` if no such grid exists: several keys have new values."""
    values = _values(before), _values(now)
    keys = [key for key in values[0] if set(values[1].get(key, ())) != set(values[0][key])]
    if all(set(values[1].get(key, ())) <= set(values[0][key]) for key in keys):
        return list(before)
    if len(keys) > 1:
        return list(now)
    union = ",".join(dict.fromkeys([*values[0][keys[0]], *values[1][keys[0]]]))
    return [f"{o.partition('=')[0]}={union}" if _key(o) == keys[0] else o for o in before]


def _values(overrides: Sequence[str]) -> dict[str, list[str]]:
    """Key → list of values, as text; a single value or an interval is a list of one."""
    found = {}
    for override in overrides:
        parsed = OverridesParser.create().parse_override(override)
        listed = parsed.is_discrete_sweep() and not isinstance(parsed.value(), Glob)
        if not parsed.is_hydra_override() and _key(override) not in records.RESULT_NEUTRAL_KEYS:
            text = override.partition("=")[2]
            found[_key(override)] = list(parsed.sweep_string_iterator()) if listed else [text]
    return found


def check_same_command(folder: Path, script: str, overrides: Sequence[str], params: Sequence[str] = ()) -> set[str]:
    """The keys that the sweep in a folder has swept so far; none if the folder is new.

    Fixed overrides and swept keys must be the same. Swept values and result-neutral overrides may differ.

    Args:
        script: as in a ``Command``.
        overrides: as typed.
        params: further overrides, from ``hydra.sweeper.params``.

    Raises: ConfigError: the folder belongs to another command, or to a single run.
    """
    if (folder / records.FILE).is_file():
        raise ConfigError(f"hydra.sweep.dir={folder} holds a single run; expected another folder")
    if command := stored_command(folder):
        before, now = _fixed_and_swept(command.overrides), _fixed_and_swept(overrides, command.swept())
        if (command.script, before) != (script, now):
            hint = f"; to resume it: {shlex.quote(f'resume={folder}')}" if command.script == "train" else ""
            raise ConfigError(f"hydra.sweep.dir={folder} belongs to another command: {command.line(folder)}{hint}")
        return command.swept()
    fixed, swept = _fixed_and_swept([*params, *overrides])
    for job in sorted(folder.glob(f"*/{records.FILE}")):  # a sweep without a stored command
        try:
            had, _ = _fixed_and_swept(records.read(job.parent)["overrides"])
        except (OSError, ValueError):
            continue
        job_has = [override for key, override in had.items() if key not in swept and fixed.get(key) != override]
        has = [override for key, override in fixed.items() if had.get(key) != override] + sorted(swept - set(had))
        if job_has or has:
            raise ConfigError(
                f"hydra.sweep.dir={folder} belongs to another sweep: job {job.parent.name} has "
                f"{' '.join(job_has) or 'nothing more'}, this command has {' '.join(has) or 'nothing more'}"
            )
    return set()


def check_not_in_sweep(folder: Path) -> None:
    """Raise a ConfigError if the folder of a single run is a sweep's folder or lies in one."""
    for sweep in (folder, folder.absolute().parent):
        if is_sweep(sweep):
            raise ConfigError(f"hydra.run.dir={folder} lies in the folder of a sweep; expected another folder")


def _fixed_and_swept(overrides: Sequence[str], swept: Set[str] = frozenset()) -> tuple[dict[str, str], set[str]]:
    """The overrides that all jobs share, by key, and the keys that are swept; without result-neutral ones.

    Args:
        swept: keys that count as swept even if they have one value.
    """
    fixed, found = {}, set()
    for override in overrides:
        parsed = OverridesParser.create().parse_override(override)
        key = _key(override)
        if key.startswith("hydra.sweeper.params."):
            found.add(key.removeprefix("hydra.sweeper.params."))
        elif parsed.is_hydra_override() or key in records.RESULT_NEUTRAL_KEYS:
            continue
        elif parsed.is_sweep_override() or key in swept:
            found.add(key)
        else:
            fixed[key] = records.redact_override(override)
    return {key: override for key, override in fixed.items() if key not in found}, found


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")
