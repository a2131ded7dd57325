"""Checkpoint files: complete, and readable as plain values, or not written at all."""

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file in the same folder and renames it, so that a kill leaves the old file or the new one.

    Lightning's own stages through the system's temporary folder: where that is another file system, a kill or a full
    disk leaves half a file in the place of the good one.

    Before the rename, the file is opened as it will be later, with ``weights_only=True``. A run whose optimizer,
    schedule or callbacks keep something that cannot be read back therefore fails with its first checkpoint, before
    step 1.

    The paths by which callbacks know their other checkpoints begin with ``~`` in the file, if they are below it. Where
    the file's folder has been moved or copied since, they are paths of the new place.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint. If that fails, the previous file is still there.

        Raises:
            OSError: the folder cannot be written to, or is full.
            ValueError: the checkpoint holds something other than plain values and tensors.
        """
        if "://" in str(path):  # not a file of this machine: Lightning knows how
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        if "callbacks" in checkpoint:
            place = os.path.dirname(os.path.abspath(path))
            checkpoint = checkpoint | {"callbacks": _with_paths(checkpoint["callbacks"], _shortened)}
            checkpoint["folder"] = _shortened(place)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.writing")
        try:
            with open(temporary, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            torch.load(temporary, map_location="cpu", weights_only=True, mmap=True)
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:
            # Where a write fails, torch goes on to close its half of a file, which fails as well: a RuntimeError of
            # that, "unexpected pos 64 vs 0", is what arrives here, with the one that counts as its context.
            reason = next((e for e in (error, error.__context__) if isinstance(e, OSError)), None)
            if reason is None:
                raise
            raise OSError(f"{path} could not be written: {reason.strerror or reason}") from reason
        except (pickle.PickleError, AttributeError, TypeError) as error:
            place = unreadable_entry(checkpoint)
            if place is None:
                raise
            raise ValueError(
                f"{path.name} could not be opened again: {place}; a checkpoint holds only numbers, texts, lists, dicts "
                "and tensors"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def load_checkpoint(self, path: str | Path, *args: Any, **options: Any) -> dict[str, Any]:
        checkpoint = super().load_checkpoint(path, *args, **options)
        if "callbacks" in checkpoint:
            here = os.path.dirname(os.path.abspath(path))
            before = os.path.expanduser(checkpoint.get("folder", here))
            moved = os.path.isabs(before) and before not in (os.sep, here)

            def found_now(text: str) -> str:
                text = os.path.expanduser(text)
                inside = moved and (text == before or text.startswith(before + os.sep))
                return here + text.removeprefix(before) if inside else text

            checkpoint["callbacks"] = _with_paths(checkpoint["callbacks"], found_now)
        return checkpoint


def unreadable_entry(value: Any, place: str = "") -> str | None:
    """Name the first entry of a checkpoint that ``torch.load`` refuses with ``weights_only=True``, and its type."""
    try:
        content = io.BytesIO()
        torch.save(value, content)
        content.seek(0)
        torch.load(content, map_location="cpu", weights_only=True)
        return None
    except Exception:
        entries = (
            [*value.items()] if isinstance(value, dict) else [*enumerate(value)] if type(value) in (list, tuple) else []
        )
        keys = [(f"key {key!r}", key) for key, _ in entries]
        inner = (unreadable_entry(entry, f"{place}/{key}" if place else str(key)) for key, entry in entries + keys)
        name = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        return next(filter(None, inner), None) or f"{place} is a {name}"


def _with_paths(state: Any, change: Callable[[str], str]) -> Any:
    """States of callbacks after ``change`` of each text in them, also where it is a key."""
    if isinstance(state, str):
        return change(state)
    if type(state) is dict:
        return {_with_paths(key, change): _with_paths(value, change) for key, value in state.items()}
    return state


def _shortened(path: str) -> str:
    home = os.path.join(os.path.expanduser("~"), "")
    return f"~/{path.removeprefix(home)}" if path.startswith(home) and len(home) > 1 else path
