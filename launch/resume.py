"""Going on with a run in its own folder, by its own config: ``python train.py resume=runs/digits_lenet/DATE``."""

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from launch import job_state, sweep_folder
from launch.mistakes import ConfigError, check_limits
from launch.validation import parsed, values_of
from results import record as records
from results.run_folder import FOLDER, LAST, nearest

# What may be said beside it: it changes where and how long a run works, not what comes of it.
ALLOWED = records.HARMLESS | {"callbacks.last.minutes", "callbacks.last.every_n_train_steps"}

# What the config of a run has.
PARTS = "seed monitor mode datamodule model lit_module optimizer scheduler trainer callbacks logger".split()


def asked(args: Namespace) -> Path | None:
    """The folder that a command line wants to go on with; None where it has no ``resume=``.

    Raises:
        Mistake, OSError: it cannot be gone on with, or not in this way.
    """
    if not any(map(is_resume, args.overrides)) or args.help or args.hydra_help or args.shell_completion:
        return None
    typed = parsed(args.overrides)
    value = next(o.value() for o in typed if o.key_or_group == "resume")
    if value is None:
        return None
    if value == "":
        raise ConfigError("resume= has no value; give it the folder of a run")
    if "://" in str(value):
        raise ConfigError(f"resume={value} is an address; expected a run's folder on this machine")
    folder = Path(str(value)).expanduser()
    if args.multirun:
        raise ConfigError(f"resume={folder} is not a sweep's folder: it has no {sweep_folder.FILE}; leave out -m")
    for override in typed:
        if override.is_hydra_override() and "LOCAL_RANK" in os.environ:
            continue  # Lightning adds some for the further processes of DDP
        if override.key_or_group not in ALLOWED | {"resume"}:
            raise ConfigError(
                f"{override.input_line} would change the run; beside resume= there may be "
                f"{', '.join(sorted(ALLOWED))} (a new run from its weights: ckpt_path=…, or model.weights=…)"
            )
        for given in values_of(override):
            check_limits(override.key_or_group, given)
    if folder.is_file():
        raise NotADirectoryError(f"resume={folder} is a file; expected the folder of its run")
    if not folder.is_dir():
        raise FileNotFoundError(f"resume={folder}: no such folder{nearest(folder)}")
    if not all((folder / ".hydra" / f"{name}.yaml").is_file() for name in ("config", "hydra")):
        found = [path for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{records.FILE}")]
        runs = sorted(found, key=lambda path: path.stat().st_mtime)
        hint = f"; its newest run is {runs[-1].parent}" if runs else ""
        raise FileNotFoundError(
            f"resume={folder} is not the folder of a run or sweep: it has no .hydra/config.yaml{hint}"
        )
    if not (folder / FOLDER / LAST).is_file() and not job_state.is_completed(folder):
        raise FileNotFoundError(f"resume={folder} holds no {FOLDER}/{LAST} to go on from; start the run anew")
    if args.cfg or args.info:
        raise ConfigError(f"resume={folder} composes nothing: the run's config is {folder}/.hydra/config.yaml")
    return folder.absolute()


def sweep_arguments(args: Namespace) -> list[str] | None:
    """The arguments of the command that resumes a sweep, for ``resume=SWEEP``; None for any other command line.

    The folder in which the sweep was started becomes the working directory, for its relative paths.

    Raises: ConfigError: the sweep's command is unreadable, or it would not be the same sweep.
    """
    if not any(map(is_resume, args.overrides)) or args.help or args.hydra_help or args.shell_completion:
        return None
    typed = parsed(args.overrides)
    folder = Path(str(next(o.value() for o in typed if o.key_or_group == "resume"))).expanduser()
    if not sweep_folder.is_sweep(folder):
        return None
    command = sweep_folder.stored_command(folder)
    if command is None:
        raise ConfigError(f"{folder / sweep_folder.FILE} is damaged; resume the sweep by its own command")
    if command.script != "train":
        raise ConfigError(f"resume={folder} is not a training; its command was: {command.line(folder)}")
    if args.cfg or args.info:
        raise ConfigError(f"resume={folder} composes nothing: the sweep's config is {folder / sweep_folder.FILE}")
    allowed = records.HARMLESS | command.swept() | {"resume"}
    beside = []
    for override in typed:
        if override.key_or_group not in allowed and not override.is_hydra_override():
            raise ConfigError(
                f"{override.input_line} would change the sweep; beside resume= there may be "
                f"{', '.join(sorted(allowed - {'resume'}))}"
            )
        if override.key_or_group == "data_dir" and not override.is_sweep_override():
            beside.append(f"data_dir={os.path.abspath(os.path.expanduser(str(override.value())))}")
        elif override.key_or_group != "resume":
            beside.append(override.input_line)
    if os.path.isdir(command.cwd) and not os.path.samefile(command.cwd, os.getcwd()):
        folder = Path(os.path.abspath(folder))
        os.chdir(command.cwd)
    return command.arguments(folder, beside)


def is_resume(override: str) -> bool:
    return override.lstrip("+").startswith("resume=")


def config(folder: Path, overrides: Sequence[str]) -> DictConfig:
    """The run's own config, with Hydra set up as when the run began and what may be said beside it.

    Raises: ValueError: the files in ``.hydra`` are damaged.
    """
    try:
        cfg, hydra = (OmegaConf.load(folder / ".hydra" / f"{name}.yaml") for name in ("config", "hydra"))
    except YAMLError as error:
        raise ValueError(f"{folder}/.hydra is damaged: {records.one_line(error)}") from error
    for name, part, keys in (("config", cfg, PARTS), ("hydra", hydra, ("hydra",))):
        if missing := [key for key in keys if key not in part]:
            raise ValueError(f"{folder}/.hydra is damaged: {name}.yaml has no {', '.join(missing)}")
    hydra.hydra.mode, hydra.hydra.runtime.output_dir = RunMode.RUN, str(folder)
    given = {override.key_or_group: override.value() for override in parsed(overrides)}
    if "hydra.job.name" in given:  # that of a further process: it has a log of its own
        hydra.hydra.job.name = given["hydra.job.name"]
    cfg.run_dir, cfg.ckpt_path = str(folder), str(folder / FOLDER / LAST)
    for key in ALLOWED & given.keys():
        OmegaConf.update(cfg, key, given[key])
    if given.get("data_dir") is not None:  # as seen from here
        cfg.data_dir = os.path.abspath(os.path.expanduser(str(cfg.data_dir)))
    HydraConfig.instance().cfg = hydra  # as Hydra does where a run begins
    configure_log(hydra.hydra.job_logging, hydra.hydra.verbose)
    if os.path.isdir(hydra.hydra.runtime.cwd):  # where its relative paths begin
        os.chdir(hydra.hydra.runtime.cwd)
    return cfg
