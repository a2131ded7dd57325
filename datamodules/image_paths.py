"""Find image files, sort names, and check output paths; imports no torch."""

import os
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from glob import escape, glob, has_magic
from pathlib import Path

from results.run_folder import nearest

# Suffixes of the image files in a folder, in training and prediction. A pattern or a single file may have any suffix.
SUFFIXES = (".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .avif").split()
HIDDEN = (".", "__MACOSX")  # prefixes of files left by other programs (._cat.0.jpg, .ipynb_checkpoints)


def find_images(images: str, unreadable: list[str] | None = None) -> tuple[Path, list[str]]:
    """(folder, names of the image files relative to it) for a path or a pattern.

    A folder is searched recursively, except hidden folders. The order is natural: 2 before 10.

    Args:
        images: a folder, a file or a pattern.
        unreadable: receives messages about unreadable folders, as in ``walk_images``; None raises errors.

    Raises:
        OSError: no such file, no image in the folder, or neither a file nor a folder.
    """
    path = Path(images).expanduser()
    if path.is_dir():
        messages: list[str] = []
        start = os.path.join(path, "")
        names = [file.removeprefix(start) for file in walk_images(start, messages)]
        if messages and (unreadable is None or not names):
            raise OSError(messages[0])
        if not names:
            raise FileNotFoundError(f"images={images} has no image files ({' '.join(SUFFIXES)})")
        if unreadable is not None:
            unreadable += messages
        return path, sorted(names, key=natural)
    if path.exists():
        if not path.is_file():
            raise OSError(f"images={images} is neither a file nor a folder; expected one of them, or a pattern")
        return path.parent, [path.name]
    if not has_magic(str(path)):
        raise FileNotFoundError(f"images={images}: no such file or folder{nearest(path)}")
    base = next(parent for parent in path.parents if parent.is_dir())  # the name may contain brackets
    pattern = os.path.join(escape(str(base)), path.relative_to(base))
    names = [os.path.normpath(name) for name in glob(pattern, recursive=True) if not os.path.isdir(name)]
    if not names:
        raise FileNotFoundError(f"images={images}: no file matches")
    return Path(), sorted(set(names), key=natural)


def walk_images(folder: str, unreadable: list[str]) -> Iterator[str]:
    """Yield the path of every image file in a folder and all subfolders, except hidden ones.

    Links to folders are followed last, and each folder is read once. Files are not opened.

    Args:
        folder: to search.
        unreadable: receives a message about each folder that cannot be read or is named like an image file, each link
            to a folder that contains it, and each broken link without a suffix.
    """
    top = os.path.join(os.path.realpath(folder), "")
    folders, links, seen = [folder], [], set()
    while folders or links:
        is_link = not folders
        current = (folders or links).pop()
        if is_link and top.startswith(os.path.join(os.path.realpath(current), "")):
            unreadable.append(f"{current} is a link to a folder that contains it")
            continue
        try:
            status = os.stat(current)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = visible(current)
        except OSError as error:
            unreadable.append(f"{current} cannot be read: {error.strerror}")
            continue
        for entry in reversed(entries):
            if is_folder(entry) and is_image(entry.name):
                unreadable.append(f"{entry.path} is a folder with the name of an image file")
            elif is_folder(entry):
                (links if entry.is_symlink() else folders).append(entry.path)
            elif is_image(entry.name):
                yield entry.path
            elif is_broken_link(entry):
                unreadable.append(broken_link(entry))


def visible(folder: str | Path) -> list[os.DirEntry]:
    """The entries of a folder, by name, except hidden ones."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(HIDDEN)), key=lambda entry: entry.name)


def visible_folders(folder: Path) -> tuple[str, ...]:
    return tuple(entry.name for entry in visible(folder) if is_folder(entry))


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder or a link to one; False for errors such as a link to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_broken_link(entry: os.DirEntry) -> bool:
    """Whether an entry is a broken link that may have been one to a folder: it has no suffix."""
    return entry.is_symlink() and not os.path.splitext(entry.name)[1] and not os.path.exists(entry.path)


def broken_link(entry: os.DirEntry) -> str:
    return f"{entry.path} is a broken link"


def is_image(name: str) -> bool:
    """Whether a file name is that of an image; hidden files, as macOS leaves next to images, do not count."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def natural(name: str) -> tuple:
    """A key to sort paths by: folder by folder, numbers by value, ignoring case."""
    stem, dot, suffix = name.rpartition(".")
    text = f"{stem}\0{suffix}" if dot else name  # \0 sorts first: the shorter name comes first
    return _pieces(text.replace(os.sep, "\0").casefold()), name


def class_order(name: str) -> tuple:
    """A key to sort class names by: numbers by value, also within a name (2 before 10), the rest as text."""
    if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", name):  # also -30 before 5, and 0.25 before 0.5
        return 0, [Decimal(name)], name
    return 1, _pieces(name), name


def _pieces(text: str) -> list:
    """Alternating text and numbers."""
    pieces: list = re.split("([0-9]+)", text)
    pieces[1::2] = map(int, pieces[1::2])
    return pieces


def identify(names: Sequence[str]) -> dict[str, str]:
    """Id (the name without folder and suffix) → name of each file, in natural order of the ids.

    Raises:
        ValueError: two files have the same id.
    """
    found: dict[str, str] = {}
    for name in names:
        stem = os.path.splitext(os.path.basename(name))[0]
        if (other := found.setdefault(stem, name)) != name:
            raise ValueError(f"{other} and {name} would have the same id, {stem}; use format=full")
    return dict(sorted(found.items(), key=lambda item: natural(item[0])))


def check_writable(key: str, path: Path, suffixes: Sequence[str]) -> None:
    """Raise a ValueError or an OSError if no file with one of these suffixes can be written to ``path``."""
    path = path.expanduser()
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{key}={path}: expected a name that ends in {' or '.join(suffixes)}")
    if path.is_dir():
        raise IsADirectoryError(
            f"{key}={path} is a folder; expected a file such as {path / f'predictions{suffixes[0]}'}"
        )
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise PermissionError(f"{key}={path}: no file can be created in {parent}")
