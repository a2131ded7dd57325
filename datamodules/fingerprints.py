"""Fingerprints of splits, stored in checkpoints, to detect images that have changed or moved between splits."""

import logging
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from datamodules.base import ImageDataModule

log = logging.getLogger(__name__)
# {"images": N, "files": (N,) int64, sorted} of image files, {"images": N, "labels": a hash} of images in memory
Fingerprint = dict[str, Any]


def fingerprint(images: Dataset) -> Fingerprint:
    keys = getattr(images, "keys", None)
    if keys is not None:
        return {"images": len(images), "files": keys.sort().values}
    return {"images": len(images), "labels": blake2b(images.labels.cpu().numpy().tobytes(), digest_size=16).hexdigest()}


def valid(fingerprints: Any) -> dict[str, Fingerprint]:
    """The fingerprints by split in a checkpoint, which is untrusted input; {} if invalid."""
    if not isinstance(fingerprints, Mapping):
        return {}
    return {split: value for split, value in fingerprints.items() if _is_fingerprint(value)}


def _is_fingerprint(value: Any) -> bool:
    if not isinstance(value, Mapping) or type(value.get("images")) is not int:
        return False
    files = value.get("files")
    if isinstance(files, Tensor):
        return files.dtype == torch.int64 and files.shape == (value["images"],)
    return isinstance(value.get("labels"), str)


def check_unchanged(data: "ImageDataModule", before: Mapping[str, Fingerprint], file: Path, run_dir: Path) -> None:
    """Compare the images with those of the checkpoint from which a training is resumed.

    Args:
        before: the checkpoint's fingerprints; {} if it is older than fingerprints.
        file: the checkpoint.
        run_dir: of the resumed run.

    Raises:
        ValueError: the images differ, and the checkpoint is in this run's folder; for another run's, log a warning.
    """
    now = data.fingerprints()
    change = "; ".join(differences(before, now).values())
    if not before and data.splits_by_name:
        change = "it is older than splits by file name, so test images may have been training images"
    if not change:
        return
    message = f"the images are not those that {file} was trained on: {change}"
    if file.absolute().is_relative_to(run_dir.absolute()):
        raise ValueError(f"{message}; restore them, or continue in a new run with ckpt_path={file}")
    if "train" in before and "test" in data.splits_by_name and (seen := overlap(before["train"], now["test"])):
        message += f"; {seen:,} of the test images were training images"
    log.warning(message)


def compare_test_set(
    data: "ImageDataModule", before: Mapping[str, Fingerprint] | None, is_other: bool
) -> tuple[dict[str, str], int | None]:
    """Warn if images have changed since a network's training, or if test images were training images.

    Args:
        data: a data module that is set up; see ``ImageDataModule.as_test_set``.
        before: fingerprints of the network's training; {} if the checkpoint is older than fingerprints; None if the
            data need none.
        is_other: the data are intentionally different from the training's.

    Returns:
        (how each split has changed, number of test images that were training images or None if unknown).
    """
    split, changes, seen, messages = data.test_split, {}, None, []
    by_name = split in data.splits_by_name
    if before is None:
        return changes, seen
    if by_name and not before:
        log.warning(
            "the training images are unknown: the checkpoint is older than splits by file name, so "
            f"{split} images may be training images, and the scores too high"
        )
        return changes, seen
    compare_all = by_name and not is_other and not data.is_one_test_set  # cheap: all splits are in one folder
    now = data.fingerprints() if compare_all else {split: data.fingerprint(split)}
    if not is_other and (changes := differences(before, now)):
        messages.append(f"the images have changed since the training: {', '.join(changes.values())}")
    if by_name and "files" in before.get("train", {}):
        seen = overlap(before["train"], now[split])
        if seen:
            known = f"{seen:,} of the {now[split]['images']:,} {split} images were training images"
            messages.append(f"{known} (by name and size), so the scores may be too high")
    if messages:
        log.warning("; ".join(messages))
    return changes, seen


def differences(before: Mapping[str, Fingerprint], now: Mapping[str, Fingerprint]) -> dict[str, str]:
    """A description of the change of each split that has changed."""
    changes = {split: _difference(split, before[split], now[split]) for split in now if split in before}
    return {split: change for split, change in changes.items() if change}


def _difference(split: str, before: Fingerprint, now: Fingerprint) -> str | None:
    counts = f"{split} {before['images']:,}"
    if now["images"] != before["images"]:
        counts += f" → {now['images']:,}"
    counts += " images"
    if "files" not in before or "files" not in now:
        same = before["images"] == now["images"] and before.get("labels") == now.get("labels")
        return None if same else counts if "→" in counts else f"{counts}, but with other labels"
    new, gone = (len(files) - overlap(before, now) for files in (now["files"], before["files"]))
    return f"{counts} ({new:,} new, {gone:,} gone)" if new or gone else None


def overlap(a: Fingerprint, b: Fingerprint) -> int:
    """The number of files that are in both."""
    if "files" not in a or "files" not in b:
        return 0
    return int(torch.isin(a["files"], b["files"]).sum())
