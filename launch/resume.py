"""Resume a run or a sweep in the same folder: ``python train.py resume=runs/digits_lenet/DATE``."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.utils import configure_log
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from launch import jobs, sweep_folder
from launch.validation import check_limits, parse, quote
from results import record as records
from results.errors import ConfigError
from results.run_folder import FOLDER, LAST, nearest

# Overrides allowed next to resume=: they change where and how long a run works, not the result.
ALLOWED = records.RESULT_NEUTRAL_KEYS | {"callbacks.last.minutes", "callbacks.last.every_n_train_steps"}
# Keys that the config of every run contains.
PARTS = "seed monitor mode datamodule model lit_module optimizer scheduler trainer callbacks logger".split()
HELP = {"-h", "--help", "--hydra-help", "-sc", "--shell-completion"}
SHOW = {"-c", "--cfg", "-i", "--info"}


def requested(overrides: Sequence[str], flags: Sequence[str]) -> tuple[Path, list[Override]] | None:
    """The folder of ``resume=`` and all overrides; None without ``resume=``, or if help was requested.

    Raises: ConfigError, OSError: no such folder, or not a folder.
    """
    if not any(map(_is_resume, overrides)) or HELP & set(flags):
        return None
    parsed = [parse(text) for text in overrides]
    value = next(o.value() for o in parsed if o.key_or_group == "resume")
    if value is None:
        return None
    if value == "":
        raise ConfigError("resume= has no value; expected the folder of a run or sweep")
    if "://" in str(value):
        raise ConfigError(f"resume={value} is a URL; expected a folder on this machine")
    folder = Path(str(value)).expanduser()
    if folder.is_file():
        raise NotADirectoryError(f"resume={folder} is a file; expected the run's folder")
    if not folder.is_dir():
        raise FileNotFoundError(f"resume={folder}: no such folder{nearest(folder)}")
    if SHOW & set(flags):
        raise ConfigError(f"resume={folder} composes no config: it uses the one stored in {folder}")
    return folder, parsed


def _is_resume(override: str) -> bool:
    return override.lstrip("+").startswith("resume=")


def sweep_arguments(folder: Path, overrides: Sequence[Override]) -> list[str]:
    """The arguments of the command that resumes a sweep.

    The folder in which the sweep was started becomes the working directory: relative paths start there.

    Raises: ConfigError: the sweep's command is unreadable, or an override would change the sweep.
    """
    command = sweep_folder.stored_command(folder)
    if command is None:
        raise ConfigError(f"{folder / sweep_folder.FILE} is damaged; to resume the sweep, repeat the original command")
    if command.script != "train":
        raise ConfigError(f"resume={folder} is not a training sweep; the command was: {command.line(folder)}")
    allowed = records.RESULT_NEUTRAL_KEYS | command.swept()
    added = []
    for override in overrides:
        if override.key_or_group == "resume":
            continue
        if override.key_or_group not in allowed and not override.is_hydra_override():
            raise ConfigError(
                f"{override.input_line} would change the sweep; only these may be combined with resume=: "
                f"{', '.join(sorted(allowed))}"
            )
        if override.key_or_group == "data_dir" and not override.is_sweep_override():
            added.append(f"data_dir={os.path.abspath(os.path.expanduser(str(override.value())))}")
        else:
            added.append(override.input_line)
    if os.path.isdir(command.cwd) and not os.path.samefile(command.cwd, os.getcwd()):
        folder = Path(os.path.abspath(folder))
        os.chdir(command.cwd)
    return command.arguments(folder, added)


def run(folder: Path, overrides: Sequence[Override], job: Callable[[DictConfig], float | None]) -> None:
    """Resume the run in a folder.

    Raises: ConfigError, OSError: the run cannot be resumed with these overrides.
    """
    for override in overrides:
        if override.is_hydra_override() and "LOCAL_RANK" in os.environ:
            continue  # Lightning adds some for the other processes of DDP
        if override.key_or_group not in ALLOWED | {"resume"}:
            raise ConfigError(
                f"{override.input_line} would change the run; only these may be combined with resume=: "
                f"{', '.join(sorted(ALLOWED))} (for a new run from these weights: ckpt_path=… or model.weights=…)"
            )
        check_limits(override)
    if not all((folder / ".hydra" / f"{name}.yaml").is_file() for name in ("config", "hydra")):
        files = [path for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{records.FILE}")]
        runs = sorted(files, key=lambda path: path.stat().st_mtime)
        hint = f"; the newest run in it is {runs[-1].parent}" if runs else ""
        raise FileNotFoundError(
            f"resume={folder} is not the folder of a run or sweep: it has no .hydra/config.yaml{hint}"
        )
    if jobs.is_completed(folder):
        print(f"{folder} is completed; there is nothing to resume")
        return
    if not (folder / FOLDER / LAST).is_file():
        raise FileNotFoundError(f"resume={folder} has no {FOLDER}/{LAST} to resume from; start the run again")
    folder = folder.absolute()
    sys.argv[0] = os.path.abspath(sys.argv[0])  # DDP starts other processes in the run's working directory
    sys.argv[1:] = [f"resume={quote(str(folder))}" if _is_resume(text) else text for text in sys.argv[1:]]
    job(_load_config(folder, overrides))


def _load_config(folder: Path, overrides: Sequence[Override]) -> DictConfig:
    """The run's stored config with the overrides in ``ALLOWED``; sets Hydra up as when the run started.

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
    given = {override.key_or_group: override.value() for override in overrides}
    if "hydra.job.name" in given:  # each other process of DDP has a separate log
        hydra.hydra.job.name = given["hydra.job.name"]
    cfg.run_dir, cfg.ckpt_path = str(folder), str(folder / FOLDER / LAST)
    for key in ALLOWED & given.keys():
        OmegaConf.update(cfg, key, given[key])
    if given.get("data_dir") is not None:  # relative to the current directory, not to that of the run
        cfg.data_dir = os.path.abspath(os.path.expanduser(str(cfg.data_dir)))
    typed = OmegaConf.structured(HydraConf, flags={"struct": False})  # the YAML file has no types
    typed.merge_with(hydra.hydra)
    HydraConfig.instance().set_config(OmegaConf.create({"hydra": typed}))
    configure_log(hydra.hydra.job_logging, hydra.hydra.verbose)
    if os.path.isdir(hydra.hydra.runtime.cwd):  # the run's relative paths start there
        os.chdir(hydra.hydra.runtime.cwd)
    return cfg
