"""What a command line is about to run: one job or the jobs of a sweep, and which of them cannot be.

Everything here happens before torch is imported: a combination that no network can have, or a sweep's folder that
holds another sweep, is said in the first second, not after an hour.
"""

import os
import re
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import signature
from pathlib import Path

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mistakes import CONF, Mistake, check_monitor, check_search, is_grid, quoted, refuse_several_processes, values
from models.form import CHECKS
from studies import jobs, report
from studies.record import HARMLESS, is_main_process
from studies.runs import FOLDER, LAST, short

# Overrides that are not in a folder's name: they say where to, or are in it already.
UNNAMED = {"run_dir", "ckpt_path", "ckpt", "trust", "output", "grid", "num_workers"}
PART = re.compile(r"[\w.,+\[\]-]{1,200}")  # what may be the name of a job's folder


@dataclass
class Sweep:
    """A multirun about to start.

    Args:
        folder: of the sweep.
        names: of its jobs' folders, below it; None where the sweeper decides as it goes.
        metric: what its configurations are sorted by.
        in_process: the jobs run in this process, one after another.
        recorded: each job leaves a record, by which the sweep is counted and goes on.
        arguments: to be added to the command line, so that folders are named by what is swept.
    """

    folder: Path
    names: set[str] | None
    metric: str
    in_process: bool
    recorded: bool
    arguments: list[str]

    def count(self) -> Counter[str]:
        """How many of its jobs have which status."""
        try:
            found = report.read([self.folder])
        except (OSError, ValueError):  # no job has left a record
            found = []
        return Counter(job.status for job in found if self.names is None or job.name in self.names)


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
        given.append(f"hydra.searchpath=[{quoted(Path(args.config_dir).absolute().as_uri())}]")
    config = composer.compose_config(config_name, given, RunMode.MULTIRUN, with_log_configuration=False)
    typed = list(config.hydra.overrides.task)
    if "monitor" in config:
        check_monitor(str(config.monitor), str(config.mode))
    if not args.multirun and config.hydra.mode != RunMode.MULTIRUN:
        for override in OverridesParser.create(composer.config_loader).parse_overrides(typed):
            if override.is_sweep_override():
                hint = "several values need -m; a comma that is part of one, quotes"
                raise Mistake(f"{override.input_line}: {hint}: \"{key(override.input_line)}='…'\"")
        reason = None if args.config_dir else against_network(config)
        if reason:
            raise Mistake(reason)
        _refuse_folder(given, "hydra.sweep.dir", "a single run", "hydra.run.dir")
        placed = any(o.startswith("hydra.run.dir=") for o in given)
        if "TORCHELASTIC_RUN_ID" in os.environ and not placed:
            raise Mistake("torchrun starts several processes that need one folder: say hydra.run.dir=runs/…")
        if placed and is_main_process() and not jobs.is_requeued():
            refuse_used(Path(config.hydra.run.dir), config.get("ckpt_path"))
        if early and not args.config_dir:
            early(config)
        return None
    if config.get("impossible", "skip") not in ("skip", "refuse"):
        raise Mistake(f"impossible={config.impossible} is neither skip nor refuse")
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    overrides = OverridesParser.create(composer.config_loader).parse_overrides(params + typed)
    _refuse_folder(given, "hydra.run.dir", "a sweep", "hydra.sweep.dir")
    refuse_several_processes(config, overrides)
    check_search(config, overrides)
    swept = {o.key_or_group for o in overrides if o.is_sweep_override()}
    combinations = BasicSweeper.split_arguments(overrides, None)[0] if is_grid(config) else []
    if is_grid(config) and not combinations:
        raise Mistake(f"{' '.join(o.input_line for o in overrides if o.is_sweep_override())}: no values, so no jobs")
    for name in {"output", "grid"} - swept:
        if config.get(name) is not None and len(combinations) > 1:
            raise Mistake(f"{name}={config[name]}: {len(combinations)} jobs would write it; without, each has a folder")
    if not args.config_dir:
        check_combinations(config_name, combinations, swept, refuse=config.get("impossible") == "refuse")

    folder, names = Path(config.hydra.sweep.dir), [job_name(job, swept) for job in combinations]
    if swept and all(map(PART.fullmatch, names)):
        fixed = sorted({o.key_or_group for o in overrides} - swept)
        naming = f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]"
    else:  # nothing to tell the jobs apart by, or values that make no name: paths, long lists
        names, naming = [str(i) for i, _ in enumerate(combinations)], "hydra.sweep.subdir=${hydra.job.num}"
    known = is_grid(config) and not any(o.startswith("hydra.sweep.subdir=") for o in given)
    if known:
        before = [job for name, job in zip(names, combinations, strict=True) if jobs.earlier(folder / name, job)]
        if before and not args.config_dir:
            warn_of_changes(config_name, folder / names[combinations.index(before[0])], before[0])
    facts = {jobs.BEGAN: time.time(), jobs.SIZE: len(set(names)) if is_grid(config) else "?"}
    launcher = config.hydra.launcher
    return Sweep(
        folder=folder,
        names=set(names) if known else None,
        metric=config.get("monitor") or "val/top1",
        recorded="monitor" in config,
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
            raise Mistake(f"{override}: this is {what}, whose folder is {right}={folder}")


def refuse_used(folder: Path, ckpt_path: str | None) -> None:
    """Raise a Mistake if a folder holds a run that another would write over; one that goes on there may."""
    last, completed = folder / FOLDER / LAST, jobs.is_completed(folder)
    if not completed and not any(folder.glob(f"{FOLDER}/*.ckpt")):
        return  # nothing to lose
    if ckpt_path and Path(ckpt_path).expanduser().absolute().is_relative_to(folder.absolute()):
        return
    hint = f", or resume={folder}, which goes on with it" if last.is_file() and not completed else ""
    raise Mistake(f"hydra.run.dir={folder} holds a run already; expected another folder{hint}")


def warn_of_changes(config_name: str, job_dir: Path, job: Sequence[str]) -> None:
    """Say what the config files make otherwise of a job than when an earlier attempt at it began."""
    saved = job_dir / ".hydra" / "config.yaml"
    if not saved.exists():
        return
    configs = OmegaConf.load(saved), hydra.compose(config_name, list(job))
    was, now = (dict(values(OmegaConf.to_container(config))) for config in configs)
    changed = [
        f"{key} was {was.get(key)}, is {now.get(key)}" for key in now.keys() | was if was.get(key) != now.get(key)
    ]
    if changed:
        print(f"note: conf/ has changed since {job_dir} began: {'; '.join(changed[:3])}", file=sys.stderr)


def job_name(job: Sequence[str], swept: set[str]) -> str:
    """The name of a job's folder, as Hydra makes it from what is swept."""
    return "_".join(sorted(override for override in job if key(override) in swept)).replace("=", "-")


def key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


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
        raise Mistake(next(iter(lines))[1])
    for said, reason in lines:
        print(f"impossible: {said}: {reason}", file=sys.stderr)
    if count and (refuse or count == len(combinations)):
        hint = "" if count == len(combinations) else "; impossible=skip runs the others"
        raise Mistake(f"{count} of {len(combinations)} jobs cannot be{hint}")


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
    whole = next((group for group in ("study", "experiment") if chosen.get(group) not in (None, "null")), None)
    said = {whole} if whole else {"datamodule", "model"}
    parts = [run_of(given["ckpt"])] if "ckpt" in given else []
    parts += [chosen[group] for group in sorted(said) if chosen.get(group) not in (None, "null")]
    for key, value in given.items():
        if key not in said | HARMLESS | UNNAMED and "/" not in value:
            parts.append(f"{key.rpartition('.')[2]}-{value}")
    return re.sub(r"[^A-Za-z0-9._]+", "-", "_".join(parts)).strip("-")[:100]


def run_of(ckpt: str) -> str:
    """The name of the run that a checkpoint is of: its folders' names below ``runs`` without dates, or the last one."""
    *folders, last = Path(ckpt.strip("'\"")).parts or ("",)
    parts = [*folders, last] if Path(last).suffix != ".ckpt" else folders
    parts = [part for part in parts if part != "checkpoints" and not re.match(r"\d{4}-\d\d-\d\d_", part)]
    below = parts[len(parts) - parts[::-1].index("runs") :] if "runs" in parts else parts[-1:]
    return "_".join(below) or Path(last).stem


# When this module is imported, so that it is there in the processes of a launcher too.
OmegaConf.register_new_resolver("run_name", run_name, use_cache=True, replace=True)
OmegaConf.register_new_resolver("short", short, replace=True)
