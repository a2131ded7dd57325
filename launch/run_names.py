"""The names of folders, which say what is run."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from results.record import HARMLESS, is_secret
from results.run_folder import short

# Overrides that are not in a folder's name: they say where to, or are in it already.
UNNAMED = {"run_dir", "ckpt_path", "ckpt", "trust", "output", "grid", "num_workers"}
PART = re.compile(r"[\w.,+\[\]-]{1,200}")  # what may be the name of a job's folder


def name_jobs(combinations: Sequence[Sequence[str]], swept: set[str], fixed: set[str]) -> tuple[list[str], str]:
    """The name of each job's folder in a sweep, and the override that has Hydra name them so."""
    names = ["_".join(sorted(o for o in job if key(o) in swept)).replace("=", "-") for job in combinations]
    if swept and all(map(PART.fullmatch, names)):
        return names, f"hydra.job.config.override_dirname.exclude_keys=[{','.join(sorted(fixed))}]"
    # Nothing to tell the jobs apart by, or values that make no name: paths, long lists.
    return [str(i) for i, _ in enumerate(combinations)], "hydra.sweep.subdir=${hydra.job.num}"


def key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


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
        if key not in said | HARMLESS | UNNAMED and "/" not in value and not is_secret(f"{key}={value}"):
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
