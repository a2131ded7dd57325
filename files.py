"""Image files in and results out: which files are meant, in which order, and where something can be written."""

import os
import re
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import NoReturn

from studies.runs import nearest

# What a folder is searched for, for training as for prediction; a glob or a single file may have any other.
SUFFIXES = (".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .avif").split()
LEFT = (".", "__MACOSX")  # how the names of folders begin that other programs leave


def find_images(images: str) -> tuple[Path, list[str]]:
    """(the folder that names start from, the names of the image files) that a path or a pattern means.

    A folder is searched with all below it, without hidden files and folders. The order is natural: 2 before 10.

    Raises:
        FileNotFoundError: there is no such thing, or no image in it.
    """
    path = Path(images).expanduser()
    if path.is_dir():
        names = list(_below(path))
        if not names:
            raise FileNotFoundError(f"images={images} has no image files ({' '.join(SUFFIXES)})")
        return path, sorted(names, key=natural)
    if path.exists():
        return path.parent, [path.name]
    if not has_magic(str(path)):
        raise FileNotFoundError(f"images={images}: no such file or folder{nearest(path)}")
    names = [name for name in glob(str(path), recursive=True) if os.path.isfile(name)]
    if not names:
        raise FileNotFoundError(f"images={images}: no file has such a name")
    return Path(), sorted(set(names), key=natural)


def _below(folder: Path) -> Iterator[str]:
    """The names of the images in a folder and all below it, as paths from it; links to folders are not followed."""

    def refuse(error: OSError) -> NoReturn:
        raise error

    start = os.path.join(folder, "")
    for parent, folders, files in os.walk(start, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(LEFT)]
        for name in files:
            if is_image(name):
                yield os.path.join(parent, name).removeprefix(start)


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image; hidden files, as macOS leaves beside images, are none."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def natural(name: str) -> tuple:
    """A key to sort paths by: folder by folder, numbers by their value, capitals like small letters."""
    stem, dot, suffix = name.rpartition(".")
    text = f"{stem}\0{suffix}" if dot else name  # \0 comes before all else: the shorter name first
    pieces: list = re.split("([0-9]+)", text.replace(os.sep, "\0").casefold())  # text and digits in turn
    pieces[1::2] = map(int, pieces[1::2])
    return pieces, name


def identify(names: Sequence[str]) -> dict[str, str]:
    """The id of each file, its name without folder and suffix → its name, by id in natural order.

    Raises:
        ValueError: two files have the same id.
    """
    found: dict[str, str] = {}
    for name in names:
        stem = os.path.splitext(os.path.basename(name))[0]
        if (other := found.setdefault(stem, name)) != name:
            raise ValueError(f"{other} and {name} would have the same id, {stem}; say format=full")
    return dict(sorted(found.items(), key=lambda item: natural(item[0])))


def check_writable(key: str, path: Path, suffixes: Sequence[str]) -> None:
    """Raise a ValueError or an OSError if no file can be written to ``path``, of one of these kinds."""
    path = path.expanduser()
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{key}={path}: expected a name that ends in {' or '.join(suffixes)}")
    if path.is_dir():
        raise IsADirectoryError(f"{key}={path} is a folder; expected a file, say {path / f'predictions{suffixes[0]}'}")
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise PermissionError(f"{key}={path}: nothing can be written to {there}")
