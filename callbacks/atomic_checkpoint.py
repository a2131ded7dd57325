"""Write checkpoints atomically, and only if they hold plain values."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write to a temporary file in the same folder and rename it: after a kill, the file is the old or the new one.

    Lightning stages files in the system's temporary folder: if that is on another file system, a kill or a full disk
    leaves a truncated file.

    Before the rename, the file is read back with ``weights_only=True``. If the state of an optimizer, schedule or
    callback does not allow that, the run fails with the first checkpoint, before step 1.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint. If that fails, the previous file is kept.

        Raises:
            OSError: the folder is not writable, or the disk is full.
            ValueError: the checkpoint holds something other than plain values and tensors.
        """
        if "://" in str(path):  # not a local file
            super().save_checkpoint(checkpoint, path, storage_options)
            return
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
            # After a failed write, torch closes the incomplete file, which raises "unexpected pos 64 vs 0": the
            # original OSError is the context of that RuntimeError.
            reason = next((e for e in (error, error.__context__) if isinstance(e, OSError)), None)
            if reason is None:
                raise
            raise OSError(f"{path} could not be written: {reason.strerror or reason}") from reason
        except (pickle.PickleError, AttributeError, TypeError) as error:
            place = unreadable_entry(checkpoint)
            if place is None:
                raise
            raise ValueError(
                f"{path.name} cannot be loaded with weights_only=True: {place}; expected only numbers, text, lists, "
                "dicts and tensors"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)


def unreadable_entry(value: Any, place: str = "") -> str | None:
    """Path and type of the first entry of a checkpoint that ``torch.load`` rejects with ``weights_only=True``."""
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
