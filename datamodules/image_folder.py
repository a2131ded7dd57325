"""Any folder of class folders of images."""

import logging
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from torchvision.transforms import v2

from datamodules.base import ImageDataModule
from datamodules.decoding import read_image
from datamodules.folders import Sample, class_folders, find_images, visible_folders, without_broken, without_empty
from datamodules.sampling import Draw, random_key, seeded, stratified_split
from datamodules.tensor_images import Batch
from studies.runs import nearest

log = logging.getLogger(__name__)


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
        test_fraction: of each class, where there is no ``test`` folder; 1: all, to evaluate by and not to train.
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
        if self.test_fraction == 1 and split == "test":
            return files.subset(torch.arange(len(files)), False)
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
        samples = without_empty(self.samples(folder), folder)
        if self.broken == "skip":
            samples = without_broken(samples, folder, self.in_channels)
        missing = set(range(len(self.class_names))) - {label for _, label in samples}
        if missing:
            told = f"{folder} has no images of the class {self.class_names[min(missing)]}"
            if split == "train":
                raise FileNotFoundError(told)
            log.warning(f"{told}{f', nor of {len(missing) - 1} more' if len(missing) > 1 else ''}")
        return samples
