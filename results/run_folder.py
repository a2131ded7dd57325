"""Resolve a path to a checkpoint."""

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from results import record as records

FOLDER, BEST, LAST = "checkpoints", "best.ckpt", "last.ckpt"
SWEEP_FILES = ("sweep.json", "multirun.yaml")  # written by this project, by Hydra


def find_checkpoints(ckpt: str | Path | Sequence[str]) -> list[tuple[Path, str | None]]:
    """``find_checkpoint`` for a path or each path in a list; a sweep's folder stands for all completed jobs in it."""
    found = []
    for path in [ckpt] if isinstance(ckpt, str | Path) else ckpt:
        folder = Path(str(path)).expanduser()
        if not is_sweep(folder):
            found.append(find_checkpoint(str(path)))
            continue
        jobs, count = sorted(completed_runs(folder)), len(list(folder.glob(f"*/{records.FILE}")))
        if not jobs:
            raise FileNotFoundError(f"ckpt={path} is the folder of a sweep without a completed job")
        found += map(find_checkpoint, jobs)
        found[-1] = found[-1][0], f"{'ensemble':<12} {len(jobs)} of {count} jobs in {path} are completed"
    if not found:
        raise ValueError("ckpt=[] is empty; expected a checkpoint, or several: ckpt=[runs/a,runs/b]")
    return found


def is_sweep(folder: Path) -> bool:
    return any((folder / name).is_file() for name in SWEEP_FILES)


def find_checkpoint(path: str | Path) -> tuple[Path, str | None]:
    """(the checkpoint file for ``path``, a message about the choice).

    For the folder of a run, it is the best checkpoint according to the record, otherwise the last one. For a folder of
    runs, it is the checkpoint of the completed run with the newest record.

    Raises:
        ValueError, FileNotFoundError: a URL, no such path, or a folder without checkpoints.
    """
    if not isinstance(path, str | Path):
        raise ValueError(f"ckpt={path}: expected one checkpoint (only evaluate.py and predict.py average several)")
    if "://" in str(path):
        raise ValueError(f"ckpt={path} is a URL; expected a file or folder on this machine")
    path = Path(path).expanduser()
    if path.is_file():
        return path, None
    if not path.is_dir():
        raise FileNotFoundError(f"ckpt={path}: no such file or folder{nearest(path)}")
    folder = path if path.name == FOLDER else path / FOLDER
    best = best_checkpoint(folder.parent) or folder / BEST
    if best.is_file():
        return best, None
    if (folder / LAST).is_file():
        return folder / LAST, f"{path} has no {best.name}; using {LAST}"
    for run in reversed(completed_runs(path)):
        if (best := best_checkpoint(run)) and best.is_file():
            return best, f"{'run':<12} {run}, the newest completed run in {path}"
    raise FileNotFoundError(f"ckpt={path} holds no {FOLDER}/{BEST} or {LAST}, and no completed run")


def best_checkpoint(run: Path) -> Path | None:
    """The best checkpoint of a run according to the record; None if no record names one."""
    try:
        return run / records.read(run)["best_checkpoint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def completed_runs(folder: Path) -> list[Path]:
    """The completed runs up to three folders below, newest last; in ``runs``, this includes the jobs of sweeps."""
    found = []
    for file in (file for depth in ("*", "*/*", "*/*/*") for file in folder.glob(f"{depth}/{records.FILE}")):
        try:
            if records.read(file.parent)["status"] == "completed":
                found.append((file.stat().st_mtime, file.parent))
        except (OSError, ValueError):
            continue
    return [run for _, run in sorted(found)]


def short(path: str | Path) -> str:
    """The path relative to the working directory, if it is inside it."""
    return str(path).removeprefix(os.getcwd() + os.sep)


def nearest(path: Path) -> str:
    """A question that suggests the existing path most like a missing one; empty if none is similar."""
    if path.exists():
        return ""
    there = next(parent for parent in path.absolute().parents if parent.is_dir())
    missing, *rest = path.absolute().relative_to(there).parts
    near = get_close_matches(missing, [entry.name for entry in there.iterdir()], n=1)
    shown = there.joinpath(near[0], *rest) if near else None
    return f"; did you mean {shown if path.is_absolute() else os.path.relpath(shown)}?" if shown else ""
