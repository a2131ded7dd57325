"""Photographs of cats and dogs, in the forms in which contests hand them out."""

import logging
import os
import re
from pathlib import Path

from datamodules.folders import Sample, broken_links, find_images, visible, visible_folders
from datamodules.image_folder import ImageFolder
from datamodules.image_paths import is_folder, is_image

log = logging.getLogger(__name__)
FOLDER = re.compile(r"(cat|dog)s?", re.IGNORECASE)
# cat.12.jpg, dog_12.JPG, cat (12).jpg, dog.12 copy.png: a number, and no other word. What category.jpg,
# catfish.1.jpg or cat_and_dog.jpg shows is not known.
FILE = re.compile(r"(cat|dog)s?[\W_]*\d[\W\d_]*(copy[\W\d_]*)?\.[a-z]+", re.IGNORECASE)
# Where a contest's question may be: images without labels. The first Dogs vs. Cats has it in test1.
ASIDE = (*(name for names in ImageFolder.parts.values() for name in names), "test1")


class CatsVsDogs(ImageFolder):
    """Cats are 0 and dogs are 1, whatever their folders are called and in whatever order they come.

    ``data_dir``, or each of its ``train``, ``val`` and ``test`` folders, has class folders (``cat``, ``Cats``, ``dog``,
    …; all in them is of that class) or files whose names say it (``cat.0.jpg``, ``cat_0.jpg``, ``dog-0.jpg``), or both.
    A ``val`` or ``test`` folder without either, a contest's images without labels, is left aside.

    Args:
        options: as in ``ImageFolder``.
    """

    class_names = ("cat", "dog")

    def is_split(self, folder: Path) -> bool:
        return folder.name.lower() in self.parts["train"] or is_labelled(folder)

    def aside(self) -> list[str]:
        return []  # said by find_classes

    def find_classes(self) -> tuple[str, ...]:
        folder = self.folders["train"]
        if not is_labelled(folder):
            raise FileNotFoundError(
                f"{folder} has no cats and dogs; expected {folder}/cat/1.jpg, cat.1.jpg or cat_1.jpg, and dogs likewise"
            )
        for path in (self.root / name for name in visible_folders(self.root) if name.lower() in ASIDE):
            if path != folder and not is_labelled(path):
                log.info(f"{'left aside':<12} {path}, which says of no image whether it is a cat or a dog")
        return self.class_names

    def samples(self, folder: Path, unreadable: list[str]) -> list[Sample]:
        unreadable += broken_links(folder)
        classes, files, others = {}, [], []
        for entry in visible(folder):
            name = class_of(entry)
            if name and is_folder(entry):
                classes[entry.name] = self.class_names.index(name)
            elif name:
                files.append((entry.path, self.class_names.index(name)))
            elif is_image(entry.name) or is_folder(entry) and entry.name.lower() not in ASIDE:
                others.append(entry.name)
        if others:
            log.warning(f"neither cat nor dog, left out: {len(others)} in {folder}, the first {others[0]}")
        if classes:
            files = find_images(folder, classes, unreadable) + files
        return files


def class_of(entry: os.DirEntry) -> str | None:
    """``cat`` or ``dog``; None for what is neither a class folder nor an image that says what it shows."""
    form = FOLDER if is_folder(entry) else FILE if is_image(entry.name) else None
    match = form and form.fullmatch(entry.name)
    return match[1].lower() if match else None


def is_labelled(folder: Path) -> bool:
    return any(class_of(entry) for entry in visible(folder))
