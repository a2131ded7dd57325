"""Photographs of cats and dogs, in the folder layouts of contests."""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from datamodules.image_files import Sample
from datamodules.image_folder import ImageFolder, find_samples
from datamodules.image_paths import is_folder, is_image, visible, visible_folders

log = logging.getLogger(__name__)
FOLDER_NAME = re.compile(r"(cat|dog)s?", re.IGNORECASE)
# cat.12.jpg, dog_12.JPG, cat (12).jpg, dog.12 copy.png: a number and no other word. Names like category.jpg,
# catfish.1.jpg and cat_and_dog.jpg are not labels.
FILE_NAME = re.compile(r"(cat|dog)s?[\W_]*\d[\W\d_]*(copy[\W\d_]*)?\.[a-z]+", re.IGNORECASE)
# Folders that may hold the unlabelled images of a contest; the first Dogs vs. Cats has them in test1.
UNLABELLED = (*(name for names in ImageFolder.split_folders.values() for name in names), "test1")


class CatsVsDogs(ImageFolder):
    """Cats have label 0, dogs label 1, whatever the names and order of the folders.

    ``data_dir``, or each ``train``, ``val`` and ``test`` folder in it, has class folders (``cat``, ``Cats``, ``dog``,
    …) or files named after their class (``cat.0.jpg``, ``cat_0.jpg``, ``dog-0.jpg``), or both; a folder's name takes
    precedence. A ``val`` or ``test`` folder without labels (of a contest) is not used.

    Args:
        options: as in ``ImageFolder``.
    """

    class_names = ("cat", "dog")

    def is_split(self, folder: Path) -> bool:
        return folder.name.lower() in self.split_folders["train"] or is_labelled(folder)

    def unused_folders(self, folders: Mapping[str, Path]) -> list[str]:
        return []  # logged by find_classes

    def find_classes(self) -> tuple[str, ...]:
        folder = self.folders["train"]
        if not is_labelled(folder):
            raise FileNotFoundError(
                f"{folder} has no cats and dogs; expected {folder}/cat/1.jpg, cat.1.jpg or cat_1.jpg, and dogs likewise"
            )
        for path in (self.root / name for name in visible_folders(self.root) if name.lower() in UNLABELLED):
            if path != folder and not is_labelled(path):
                log.info(f"{'unused':<12} {path}: no names of cats or dogs")
        return self.class_names

    def samples(self, split: str, unreadable: list[str]) -> list[Sample]:
        folder, classes, files, ignored = self.folders[split], {}, [], []
        for entry in visible(folder):
            name = class_of(entry)
            if name and is_folder(entry):
                classes[entry.name] = self.class_names.index(name)
            elif name:
                files.append((entry.path, self.class_names.index(name)))
            elif is_image(entry.name) or is_folder(entry) and entry.name.lower() not in UNLABELLED:
                ignored.append(entry.name)
        if ignored:
            log.warning(f"neither cat nor dog, left out: {len(ignored)} in {folder}, the first {ignored[0]}")
        return find_samples(folder, classes, unreadable) + files


def class_of(entry: os.DirEntry) -> str | None:
    """``cat`` or ``dog``; None for an entry that is neither a class folder nor an image named after a class."""
    form = FOLDER_NAME if is_folder(entry) else FILE_NAME if is_image(entry.name) else None
    match = form and form.fullmatch(entry.name)
    return match[1].lower() if match else None


def is_labelled(folder: Path) -> bool:
    return any(class_of(entry) for entry in visible(folder))
