"""What a command line is about to run: one job or the jobs of a sweep, and which of them cannot be.

Everything here happens before torch is imported: a combination that no network can have, or a sweep's folder that
holds another sweep, is said in the first second, not after an hour.
"""

import os
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import signature
from pathlib import Path

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from launch import job_state, sweep_folder
from launch.mistakes import ConfigError, check_monitor
from launch.run_names import key, name_jobs
from launch.validation import CONF, quoted, values, values_of
from models.resnet_config import CHECKS
from results import report
from results.record import is_main_process
from results.run_folder import FOLDER, LAST


@dataclass
class Sweep:
    """A multirun about to start.

    Args:
        folder: of the sweep.
        names: of its jobs' folders, below it; None where the sweeper decides as it goes.
        metric: what its configurations are sorted by.
        in_process: the jobs run in this process, one after another.
        recorded: each job leaves a record, by which the sweep is counted and goes on.
        command: to be stored in the folder.
        arguments: to be added to the command line, so that folders are named by what is swept.
    """

    folder: Path
    names: set[str] | None
    metric: str
    in_process: bool
    recorded: bool
    command: sweep_folder.Command
    arguments: list[str]

    def count(self) -> Counter[str]:
        """How many of its jobs have which status."""
        try:
            found = report.read([self.folder])
        except (OSError, ValueError):  # no job has left a record
            found = []
        return Counter(job.status for job in found if self.names is None or job.name in self.names)

    def is_completed(self) -> bool:
        return self.names is not None and self.count()["completed"] == len(self.names)


def plan(args: Namespace, config_name: str, early: Callable[[DictConfig], None] | None = None) -> Sweep | None:
    """Look at all that a command line would run.

    Args:
        early: raises for what is wrong with the config of a single run.

    Returns:
        The sweep, or None for a single run.

    Raises:
        Mistake: it cannot be run; in a sweep, all of its jobs cannot, or one with ``impossible=refuse``.
    """
    composer, given = GlobalHydra.instance().hydra, list(args.overrides)
    if args.config_dir:
        given.append(f"hydra.searchpath=[{quoted(f'file://{Path(args.config_dir).absolute()}')}]")
    config = composer.compose_config(config_name, given, RunMode.MULTIRUN, with_log_configuration=False)
    typed = list(config.hydra.overrides.task)
    if "monitor" in config:
        check_monitor(str(config.monitor), str(config.mode))
    if not args.multirun and config.hydra.mode != RunMode.MULTIRUN:
        for override in OverridesParser.create(composer.config_loader).parse_overrides(typed):
            if override.is_sweep_override():
                name, _, value = override.input_line.partition("=")
                hint = f'several values need -m; one value with a comma needs quotes: "{name}={quoted(value)}"'
                raise ConfigError(f"{override.input_line}: {hint}")
        reason = None if args.config_dir else against_network(config)
        if reason:
            raise ConfigError(reason)
        _refuse_folder(given, "hydra.sweep.dir", "a single run", "hydra.run.dir")
        placed = any(o.startswith("hydra.run.dir=") for o in given)
        if "TORCHELASTIC_RUN_ID" in os.environ and not placed:
            raise ConfigError("torchrun starts several processes that need one folder: say hydra.run.dir=runs/…")
        if placed and is_main_process() and not job_state.is_requeued():
            sweep_folder.check_not_in_sweep(Path(config.hydra.run.dir))
            refuse_used(Path(config.hydra.run.dir), config.get("ckpt_path"))
        if early and not args.config_dir:
            early(config)
        return None
    if config.get("impossible", "skip") not in ("skip", "refuse"):
        raise ConfigError(f"impossible={config.impossible} is neither skip nor refuse")
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    overrides = OverridesParser.create(composer.config_loader).parse_overrides(params + typed)
    _refuse_folder(given, "hydra.run.dir", "a sweep", "hydra.sweep.dir")
    refuse_several_processes(config, overrides)
    check_search(config, overrides)
    swept = {o.key_or_group for o in overrides if o.is_sweep_override()}
    combinations = BasicSweeper.split_arguments(overrides, None)[0] if is_grid(config) else []
    if is_grid(config) and not combinations:
        raise ConfigError(
            f"{' '.join(o.input_line for o in overrides if o.is_sweep_override())}: no values, so no jobs"
        )
    for name in {"output", "grid"} - swept:
        if config.get(name) is not None and len(combinations) > 1:
            raise ConfigError(
                f"{name}={config[name]}: {len(combinations)} jobs would write it; without, each has a folder"
            )
    if not args.config_dir:
        check_combinations(config_name, combinations, swept, refuse=config.get("impossible") == "refuse")

    folder = Path(config.hydra.sweep.dir)
    swept |= sweep_folder.check_same_command(folder, config_name, args.overrides, params)
    names, naming = name_jobs(combinations, swept, fixed={o.key_or_group for o in overrides} - swept)
    known = is_grid(config) and not any(o.startswith("hydra.sweep.subdir=") for o in given)
    if known:
        before = [job for name, job in zip(names, combinations, strict=True) if job_state.earlier(folder / name, job)]
        if before and not args.config_dir:
            warn_of_changes(config_name, folder / names[combinations.index(before[0])], before[0])
    facts = {job_state.BEGAN: time.time(), job_state.SIZE: len(set(names)) if is_grid(config) else "?"}
    launcher = config.hydra.launcher
    return Sweep(
        folder=folder,
        names=set(names) if known else None,
        metric=config.get("monitor") or "val/top1",
        recorded="monitor" in config,
        command=sweep_folder.of_config(config),
        in_process=launcher._target_.endswith("BasicLauncher") or launcher.get("n_jobs", 0) in (1, None),
        arguments=[
            naming,
            f"hydra.sweep.dir={quoted(str(folder))}",
            *(f"+hydra.job.env_set.{name}='{value}'" for name, value in facts.items()),
        ],
    )


def _refuse_folder(given: Sequence[str], wrong: str, what: str, right: str) -> None:
    """Raise a Mistake for a folder that would not be used."""
    for override in given:
        if override.startswith(f"{wrong}="):
            folder = override.partition("=")[2]
            raise ConfigError(f"{override}: this is {what}, whose folder is {right}={folder}")


def refuse_used(folder: Path, ckpt_path: str | None) -> None:
    """Raise a Mistake if a folder holds a run that another would write over; one that goes on there may."""
    last, completed = folder / FOLDER / LAST, job_state.is_completed(folder)
    if not completed and not any(folder.glob(f"{FOLDER}/*.ckpt")):
        return  # nothing to lose
    if ckpt_path and Path(ckpt_path).expanduser().absolute().is_relative_to(folder.absolute()):
        return
    hint = f", or resume={folder}, which goes on with it" if last.is_file() and not completed else ""
    raise ConfigError(f"hydra.run.dir={folder} holds a run already; expected another folder{hint}")


def warn_of_changes(config_name: str, job_dir: Path, job: Sequence[str]) -> None:
    """Say what the config files make otherwise of a job than when an earlier attempt at it began."""
    saved = job_dir / ".hydra" / "config.yaml"
    if not saved.exists():
        return
    configs = OmegaConf.load(saved), hydra.compose(config_name, list(job))
    was, now = (dict(values(OmegaConf.to_container(config))) for config in configs)
    changed = [f"{key} was {was.get(key)}, is {now.get(key)}" for key in now | was if was.get(key) != now.get(key)]
    if changed:
        print(f"note: conf/ has changed since {job_dir} began: {'; '.join(changed[:3])}", file=sys.stderr)


def check_combinations(config_name: str, combinations: Sequence[Sequence[str]], swept: set[str], refuse: bool) -> None:
    """Name the combinations that cannot be, a line each, before the first trains.

    Raises:
        Mistake: none of them can be, or one cannot and ``refuse`` is set.
    """
    lines, count = {}, 0
    for job in combinations:
        of_network = (o for o in job if key(o).startswith(("model.", "datamodule.")) or (CONF / key(o)).is_dir())
        if reason := impossible(config_name, tuple(of_network)):
            count += 1
            lines[" ".join(o for o in job if key(o) in swept - {"seed"}), reason] = None
    if count == len(combinations) and len({reason for _, reason in lines}) == 1:
        raise ConfigError(next(iter(lines))[1])
    for said, reason in lines:
        print(f"impossible: {said}: {reason}", file=sys.stderr)
    if count and (refuse or count == len(combinations)):
        hint = "" if count == len(combinations) else "; impossible=skip runs the others"
        raise ConfigError(f"{count} of {len(combinations)} jobs cannot be{hint}")


@cache  # of jobs that differ in something else, one is looked at
def impossible(config_name: str, overrides: tuple[str, ...]) -> str | None:
    return against_network(hydra.compose(config_name, list(overrides)))


def against_network(config: DictConfig) -> str | None:
    """Why no network can be as a config wants it; None if nothing speaks against it."""
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
    except TypeError:  # a null where there must be a number: the network itself will say
        return None
    return None


def is_grid(config: DictConfig) -> bool:
    """Whether a sweep takes every combination; else a search decides as it goes."""
    return config.hydra.sweeper._target_.endswith("BasicSweeper")


def refuse_several_processes(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Each of a job's further processes would run the whole sweep again. Under SLURM they are tasks of the job."""
    if "LOCAL_RANK" in os.environ:
        raise ConfigError("a sweep cannot be started by torchrun: each of its processes would run the whole sweep")
    if "submitit" in config.hydra.launcher._target_ or "trainer" not in config:
        return
    for name in ("devices", "num_nodes"):
        swept = [v for o in overrides if o.key_or_group == f"trainer.{name}" for v in values_of(o)]
        for value in swept or [config.trainer.get(name)]:
            count = value if isinstance(value, int) else len(value) if isinstance(value, list | ListConfig) else 1
            if count > 1:
                what = f"trainer.{name}={value}"
                raise ConfigError(f"{what}: a job of several processes cannot be part of a sweep, but on SLURM")


def check_search(config: DictConfig, overrides: Sequence[Override]) -> None:
    """An interval needs a search, and a search must go where the metric gets better."""
    if is_grid(config):
        for override in overrides:
            if override.is_sweep_override() and not override.is_discrete_sweep():
                raise ConfigError(f"{override.input_line}: an interval needs a search; add hydra/sweeper=search")
        return
    if not any(o.is_sweep_override() for o in overrides) and not config.hydra.sweeper.get("custom_search_space"):
        raise ConfigError("a search needs something to search, say 'optimizer.lr=tag(log, interval(0.001, 0.5))'")
    if "direction" in config.hydra.sweeper:
        direction = getattr(config.hydra.sweeper.direction, "name", config.hydra.sweeper.direction)
        if direction != f"{config.mode}imize":
            raise ConfigError(
                f"hydra.sweeper.direction={direction} with mode={config.mode}; expected {config.mode}imize"
            )
