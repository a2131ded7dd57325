"""Names of run and job folders, made from the overrides."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from launch.sweep_folder import stored_command
from results.record import RESULT_NEUTRAL_KEYS, is_secret
from results.run_folder import short

# Overrides that are not part of a run's name: they only set where to read or write, or are in it already.
LEFT_OUT = RESULT_NEUTRAL_KEYS | {"run_dir", "ckpt_path", "ckpt", "trust", "output", "grid", "num_workers"}
MAX_LENGTH = 100  # characters of a run's name
VALID = re.compile(r"[\w.,+\[\]-]{1,200}")  # the name of a job's folder


def job_names(jobs: Sequence[Sequence[str]], swept: set[str]) -> list[str]:
    """The name of each job's folder: the swept values, or a number if these do not make valid names."""
    names = [_swept_values(job, swept) for job in jobs]
    return names if all(map(VALID.fullmatch, names)) else [str(number) for number, _ in enumerate(jobs)]


def job_dir(sweep_dir: str, number: int, overrides: Iterable[str]) -> str:
    """The name of a job's folder in a search. (A grid knows all jobs in advance, and uses ``job_names``.)"""
    command = stored_command(Path(sweep_dir))
    name = _swept_values(overrides, command.swept() if command else set())
    return name if VALID.fullmatch(name) else str(number)


def _swept_values(overrides: Iterable[str], swept: set[str]) -> str:
    """The swept overrides of a job, such as ``optimizer.lr-0.1_seed-1``."""
    return "_".join(sorted(text for text in overrides if key_of(text) in swept)).replace("=", "-")


def key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def run_name(name: str | None, choices: Mapping[str, str], overrides: Iterable[str]) -> str:
    """The name of a run or sweep: data and model, or the experiment, and every other override.

    Args:
        name: used unchanged, if given.
        choices: the option chosen in each config group.
        overrides: from the command line.
    """
    if name is not None:
        return name
    parsed = {o.key_or_group: o for o in OverridesParser.create().parse_overrides(list(overrides))}
    given = {key: override.input_line.partition("=")[2] for key, override in parsed.items()}
    chosen = {**choices, **given}  # a sweep over a group is not among the choices
    whole = next((group for group in ("study", "experiment") if chosen.get(group) not in (None, "null")), None)
    named = {whole} if whole else {"datamodule", "model"}
    paths = [given["ckpt"]] if "ckpt" in given else []
    if paths and isinstance(several := parsed["ckpt"].value(), list):
        paths = [getattr(path, "text", str(path)) for path in several]  # ``text`` of a quoted string
    parts = list(dict.fromkeys(map(checkpoint_name, paths)))
    parts += [chosen[group] for group in sorted(named) if chosen.get(group) not in (None, "null")]
    for key, value in given.items():
        if key not in named | LEFT_OUT and "/" not in value and not is_secret(f"{key}={value}"):
            parts.append(f"{key.rpartition('.')[2]}-{value}")
    texts = [re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-") for part in parts]
    while len("_".join(texts)) > MAX_LENGTH and len(texts) > 1:
        texts.pop()  # drops a whole override, rather than a part of one
    return "_".join(texts)[:MAX_LENGTH]


def checkpoint_name(ckpt: str) -> str:
    """The name of a checkpoint's run: the folders below ``runs`` without dates, or the last folder."""
    *folders, last = Path(ckpt.strip("'\"")).parts or ("",)
    parts = [*folders, last] if Path(last).suffix != ".ckpt" else folders
    parts = [part for part in parts if part != "checkpoints" and not re.match(r"\d{4}-\d\d-\d\d_", part)]
    below = parts[len(parts) - parts[::-1].index("runs") :] if "runs" in parts else parts[-1:]
    return "_".join(below) or Path(last).stem


# Registered on import, so that the workers of a launcher have them too. Cached: all jobs of a sweep share one name.
OmegaConf.register_new_resolver("run_name", run_name, use_cache=True, replace=True)
OmegaConf.register_new_resolver("job_dir", job_dir, replace=True)
OmegaConf.register_new_resolver("short", short, replace=True)
