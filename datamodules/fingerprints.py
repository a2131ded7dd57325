"""Which images each split of a data set has, in a form that a checkpoint can hold and compare."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

# {"images": N, "files": (N,) int64, sorted} for image files, {"images": N, "labels": a hash} for images in memory.
Fingerprint = dict[str, Any]


def fingerprint(images: Dataset) -> Fingerprint:
    """What tells the images of a split from others: of files their ``keys``, of images in memory their labels."""
    keys = getattr(images, "keys", None)
    if keys is not None:
        return {"images": len(images), "files": keys.sort().values}
    return {"images": len(images), "labels": blake2b(images.labels.cpu().numpy().tobytes(), digest_size=16).hexdigest()}


def valid(fingerprints: Any) -> dict[str, Fingerprint]:
    """The fingerprints by split that a checkpoint holds, which may come from anyone; {} for anything else."""
    if not isinstance(fingerprints, Mapping):
        return {}
    return {split: found for split, found in fingerprints.items() if _is_fingerprint(found)}


def _is_fingerprint(found: Any) -> bool:
    if not isinstance(found, Mapping) or type(found.get("images")) is not int:
        return False
    files = found.get("files")
    if isinstance(files, Tensor):
        return files.dtype == torch.int64 and files.shape == (found["images"],)
    return isinstance(found.get("labels"), str)


def difference(split: str, before: Fingerprint, now: Fingerprint) -> str | None:
    """How a split has changed, in words; None where it has not."""
    counts = f"{split} {before['images']:,}"
    if now["images"] != before["images"]:
        counts += f" → {now['images']:,}"
    counts += " images"
    if "files" not in before or "files" not in now:
        same = before["images"] == now["images"] and before.get("labels") == now.get("labels")
        return None if same else counts if "→" in counts else f"{counts}, but with other labels"
    new, gone = (len(files) - overlap(before, now) for files in (now["files"], before["files"]))
    return f"{counts} ({new:,} new, {gone:,} gone)" if new or gone else None


def differences(before: Mapping[str, Fingerprint], now: Mapping[str, Fingerprint]) -> dict[str, str]:
    """How each split that both have has changed, in words."""
    changes = {split: difference(split, before[split], now[split]) for split in now if split in before}
    return {split: change for split, change in changes.items() if change}


def overlap(a: Fingerprint, b: Fingerprint) -> int:
    """The number of files that are in both."""
    if "files" not in a or "files" not in b:
        return 0
    return int(torch.isin(a["files"], b["files"]).sum())
