"""Any folder of class folders of images."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from torchvision.transforms import v2

from datamodules.base import ImageDataModule, described
from datamodules.decoding import TransformError, read_and_transform, reason
from datamodules.folders import (
    FileTable,
    Sample,
    broken_links,
    class_folders,
    file_keys,
    find_images,
    read_errors,
    shown,
    visible_folders,
)
from datamodules.sampling import BatchKey, random_key, seeded, split_by_name
from datamodules.tensor_dataset import Batch
from results.run_folder import nearest

log = logging.getLogger(__name__)
SKIP = "datamodule.broken=skip leaves such files out"
ORDER_SHOWN = 100  # classes


class ImageFiles(Dataset):
    """Image files, decoded and cropped when a batch asks for them.

    Args:
        samples: (path, label) of each image.
        transforms: (for training, for evaluation): ``(c, h, w)`` uint8 to ``(c, H, W)`` uint8.
        training: which of the two to use.
        channels: c, 1 (grey) or 3 (RGB).
        keys: ``(N,)`` int64 that identify the files, wherever their folder is.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        transforms: tuple[Callable, Callable],
        training: bool,
        channels: int = 3,
        keys: Tensor | None = None,
    ):
        self.samples, self.transforms, self.training, self.channels = samples, transforms, training, channels
        self.keys = keys

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

    def __getitem__(self, draw: BatchKey) -> Batch:
        transform = self.transforms[0 if self.training else 1]
        # torchvision's transforms draw from the global generator: seed it for each image, then give it back.
        images, labels = [], []
        with seeded(draw.key):
            for position, index in enumerate(draw.indices.tolist()):
                path, label = self.samples[index]
                if self.training:
                    torch.default_generator.manual_seed(random_key(draw.key, position))
                try:
                    images.append(read_and_transform(path, self.channels, transform))
                except TransformError:
                    raise
                except ValueError as error:
                    raise ValueError(f"{error} ({SKIP})") from error
                labels.append(label)
        return default_collate(images), torch.tensor(labels), draw  # straight into shared memory, in a worker


class ImageTransforms:
    """A random crop of a training image, then transforms of torchvision by name.

    Raises a TransformError if one of them does not return uint8 of ``(channels, image_size, image_size)``.
    """

    def __init__(self, image_size: int, channels: int, transforms: Mapping[str, Callable]):
        self.crop = v2.RandomResizedCrop(image_size)
        self.transforms = transforms
        self.shape, self.expected = (channels, image_size, image_size), f"uint8 of {(channels, image_size, image_size)}"

    def __call__(self, image: Tensor) -> Tensor:
        """``(channels, h, w)`` uint8 of any size → ``(channels, image_size, image_size)`` uint8."""
        image = self.crop(image)
        for name, transform in self.transforms.items():
            image = self._checked(name, transform, transform(image))
        return image

    def check(self) -> None:
        """Raise a TransformError that names the first transform that fails or returns another type or shape."""
        with seeded(0):
            for _ in range(8 if self.transforms else 0):  # some of them act on a part of the images only
                image = torch.randint(256, self.shape, dtype=torch.uint8)
                for name, transform in self.transforms.items():
                    try:
                        changed = transform(image)
                    except Exception as error:
                        which = f"image_transforms.{name} ({type(transform).__name__})"
                        raise TransformError(f"{which} fails for {self.expected}: {reason(error)}") from error
                    image = self._checked(name, transform, changed)

    def _checked(self, name: str, transform: Callable, image: Tensor) -> Tensor:
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.shape != self.shape:
            which = f"image_transforms.{name} ({type(transform).__name__})"
            raise TransformError(
                f"{which} returns {described(image)}; expected {self.expected}, which is normalised on the device"
            )
        return image.as_subclass(Tensor)


class ImageFolder(ImageDataModule):
    """``data_dir/<class>/<image>``, or ``data_dir/{train,val,test}/<class>/<image>``.

    The parts may have other names, those in ``parts``, and capitals. Without a ``test`` folder, about ``test_fraction``
    of the images are set aside; without a ``val`` folder, about ``val_fraction`` of the rest. A hash of the seed and
    the file's name decides, so that adding or removing a file moves no other, except in a class so small that a split
    would have none of it. A ``val`` or ``test`` folder without class folders (a contest's images without labels) is
    not used.

    Classes are the names of the folders, 2 before 10. Files count by their suffix, as in ``files.SUFFIXES``; left out
    are empty ones, second names of the same file (links), and what is hidden (``._1.jpg``, ``.ipynb_checkpoints``,
    ``__MACOSX``). Another way to label files is a subclass with its own ``is_split``, ``find_classes`` and ``samples``.

    Args:
        num_classes: None counts the folders.
        mean, std: of each channel, for pixels from 0 to 1; ImageNet's unless given.
        test_fraction: where there is no ``test`` folder; 1: all images, to evaluate by and not to train.
        resize_ratio: images are resized to ``image_size * resize_ratio`` before the central crop of evaluation.
        image_transforms: torchvision's v2 transforms by name, applied to each training image by itself, where it is
            decoded, after the random crop; None leaves one out. They must return uint8 of the same shape.
        broken: with ``fail`` a file that cannot be read or transformed is an error, when a batch asks for it at the
            latest; with ``skip`` all are decoded first, and such files are named and left out.
        options: as in ``ImageDataModule``.
    """

    parts: Mapping[str, Sequence[str]] = {  # what the folder of each split may be called
        "train": ("train", "training"),
        "val": ("val", "valid", "validation"),
        "test": ("test", "testing"),
    }

    def __init__(
        self,
        data_dir: str,
        num_classes: int | None = None,
        in_channels: int = 3,
        image_size: int = 224,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        test_fraction: float = 0.1,
        resize_ratio: float | None = 256 / 224,
        num_workers: int | None = None,
        image_transforms: Mapping[str, Callable] | None = None,
        broken: str = "fail",
        **options,
    ):
        self.root = Path(data_dir).expanduser()
        if not self.root.is_dir():
            raise FileNotFoundError(f"datamodule.data_dir={data_dir} is not a folder{nearest(self.root)}")
        self.folders = {split: folder for split in self.parts if (folder := self.folder(split))}
        if not self.folders:
            self.folders = {"train": self.root}
        elif "train" not in self.folders:
            first = next(iter(self.folders.values())).name
            raise FileNotFoundError(f"{self.root} has a folder {first}, but none named train")
        elif aside := self.aside():
            log.warning(f"{'left aside':<12} in {self.root}: {', '.join(aside)}; parts are train, val and test")
        self.class_names = self.find_classes()
        self.found: dict[str, ImageFiles] = {}
        self._identities: dict[str, np.ndarray] = {}  # of the files of each split's folder
        self.mean, self.std = tuple(mean), tuple(std)
        if broken not in ("fail", "skip"):
            raise ValueError(f"broken={broken} is neither fail nor skip")
        self.test_fraction, self.resize_ratio, self.broken = test_fraction, resize_ratio, broken
        super().__init__(
            num_classes or len(self.class_names),
            in_channels,
            image_size,
            num_workers=num_workers,
            data_dir=data_dir,
            **options,
        )
        chosen = {name: transform for name, transform in (image_transforms or {}).items() if transform}
        training = ImageTransforms(image_size, self.in_channels, chosen)
        training.check()
        self.transforms = (training, self.prepare.fit)

    @property
    def splits_by_name(self) -> tuple[str, ...]:
        return tuple(split for split in ("val", "test") if split not in self.folders)

    def order_classes(self, class_names: Sequence[str]) -> None:
        if sorted(class_names) == sorted(self.class_names):
            self.class_names = tuple(class_names)

    def setup(self, stage: str) -> None:
        if stage == "fit" and not self.sets and list(self.class_names) != sorted(self.class_names):
            names, more = self.class_names[:ORDER_SHOWN], len(self.class_names) - ORDER_SHOWN
            log.info(f"{'classes':<12} in this order: {', '.join(names)}{f' and {more:,} more' if more > 0 else ''}")
        super().setup(stage)

    def load(self, split: str) -> ImageFiles | None:
        if split in self.folders and ("test" in self.folders or split == "val"):
            return self._files(split)
        if split == "val":
            return None
        files = self._files("train")  # no test folder: set a part of the training folder aside
        if self.test_fraction == 1 and split == "test":
            return files.subset(torch.arange(len(files)), False)
        rest, test = self.split_off(files, self.test_fraction, "test")
        return files.subset(rest, True) if split == "train" else files.subset(test, False)

    def split_off(self, images: ImageFiles, fraction: float, split: str) -> tuple[Tensor, Tensor]:
        start = len(os.path.join(self.folders["train"], ""))
        names = [path[start:].replace(os.sep, "/") for path, _ in images.samples]
        rest = 2 if split == "test" and "val" not in self.folders else 1  # one for training, and one for validation
        return split_by_name(names, images.labels, fraction, self.seed, split, rest)

    def folder(self, split: str) -> Path | None:
        """The folder of a split, if there is one. Raises: ValueError: there are several."""
        names = [name for name in visible_folders(self.root) if name.lower() in self.parts[split]]
        found = [self.root / name for name in names if self.is_split(self.root / name)]
        if len(found) > 1:
            said = " and ".join(folder.name for folder in found)
            raise ValueError(f"{self.root} has the folders {said}; expected one of them")
        return found[0] if found else None

    def aside(self) -> list[str]:
        """The folders beside the parts that are none, and are not used."""
        return sorted({*visible_folders(self.root)} - {folder.name for folder in self.folders.values()})

    def is_split(self, folder: Path) -> bool:
        """Whether a folder that is called like a part of the data is one, not a class of that name."""
        parts = {"test1", *(name for names in self.parts.values() for name in names)}  # test1: a contest's, unlabelled
        return bool(visible_folders(folder)) or {name.lower() for name in visible_folders(self.root)} <= parts

    def find_classes(self) -> tuple[str, ...]:
        """The class names in the order of their labels.

        Raises: FileNotFoundError, ValueError: the folders are not those of such data.
        """
        names = class_folders(self.folders["train"])
        for split, folder in list(self.folders.items()):
            found = visible_folders(folder)
            if split != "train" and (not found or len(found) == 1 and found[0] not in names):
                log.warning(
                    f"{'left aside':<12} {folder}, which has no folder of a class; expected {folder}/{names[0]}"
                )
                del self.folders[split]
            elif extra := sorted(set(found) - set(names)):
                raise ValueError(f"{folder} has the class {extra[0]}, which the train folder lacks")
        return names

    def samples(self, folder: Path, unreadable: list[str]) -> list[Sample]:
        """The images of a part, in an order that is a function of their names.

        Args:
            folder: of the part.
            unreadable: receives messages about folders that cannot be read.
        """
        unreadable += broken_links(folder)
        return find_images(folder, {name: label for label, name in enumerate(self.class_names)}, unreadable)

    def _files(self, split: str) -> ImageFiles:
        if split not in self.found:  # looked at once, and what is wrong with it is said once
            self.found[split] = self._usable(split)
        return self.found[split]

    def _usable(self, split: str) -> ImageFiles:
        """The images of a split's folder that can be used; of a training set, every class must have some."""
        folder, unreadable = self.folders[split], []
        samples = self.samples(folder, unreadable)
        table = FileTable(samples, folder)
        files = ImageFiles(samples, self.transforms, split == "train", self.in_channels)
        files.keys = torch.from_numpy(file_keys(samples, table.size, folder, self.class_names))
        unreadable += table.unreadable.values()
        if unreadable and self.broken == "fail":
            more = f", and {len(unreadable) - 1:,} more" if len(unreadable) > 1 else ""
            raise OSError(f"{unreadable[0]}{more} ({SKIP})")
        out = self._empty(table, samples, folder) | self._duplicates(table, samples, split) | set(table.unreadable)
        usable = [index for index in range(len(samples)) if index not in out]
        files = files.subset(torch.tensor(usable, dtype=torch.int64), split == "train")
        if self.broken == "skip":
            files = self._readable(files, folder, unreadable, len(samples))
        missing = set(range(len(self.class_names))) - {label for _, label in files.samples}
        if missing:
            told = f"{folder} has no images of the class {self.class_names[min(missing)]}"
            if split == "train":
                raise FileNotFoundError(told)
            log.warning(f"{told}{f', nor of {len(missing) - 1} more' if len(missing) > 1 else ''}")
        return files

    def _empty(self, table: FileTable, samples: Sequence[Sample], folder: Path) -> set[int]:
        empty = np.flatnonzero(table.size == 0).tolist()
        empty = [index for index in empty if index not in table.unreadable]
        if empty:
            first = os.path.relpath(min(samples[index][0] for index in empty), folder)
            log.warning(f"empty files, left out: {len(empty)} in {folder}, the first {first}")
        return set(empty)

    def _duplicates(self, table: FileTable, samples: Sequence[Sample], split: str) -> set[int]:
        """Second names of the same file: else one image could be in two splits, or in two classes.

        Of a file in the folders of several splits, the one in test stays, else the one in val.
        """
        before = ("test", "val", "train")
        earlier = [part for part in before[: before.index(split)] if part in self.folders]
        for part in earlier:
            self._files(part)
        self._identities[split] = table.identity
        known = [np.zeros((0, 2), dtype=np.uint64), *(self._identities[part] for part in earlier)]
        duplicates = table.duplicates(np.concatenate(known))
        if duplicates:
            index, first = next(iter(duplicates.items()))
            same = samples[first][0] if first >= 0 else f"one in {' or '.join(str(self.folders[p]) for p in earlier)}"
            log.warning(
                f"the same file again, left out: {len(duplicates)} in {self.folders[split]}, the first "
                f"{samples[index][0]}, which is {same}"
            )
        return set(duplicates)

    def _readable(self, files: ImageFiles, folder: Path, unreadable: list[str], total: int) -> ImageFiles:
        """Those that can be decoded and transformed, for which each is; names the others."""

        def read(path: str) -> None:
            for transform in self.transforms if files.training else self.transforms[1:]:
                read_and_transform(path, self.in_channels, transform)

        with seeded(0):  # the transforms draw
            errors = read_errors(files.samples, folder, read)
        if messages := [*unreadable, *errors.values()]:
            log.warning(f"{'broken':<12} {len(messages):,} of {total:,} files in {folder}, left out\n{shown(messages)}")
        kept = [index for index in range(len(files)) if index not in errors]
        return files.subset(torch.tensor(kept, dtype=torch.int64), files.training)
