"""Image files as a data set, and checks of which files are usable."""

import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from datamodules.decoding import read_and_transform
from datamodules.sampling import BatchKey, random_key, seeded
from datamodules.tensor_dataset import Batch
from datamodules.transform_checks import TransformError

log = logging.getLogger(__name__)
LOG_SECONDS = 10.0  # between two lines of progress
Sample = tuple[str, int]  # (path, label)


class ImageFiles(Dataset):
    """Image files, decoded and resized when a batch is fetched.

    Args:
        samples: (path, label) of each file.
        channels: c, 1 (grey) or 3 (RGB).
        transform: ``(c, h, w)`` uint8 → ``(c, H, W)`` uint8.
        train_transform: the transform for training, which may be random.
        training: use ``train_transform``.
        on_error: for a file that cannot be read or transformed: ``raise`` a ValueError that names the file, or ``skip``
            the file and report it in ``Batch.errors``.
        hint: appended to the ValueError.
    """

    keys: Tensor | None = None  # (N,) int64 that identify the files, independent of the folder

    def __init__(
        self,
        samples: Sequence[Sample],
        channels: int,
        transform: Callable[[Tensor], Tensor],
        train_transform: Callable[[Tensor], Tensor] | None = None,
        training: bool = False,
        on_error: str = "raise",
        hint: str = "",
    ):
        self.samples, self.channels, self.training = samples, channels, training
        self.transform, self.train_transform = transform, train_transform
        self.on_error, self.hint = on_error, hint

    @property
    def labels(self) -> Tensor:
        return torch.tensor([label for _, label in self.samples])

    def __len__(self) -> int:
        return len(self.samples)

    def subset(self, indices: Tensor, training: bool) -> "ImageFiles":
        part = copy(self)
        part.samples, part.training = [self.samples[i] for i in indices.tolist()], training
        part.keys = None if self.keys is None else self.keys[indices]
        return part

    def __getitem__(self, key: BatchKey) -> Batch:
        """The images that could be read; ``(0, c, 1, 1)`` if none could."""
        transform = self.train_transform if self.training else self.transform
        images, labels, errors = [], [], []
        with seeded(key.key):  # torchvision's transforms draw from the global generator
            for position, index in enumerate(key.indices.tolist()):
                path, label = self.samples[index]
                if self.training:
                    torch.default_generator.manual_seed(random_key(key.key, position))
                try:
                    images.append(read_and_transform(path, self.channels, transform))
                except TransformError:
                    raise
                except ValueError as error:
                    if self.on_error == "raise":
                        raise ValueError(f"{error}{self.hint}") from error
                    errors.append((index, str(error)))
                else:
                    labels.append(label)
        # default_collate writes straight into shared memory in a worker
        stacked = default_collate(images) if images else torch.empty(0, self.channels, 1, 1, dtype=torch.uint8)
        return Batch(stacked, torch.tensor(labels, dtype=torch.int64), key, errors)

    def read_error(self, index: int) -> str | None:
        """The error of reading and transforming a file (with both transforms in training), or None."""
        try:
            for transform in (self.transform, self.train_transform) if self.training else (self.transform,):
                read_and_transform(self.samples[index][0], self.channels, transform)
        except TransformError:
            raise
        except ValueError as error:
            return str(error)


def drop_unreadable(files: ImageFiles, folder: Path) -> tuple[ImageFiles, list[str]]:
    """(the readable files, a message for each unreadable one); decodes and transforms every file."""
    count, errors, kept = ProgressLogger(len(files), f"images of {folder} decoded"), [], []
    with seeded(0), ThreadPoolExecutor() as pool:  # transforms draw random numbers; decoding releases Python's lock
        for start in range(0, len(files), 1000):
            block = range(start, min(start + 1000, len(files)))
            for index, error in zip(block, pool.map(files.read_error, block), strict=True):
                count()
                if error:
                    errors.append(error)
                else:
                    kept.append(index)
    return files.subset(torch.tensor(kept, dtype=torch.int64), files.training), errors


class FileScan(NamedTuple):
    """The result of examining files without opening them."""

    sizes: dict[str, int]  # path → bytes, of the usable files
    empty: list[str]  # paths
    duplicates: dict[str, str]  # path → another path of the same file
    unreadable: list[str]  # messages


def scan_files(samples: Sequence[Sample], folder: Path, known: dict) -> FileScan:
    """Examine files without opening them.

    If a file has several names (links), one is kept: the one in ``known``, otherwise the first that is not a link.

    Args:
        folder: contains the files.
        known: (device, inode) → path of files in other splits; these files are added.
    """
    count, scan = ProgressLogger(len(samples), f"images of {folder} examined"), FileScan({}, [], {}, [])
    for path, _ in samples:
        count()
        try:
            status = os.stat(path)
        except OSError as error:
            link = " (a broken link)" if os.path.islink(path) else ""
            scan.unreadable.append(f"{path} cannot be read: {error.strerror}{link}")
            continue
        if not stat.S_ISREG(status.st_mode):
            scan.unreadable.append(f"{path} is not a regular file")
        elif status.st_size == 0:
            scan.empty.append(path)
        else:
            identity = (status.st_dev, status.st_ino) if status.st_ino else path  # some file systems have no inodes
            other = known.setdefault(identity, path)
            if other in scan.sizes and is_link(other, folder) and not is_link(path, folder):
                del scan.sizes[other]
                scan.duplicates[other] = known[identity] = path
            elif other != path:
                scan.duplicates[path] = other
                continue
            scan.sizes[path] = status.st_size
    return scan


def is_link(path: str, folder: Path) -> bool:
    """Whether a path inside a folder is a link, or is in a linked folder."""
    return os.path.realpath(path) != os.path.join(os.path.realpath(folder), os.path.relpath(path, folder))


def file_keys(samples: Iterable[Sample], sizes: dict[str, int], folder: Path, class_names: Sequence[str]) -> Tensor:
    """``(N,)`` int64 that identify files by class, path in the folder and size, wherever the folder is."""
    start, keys = len(os.path.join(folder, "")), []
    for path, label in samples:
        name = f"{path[start:].replace(os.sep, '/')}\0{class_names[label]}\0{sizes[path]}"
        keys.append(int.from_bytes(blake2b(os.fsencode(name), digest_size=8).digest(), "big", signed=True))
    return torch.tensor(keys, dtype=torch.int64)


class ProgressLogger:
    """Log the progress of a long scan every ten seconds. Each call counts one item.

    Args:
        total: number of items, or None if unknown.
        action: the items and the action, such as ``images decoded``.
    """

    def __init__(self, total: int | None, action: str):
        self.count, self.next = 0, time.monotonic() + LOG_SECONDS
        self.of_total, self.action = f" of {total:,}" if total else "", action

    def __call__(self) -> None:
        self.count += 1
        if self.count % 100 == 0 and time.monotonic() >= self.next:
            log.info(f"{self.count:,}{self.of_total} {self.action}")
            self.next += LOG_SECONDS
