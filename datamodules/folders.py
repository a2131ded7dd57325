"""What folders of labelled images hold: classes, and files that are whole."""

import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torchvision.datasets.folder import make_dataset

from datamodules.decoding import read_image
from files import LEFT, is_image

log = logging.getLogger(__name__)
LINE_SECONDS = 10.0  # between two lines about files that are looked for
# (path, label)
Sample = tuple[str, int]


def visible(folder: Path) -> list[os.DirEntry]:
    """What is in a folder, by name, without what other programs leave there (``._cat.0.jpg``, ``__MACOSX``)."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(LEFT)), key=lambda entry: entry.name)


def visible_folders(folder: Path) -> tuple[str, ...]:
    return tuple(entry.name for entry in visible(folder) if entry.is_dir())


def class_folders(folder: Path) -> tuple[str, ...]:
    """The names of the classes. Raises: FileNotFoundError, ValueError: there is none, or one that is no text."""
    names = visible_folders(folder)
    if not names:
        named = "names like cat.0.jpg are for datamodule=cats_vs_dogs"
        raise FileNotFoundError(f"{folder} has no class folders; expected {folder}/<class>/<image> ({named})")
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{folder} has a class folder {name!r}, whose name is not UTF-8; rename it") from None
    return names


def find_images(folder: Path, classes: dict[str, int]) -> list[Sample]:
    """The images in the class folders of a folder and all below them."""
    told, start = Told(None, f"files found in {folder}"), len(os.path.join(folder, ""))

    def wanted(path: str) -> bool:
        *folders, name = path[start:].split(os.sep)
        return told() and is_image(name) and not any(part.startswith(LEFT) for part in folders)

    return make_dataset(str(folder), classes, is_valid_file=wanted, allow_empty=True)


def without_empty(samples: Sequence[Sample], folder: Path) -> list[Sample]:
    """Those whose files hold anything; says how many others there are."""
    tell = Told(len(samples), f"images of {folder} looked at")
    held = [(path, label) for path, label in samples if tell() and os.path.getsize(path)]
    if len(held) < len(samples):
        first = os.path.relpath(min(set(samples) - set(held))[0], folder)
        log.warning(f"empty files, left out: {len(samples) - len(held)} in {folder}, the first {first}")
    return held


def without_broken(samples: Sequence[Sample], folder: Path, channels: int) -> list[Sample]:
    """Those whose files can be read, for which each is decoded; of the others, says which they are."""
    tell, complaints = Told(len(samples), f"images of {folder} decoded"), {}

    def complaint(sample: Sample) -> str | None:
        try:
            read_image(sample[0], channels)
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:  # decoding lets go of Python's lock
        for start in range(0, len(samples), 1000):
            part = samples[start : start + 1000]
            for sample, said in zip(part, pool.map(complaint, part), strict=True):
                if tell() and said:
                    complaints[sample] = said
    if complaints:
        lines = [f"{'broken':<12} {len(complaints):,} of {len(samples):,} files in {folder}, left out"]
        lines += [f"  {said}" for said in list(complaints.values())[:10]]
        lines += [f"  and {len(complaints) - 10:,} more"] if len(complaints) > 10 else []
        log.warning("\n".join(lines))
    return [sample for sample in samples if sample not in complaints]


class Told:
    """Counts what takes long in a large folder or over a network, and says so now and then. Calling it is true.

    Args:
        total: of what is counted, if that is known.
        what: it is.
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
