"""Resolve a path to a checkpoint."""

import os
from difflib import get_close_matches
from pathlib import Path

from results import record as records

FOLDER, BEST, LAST = "checkpoints", "best.ckpt", "last.ckpt"


def find_checkpoint(path: str | Path) -> tuple[Path, str | None]:
    """(the checkpoint file that ``path`` means, a warning about that choice).

    For the folder of a run, it is the best checkpoint according to the record, otherwise the last one.

    Raises:
        ValueError, FileNotFoundError: an address, no such path, or a folder without checkpoints.
    """
    if "://" in str(path):
        raise ValueError(f"ckpt={path} is an address; a checkpoint is opened from this machine's files only")
    path = Path(str(path)).expanduser()
    if path.is_file():
        return path, None
    if not path.is_dir():
        raise FileNotFoundError(f"ckpt={path}: no such file or folder{nearest(path)}")
    folder = path if path.name == FOLDER else path / FOLDER
    try:
        best = folder.parent / records.read(folder.parent)["best_checkpoint"]
    except (OSError, ValueError, KeyError, TypeError):  # there is no record, or none that names a checkpoint
        best = folder / BEST
    if best.is_file():
        return best, None
    if (folder / LAST).is_file():
        return folder / LAST, f"{path} has no {best.name}; taking its {LAST}"
    runs = sorted(path.glob(f"*/{FOLDER}/*.ckpt"), key=lambda file: file.stat().st_mtime)
    hint = f"; its newest run is {runs[-1].parent.parent}" if runs else ""
    raise FileNotFoundError(f"ckpt={path} holds no {FOLDER}/{BEST} or {LAST}{hint}")


def short(path: str | Path) -> str:
    """The path relative to the working directory, if it is inside it."""
    return str(path).removeprefix(os.getcwd() + os.sep)


def nearest(path: Path) -> str:
    """A question that suggests the existing path nearest to a missing one; empty if there is none."""
    if path.exists():
        return ""
    there = next(parent for parent in path.absolute().parents if parent.is_dir())
    missing, *rest = path.absolute().relative_to(there).parts
    near = get_close_matches(missing, [entry.name for entry in there.iterdir()], n=1)
    shown = there.joinpath(near[0], *rest) if near else None
    return f"; did you mean {shown if path.is_absolute() else os.path.relpath(shown)}?" if shown else ""
