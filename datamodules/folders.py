"""Folders of labelled images: their classes, and the files that can be used."""

import logging
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np

from datamodules.decoding import TransformError
from datamodules.image_paths import LEFT, class_order, is_broken_link, is_folder, walk_images

log = logging.getLogger(__name__)
LINE_SECONDS = 10.0  # between two lines of progress
# (path, label)
Sample = tuple[str, int]


def visible(folder: Path) -> list[os.DirEntry]:
    """What is in a folder, by name, without what other programs leave there (``._cat.0.jpg``, ``__MACOSX``)."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(LEFT)), key=lambda entry: entry.name)


def visible_folders(folder: Path) -> tuple[str, ...]:
    return tuple(entry.name for entry in visible(folder) if is_folder(entry))


def class_folders(folder: Path) -> tuple[str, ...]:
    """The names of the classes, in natural order: 2 before 10.

    Raises: FileNotFoundError, ValueError: there is none, or one that is no text.
    """
    names = visible_folders(folder)
    if not names:
        named = "names like cat.0.jpg are for datamodule=cats_vs_dogs"
        raise FileNotFoundError(f"{folder} has no class folders; expected {folder}/<class>/<image> ({named})")
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{folder} has a class folder {name!r}, whose name is not UTF-8; rename it") from None
    return tuple(sorted(names, key=class_order))


def find_images(folder: Path, classes: dict[str, int], unreadable: list[str]) -> list[Sample]:
    """The images in the class folders of a folder and all below them; in an order that the class labels do not change.

    Args:
        folder: of the class folders.
        classes: their names and labels.
        unreadable: receives messages about folders that cannot be read, as in ``walk_images``.
    """
    count, samples = ProgressLogger(None, f"files found in {folder}"), []
    for name in sorted(classes):
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            paths = [path for path in walk_images(path, unreadable) if count()]
            samples += [(path, classes[name]) for path in sorted(paths, key=os.path.split)]
    return samples


def broken_links(folder: Path) -> list[str]:
    """A message for each link in a folder that may once have led to a class, and now leads nowhere."""
    return [f"{entry.path} is a link that leads nowhere" for entry in visible(folder) if is_broken_link(entry)]


class FileTable:
    """What the file system knows about N image files.

    Attributes:
        size: ``(N,)`` bytes; -1 for a file that cannot be examined.
        identity: ``(N, 2)`` device and inode, which two names of the same file share.
        unreadable: a message for each that is not a readable file, by its index.
    """

    def __init__(self, samples: Sequence[Sample], folder: Path):
        count = ProgressLogger(len(samples), f"images of {folder} looked at")
        self.paths, self.folder = [path for path, _ in samples], folder
        self.size = np.full(len(samples), -1, dtype=np.int64)
        self.identity = np.zeros((len(samples), 2), dtype=np.uint64)
        self.unreadable: dict[int, str] = {}
        for index, (path, _) in enumerate(samples):
            count()
            try:
                status = os.stat(path)
            except OSError as error:
                link = " (a link that leads nowhere)" if os.path.islink(path) else ""
                self.unreadable[index] = f"{path} cannot be read: {error.strerror}{link}"
                continue
            if not stat.S_ISREG(status.st_mode):
                self.unreadable[index] = f"{path} is not a regular file"
            self.size[index], self.identity[index] = status.st_size, (status.st_dev, status.st_ino)

    def duplicates(self, earlier: np.ndarray) -> dict[int, int]:
        """The index of each further name of a file → the index of the name that stays, negative in ``earlier``.

        A name in ``earlier`` stays, else the first that is no link.

        Args:
            earlier: ``(M, 2)`` identities of files in other splits.
        """
        both, shift = np.concatenate([earlier, self.identity]), len(earlier)
        order = np.lexsort((np.arange(len(both)), both[:, 1], both[:, 0]))  # equal ones side by side, in order
        equal = (both[order[1:]] == both[order[:-1]]).all(1) & (both[order[1:], 1] > 0)  # inode 0: it is not known
        found: dict[int, int] = {}
        ends = np.flatnonzero(np.diff(np.concatenate([[False], equal, [False]]).astype(np.int8)))
        for first, last in ends.reshape(-1, 2).tolist():
            names = (order[first : last + 1] - shift).tolist()
            stays = min(names, key=lambda index: (index >= 0 and self._is_link(index), index))
            found |= {index: stays for index in names if index >= 0 and index != stays}
        return dict(sorted(found.items()))

    def _is_link(self, index: int) -> bool:
        name = os.path.relpath(self.paths[index], self.folder)
        return os.path.realpath(self.paths[index]) != os.path.join(os.path.realpath(self.folder), name)


def file_keys(samples: Iterable[Sample], sizes: Iterable[int], folder: Path, class_names: Sequence[str]) -> np.ndarray:
    """``(N,)`` int64 that identify files by class, name in the folder and size, wherever the folder is."""
    start, keys = len(os.path.join(folder, "")), []
    for (path, label), size in zip(samples, sizes, strict=True):
        name = f"{path[start:].replace(os.sep, '/')}\0{class_names[label]}\0{size}"
        keys.append(int.from_bytes(blake2b(os.fsencode(name), digest_size=8).digest(), "big", signed=True))
    return np.array(keys, dtype=np.int64)


def read_errors(samples: Sequence[Sample], folder: Path, read: Callable[[str], object]) -> dict[int, str]:
    """Read every file; a message for each that cannot be read, by its index.

    Args:
        read: raises a ValueError for such a file, a TransformError for what is not the file's fault.
    """
    count, errors = ProgressLogger(len(samples), f"images of {folder} decoded"), {}

    def read_error(sample: Sample) -> str | None:
        try:
            read(sample[0])
        except TransformError:
            raise
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:  # decoding releases Python's lock
        for start in range(0, len(samples), 1000):
            for index, message in enumerate(pool.map(read_error, samples[start : start + 1000]), start):
                if count() and message:
                    errors[index] = message
    return errors


def shown(messages: Sequence[str], most: int = 10) -> str:
    """The first messages, a line each, and how many more there are."""
    lines = [f"  {message}" for message in messages[:most]]
    lines += [f"  and {len(messages) - most:,} more"] if len(messages) > most else []
    return "\n".join(lines)


class ProgressLogger:
    """Log the progress of a long scan every ten seconds. Each call counts one item and returns True.

    Args:
        total: number of items, if it is known.
        what: the items are.
    """

    def __init__(self, total: int | None, what: str):
        self.count, self.next = 0, time.monotonic() + LINE_SECONDS
        self.of, self.what = f" of {total:,}" if total else "", what

    def __call__(self) -> bool:
        self.count += 1
        if self.count % 100 == 0 and time.monotonic() >= self.next:
            log.info(f"{self.count:,}{self.of} {self.what}")
            self.next += LINE_SECONDS
        return True
