"""Any folder of class folders of images."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from torchvision.datasets.folder import make_dataset
from torchvision.transforms import v2

from datamodules.base import Batch, ImageDataModule
from datamodules.decoding import read_image
from datamodules.sampling import Draw, random_key, seeded, stratified_split
from files import is_image

log = logging.getLogger(__name__)
LINE_SECONDS = 10.0  # between two lines about files that are looked for
LEFT = (".", "__")  # how the names of folders begin that other programs leave
# (path, label)
Sample = tuple[str, int]


class ImageFiles(Dataset):
    """Image files, decoded and cropped when a batch asks for them.

    Args:
        samples: (path, label) of each image.
        transforms: (for training, for evaluation): ``(c, h, w)`` uint8 to ``(c, H, W)`` uint8.
        training: which of the two to use.
        channels: c, 1 (grey) or 3 (RGB).
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        transforms: tuple[Callable, Callable],
        training: bool,
        channels: int = 3,
    ):
        self.samples, self.transforms, self.training, self.channels = samples, transforms, training, channels

    @property
    def labels(self) -> Tensor:
        return torch.tensor([label for _, label in self.samples])

    def __len__(self) -> int:
        return len(self.samples)

    def subset(self, indices: Tensor, training: bool) -> "ImageFiles":
        part = copy(self)
        part.samples, part.training = [self.samples[i] for i in indices.tolist()], training
        return part

    def __getitem__(self, draw: Draw) -> Batch:
        transform = self.transforms[0 if self.training else 1]
        # torchvision's transforms draw from the global generator: seed it for each image, then give it back.
        images, labels = [], []
        with seeded(draw.key):
            for position, index in enumerate(draw.indices.tolist()):
                path, label = self.samples[index]
                if self.training:
                    torch.default_generator.manual_seed(random_key(draw.key, position))
                images.append(transform(self._read(path)))
                labels.append(label)
        return default_collate(images), torch.tensor(labels), draw  # straight into shared memory, in a worker

    def _read(self, path: str) -> Tensor:
        try:
            return read_image(path, self.channels)
        except ValueError as error:
            raise ValueError(f"{error} (datamodule.broken=skip leaves such files out)") from error


class ImageFolder(ImageDataModule):
    """``data_dir/<class>/<image>``, or ``data_dir/{train,val,test}/<class>/<image>``.

    The parts may have other names, those in ``parts``, and capitals. Without a ``test`` folder, ``test_fraction`` of
    each class is set aside; without a ``val`` folder, ``val_fraction`` of the rest. Classes are the sorted names of the
    folders. Files count by their suffix, as in ``files.SUFFIXES``; empty ones are left out, and what is hidden
    (``._1.jpg``, ``.ipynb_checkpoints``, ``__MACOSX``). Another way to label files is a subclass with its own
    ``is_split``, ``find_classes`` and ``samples``.

    Args:
        num_classes: None counts the folders.
        mean, std: of each channel, for pixels from 0 to 1; ImageNet's unless given.
        test_fraction: of each class, where there is no ``test`` folder.
        resize_ratio: images are resized to ``image_size * resize_ratio`` before the central crop of evaluation.
        image_transforms: torchvision's v2 transforms by name, applied to each training image by itself, where it is
            decoded, after the random crop; None leaves one out.
        broken: with ``fail`` a file that cannot be read ends the training when a batch asks for it; with ``skip`` all
            are decoded first, and those that cannot be read are named and left out.
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
        resize_ratio: float = 256 / 224,
        num_workers: int | None = None,
        image_transforms: Mapping[str, Callable] | None = None,
        broken: str = "fail",
        **options,
    ):
        self.root = Path(data_dir).expanduser()
        if not self.root.is_dir():
            raise FileNotFoundError(f"datamodule.data_dir={data_dir} is not a folder")
        self.folders = {split: folder for split in self.parts if (folder := self.folder(split))}
        if not self.folders:
            self.folders = {"train": self.root}
        elif "train" not in self.folders:
            first = next(iter(self.folders.values())).name
            raise FileNotFoundError(f"{self.root} has a folder {first}, but none named train")
        self.class_names = self.find_classes()
        self.found: dict[str, list[Sample]] = {}
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
        chosen = [transform for transform in (image_transforms or {}).values() if transform]
        training = v2.Compose([v2.RandomResizedCrop(image_size), *chosen])
        self.transforms = (training, self.prepare.fit)

    def load(self, split: str) -> ImageFiles | None:
        if split in self.folders and ("test" in self.folders or split == "val"):
            return self._files(split)
        if split == "val":
            return None
        files = self._files("train")  # no test folder: set a part of the training folder aside
        rest, test = stratified_split(files.labels, self.test_fraction, self.seed)
        return files.subset(rest, True) if split == "train" else files.subset(test, False)

    def folder(self, split: str) -> Path | None:
        """The folder of a split, if there is one. Raises: ValueError: there are several."""
        names = [name for name in visible_folders(self.root) if name.lower() in self.parts[split]]
        found = [self.root / name for name in names if self.is_split(self.root / name)]
        if len(found) > 1:
            said = " and ".join(folder.name for folder in found)
            raise ValueError(f"{self.root} has the folders {said}; expected one of them")
        return found[0] if found else None

    def is_split(self, folder: Path) -> bool:
        """Whether a folder that is called like a part of the data is one, not a class of that name."""
        parts = {name for names in self.parts.values() for name in names}
        return bool(visible_folders(folder)) or {name.lower() for name in visible_folders(self.root)} <= parts

    def find_classes(self) -> tuple[str, ...]:
        """The class names in the order of their labels.

        Raises: FileNotFoundError, ValueError: the folders are not those of such data.
        """
        names = class_folders(self.folders["train"])
        for folder in self.folders.values():
            extra = sorted(set(class_folders(folder)) - set(names))
            if extra:
                raise ValueError(f"{folder} has the class {extra[0]}, which the train folder lacks")
        return names

    def samples(self, folder: Path) -> list[Sample]:
        """The images of a part, in an order that is a function of their names."""
        classes = {name: label for label, name in enumerate(self.class_names)}
        return find_images(folder, classes)

    def _files(self, split: str) -> ImageFiles:
        if split not in self.found:  # looked at once, and what is wrong with it said once
            self.found[split] = self._whole(split)
        return ImageFiles(self.found[split], self.transforms, split == "train", self.in_channels)

    def _whole(self, split: str) -> list[Sample]:
        """The samples without empty and broken files; of a training set, every class must have some."""
        folder = self.folders[split]
        found = self.samples(folder)
        tell = Told(len(found), f"images of {folder} looked at")
        samples = [(path, label) for path, label in found if tell() and os.path.getsize(path)]
        if len(samples) < len(found):
            first = os.path.relpath(min(set(found) - set(samples))[0], folder)
            log.warning(f"empty files, left out: {len(found) - len(samples)} in {folder}, the first {first}")
        if self.broken == "skip":
            samples = without_broken(samples, folder)
        missing = set(range(len(self.class_names))) - {label for _, label in samples}
        if missing:
            told = f"{folder} has no images of the class {self.class_names[min(missing)]}"
            if split == "train":
                raise FileNotFoundError(told)
            log.warning(f"{told}{f', nor of {len(missing) - 1} more' if len(missing) > 1 else ''}")
        return samples


def find_images(folder: Path, classes: dict[str, int]) -> list[Sample]:
    """The images in the class folders of a folder and all below them."""
    told, start = Told(None, f"files found in {folder}"), len(os.path.join(folder, ""))

    def wanted(path: str) -> bool:
        *folders, name = path[start:].split(os.sep)
        return told() and is_image(name) and not any(part.startswith(LEFT) for part in folders)

    return make_dataset(str(folder), classes, is_valid_file=wanted, allow_empty=True)


def without_broken(samples: Sequence[Sample], folder: Path) -> list[Sample]:
    """Those whose files can be read, for which each is decoded; of the others, says which they are."""
    tell, complaints = Told(len(samples), f"images of {folder} decoded"), {}

    def complaint(sample: Sample) -> str | None:
        try:
            read_image(sample[0])
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


def visible_folders(folder: Path) -> tuple[str, ...]:
    return tuple(entry.name for entry in visible(folder) if entry.is_dir())


def visible(folder: Path) -> list[os.DirEntry]:
    """What is in a folder, by name, without what other programs leave there (``._cat.0.jpg``, ``__MACOSX``)."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(LEFT)), key=lambda entry: entry.name)


def class_folders(folder: Path) -> tuple[str, ...]:
    """The names of the classes. Raises: FileNotFoundError, ValueError: there is none, or one that is no text."""
    names = visible_folders(folder)
    if not names:
        raise FileNotFoundError(f"{folder} has no class folders; expected {folder}/<class>/<image>")
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{folder} has a class folder {name!r}, whose name is not UTF-8; rename it") from None
    return names
