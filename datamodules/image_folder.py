"""Folders of images, one folder per class."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from datamodules.base import ImageDataModule
from datamodules.batch_transforms import RandomResizedCrop, check_scale
from datamodules.decoded_files import DecodedFiles, decode_files, fits, smallest_side
from datamodules.image_files import ImageFiles, ProgressLogger, Sample, drop_unreadable, file_keys, scan_files
from datamodules.image_paths import broken_link, class_order, is_broken_link, visible, visible_folders, walk_images
from datamodules.preprocessing import Preprocessing
from datamodules.sampling import seeded, split_by_name
from datamodules.transform_checks import check_output, describe, try_transforms
from results.run_folder import nearest

log = logging.getLogger(__name__)
HINT = " (datamodule.broken=skip leaves such files out)"
CLASSES_LOGGED, ERRORS_LOGGED = 100, 10


class TrainTransform:
    """Crop a training image, then apply torchvision transforms."""

    def __init__(self, crop: Callable[[Tensor], Tensor], image_size: int, channels: int, transforms: Mapping):
        self.crop = crop
        self.transforms = {f"image_transforms.{name}": transform for name, transform in transforms.items()}
        example = torch.empty(channels, image_size, image_size, dtype=torch.uint8)
        self.expected = describe(example)
        with seeded(0):
            for _ in range(8 if transforms else 0):  # some transforms change only some of the images
                try_transforms("image_transforms", transforms, torch.randint_like(example, 256))

    def __call__(self, image: Tensor) -> Tensor:
        """``(channels, h, w)`` uint8 of any size → ``(channels, image_size, image_size)`` uint8.

        Raises: TransformError: a transform changes type or shape.
        """
        image = self.crop(image)
        for key, transform in self.transforms.items():
            image = check_output(key, transform, transform(image), self.expected)
        return image


class ImageFolder(ImageDataModule):
    """``data_dir/<class>/<image>``, or ``data_dir/{train,val,test}/<class>/<image>``.

    Split folders may have any of the names in ``split_folders``, in any case. Without a ``test`` folder, about
    ``test_fraction`` of the images are split off; without a ``val`` folder, about ``val_fraction`` of the rest. A hash
    of the seed and the file's name decides, so adding or removing a file moves no other file to another split, except
    in a class so small that a split would have no image of it. A ``val`` or ``test`` folder without class folders
    (unlabelled images of a contest) is not used.

    Classes are the folders' names in natural order (2 before 10). ``image_paths.SUFFIXES`` lists the image files. Empty
    files, duplicate links to a file, and hidden files (``._1.jpg``, ``.ipynb_checkpoints``, ``__MACOSX``) are left out.
    To label files in another way, override ``is_split``, ``find_classes`` and ``samples``.

    Args:
        num_classes: None counts the folders.
        mean, std: of each channel, for pixels from 0 to 1; ImageNet's by default.
        test_fraction: share of the images to split off, without a ``test`` folder; 1: all images, for evaluation only.
        resize_ratio: in evaluation, images are resized to ``image_size * resize_ratio`` before the central crop.
        crop_scale: bounds of the area of a random crop of a training image, as a share of the image; the crop is then
            resized to ``image_size`` (torchvision's RandomResizedCrop). None: the same pixels as in evaluation.
        cache: ``memory`` decodes the training and validation files once, and keeps them in memory; ``none`` decodes a
            file whenever a batch needs it; ``auto`` decodes once if the training is longer than an epoch, the images
            fit into a third of the free memory, and there are no ``image_transforms``. A resumed run keeps the choice.
            Validation has the same pixels either way. With images in memory, random crops are taken on the device, of
            images resized to squares (see ``decoded_files.smallest_side``).
        image_transforms: torchvision's v2 transforms by name, applied to each training image when it is decoded, after
            the random crop; None leaves one out. They must return uint8 of the same shape.
        broken: for files that cannot be read or transformed: ``fail`` raises an error, at the latest when a batch needs
            the file; ``skip`` decodes all files first, and logs and leaves out such files.
        options: as in ``ImageDataModule``.
    """

    split_folders: Mapping[str, Sequence[str]] = {
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
        crop_scale: Sequence[float] | None = (0.08, 1.0),
        cache: str = "auto",
        image_transforms: Mapping[str, Callable] | None = None,
        broken: str = "fail",
        **options,
    ):
        if broken not in ("fail", "skip"):
            raise ValueError(f"broken={broken} is neither fail nor skip")
        if cache not in ("auto", "memory", "none"):
            raise ValueError(f"cache={cache}; expected auto, memory or none")
        self.root = Path(data_dir).expanduser()
        if not self.root.is_dir():
            raise FileNotFoundError(f"datamodule.data_dir={data_dir} is not a folder{nearest(self.root)}")
        self.folders = self._find_splits()
        self.class_names = self.find_classes()
        self._files: dict[str, ImageFiles] = {}  # split → files in the split's folder
        self._known: dict = {}  # files of the val and test folders, as in scan_files
        self.mean, self.std = tuple(mean), tuple(std)
        self.test_fraction, self.resize_ratio, self.broken = test_fraction, resize_ratio, broken
        num_classes = num_classes or len(self.class_names)
        super().__init__(num_classes, in_channels, image_size, num_workers=num_workers, data_dir=data_dir, **options)
        transforms = {name: transform for name, transform in (image_transforms or {}).items() if transform}
        if transforms and cache == "memory":
            names = ", ".join(f"image_transforms.{name}" for name in transforms)
            raise ValueError(f"cache=memory decodes files once, so {names} would run only once; use cache=auto")
        self.cache, self.crop_scale = cache, crop_scale
        crop = self.prepare.fit
        if crop_scale is not None:
            check_scale(crop_scale, "crop_scale")
            crop = v2.RandomResizedCrop(image_size, tuple(crop_scale))
        self.train_transform = TrainTransform(crop, image_size, self.in_channels, transforms)

    @property
    def splits_by_name(self) -> tuple[str, ...]:
        return tuple(split for split in ("val", "test") if split not in self.folders)

    @property
    def is_one_test_set(self) -> bool:
        return self.test_fraction == 1 and "test" not in self.folders

    def order_classes(self, class_names: Sequence[str]) -> None:
        if sorted(class_names) == sorted(self.class_names):
            self.class_names = tuple(class_names)

    def setup(self, stage: str) -> None:
        if stage == "fit" and not self.sets and list(self.class_names) != sorted(self.class_names):
            names, more = self.class_names[:CLASSES_LOGGED], len(self.class_names) - CLASSES_LOGGED
            log.info(f"{'classes':<12} in this order: {', '.join(names)}{f' and {more:,} more' if more > 0 else ''}")
        super().setup(stage)
        if stage == "fit":
            self._keep_decoded(self._chooses_cache())

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return state and state | {"decoded_once": isinstance(self.sets["train"], DecodedFiles)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.cache == "auto" and self.trainer is not None and self.trainer.state.fn == "fit":
            self._keep_decoded(state_dict.get("decoded_once") is True)  # regardless of the memory that is free now

    def _chooses_cache(self) -> bool:
        """Whether to decode files once. Logs the reason if ``auto`` decides against it."""
        trainer = self.trainer
        if self.cache != "auto" or trainer is None:
            return self.cache == "memory"
        limit = trainer.limit_train_batches  # 1.0: all batches; 1: one
        if trainer.max_epochs == 1 or isinstance(limit, int) or limit < 1:
            return False
        if self.train_transform.transforms:
            log.info(f"{'cache':<12} none: image_transforms run on decoding, so files are decoded in each epoch")
            return False
        side = smallest_side(self.sets["train"], self.image_size, self.crop_scale)
        pixels = len(self.sets["train"]) * side**2 + len(self.sets["val"]) * self.image_size**2
        return trainer.strategy.broadcast(fits(pixels * self.in_channels, trainer.num_devices))

    def _keep_decoded(self, wanted: bool) -> None:
        """Keep the training and validation images in memory, or read them from files."""
        if isinstance(self.sets["train"], DecodedFiles) == wanted:
            return
        if not wanted:
            self.sets.update({split: self.sets[split].files for split in ("train", "val")})
            self.crop = None
            return
        began, (train, val) = time.monotonic(), (self.sets["train"], self.sets["val"])
        side, shrink = smallest_side(train, self.image_size, self.crop_scale), self.prepare.fit
        if self.crop_scale is not None:
            shrink = Preprocessing(self.in_channels, side, self.mean, self.std).resize
        train, aspects = decode_files(train, shrink, side)
        val, _ = decode_files(val, self.prepare.fit, self.image_size)
        if self.crop_scale is not None:
            self.crop = RandomResizedCrop(self.image_size, self.crop_scale, aspects=aspects)
        size, seconds = (train.images.nbytes + val.images.nbytes) / 1e6, time.monotonic() - began
        how = f"cache=memory{', chosen by auto' if self.cache == 'auto' else ''}"
        log.info(f"{'decoded once':<12} {len(train) + len(val):,} files, {size:,.0f} MB, {seconds:.1f} s ({how})")
        self.sets.update(train=self.on_device(train), val=self.on_device(val))

    def load(self, split: str) -> ImageFiles | None:
        if split in self.folders and ("test" in self.folders or split == "val"):
            return self.files(split)
        if split == "val":
            return None
        files = self.files("train")  # without a test folder, the test set is split off
        if self.is_one_test_set and split == "test":
            return files.subset(torch.arange(len(files)), False)
        rest, test = self.split_off(files, self.test_fraction, "test")
        return files.subset(rest, True) if split == "train" else files.subset(test, False)

    def split_off(self, images: ImageFiles, fraction: float, split: str) -> tuple[Tensor, Tensor]:
        rest = 2 if split == "test" and "val" not in self.folders else 1  # one for training, one for validation
        return split_by_name(self.split_names(images), images.labels, fraction, self.seed, split, rest)

    def split_names(self, images: ImageFiles) -> list[str]:
        """The name that assigns each image to a split."""
        start = len(os.path.join(self.folders["train"], ""))
        return [path[start:].replace(os.sep, "/") for path, _ in images.samples]

    def _find_splits(self) -> dict[str, Path]:
        """Split → folder; without split folders, ``data_dir`` is the training folder."""
        folders = {split: folder for split in self.split_folders if (folder := self._split_folder(split))}
        if not folders:
            return {"train": self.root}
        if "train" not in folders:
            raise FileNotFoundError(
                f"{self.root} has a folder {next(iter(folders.values())).name}, but none named train"
            )
        if unused := self.unused_folders(folders):
            log.warning(f"{'unused':<12} in {self.root}: {', '.join(unused)}; expected train, val and test")
        return folders

    def _split_folder(self, split: str) -> Path | None:
        """The folder of a split, or None. Raises: ValueError: several folders match."""
        names = [name for name in visible_folders(self.root) if name.lower() in self.split_folders[split]]
        found = [self.root / name for name in names if self.is_split(self.root / name)]
        if len(found) > 1:
            folders = " and ".join(folder.name for folder in found)
            raise ValueError(f"{self.root} has the folders {folders}; expected one of them")
        return found[0] if found else None

    def unused_folders(self, folders: Mapping[str, Path]) -> list[str]:
        """The folders in ``data_dir`` that belong to no split."""
        return sorted({*visible_folders(self.root)} - {folder.name for folder in folders.values()})

    def is_split(self, folder: Path) -> bool:
        """Whether a folder with the name of a split is a split, not a class of that name."""
        splits = {"test1", *(name for names in self.split_folders.values() for name in names)}  # test1: of a contest
        return bool(visible_folders(folder)) or {name.lower() for name in visible_folders(self.root)} <= splits

    def find_classes(self) -> tuple[str, ...]:
        """The class names in the order of their labels. Removes unlabelled folders from ``folders``.

        Raises: FileNotFoundError, ValueError: there are no class folders, or their names are invalid.
        """
        names = class_folders(self.folders["train"])
        for split, folder in list(self.folders.items()):
            found = visible_folders(folder)
            if split != "train" and (not found or len(found) == 1 and found[0] not in names):
                expected = f"expected {folder}/{names[0]}"
                log.warning(f"{'unused':<12} {folder}, which has no class folders; {expected}")
                del self.folders[split]
            elif extra := sorted(set(found) - set(names)):
                raise ValueError(f"{folder} has the class {extra[0]}, which the train folder lacks")
        return names

    def samples(self, split: str, unreadable: list[str]) -> list[Sample]:
        """The images in a split's folder, in an order that depends only on their names.

        Args:
            split: ``train``, ``val`` or ``test``.
            unreadable: receives messages about folders that cannot be read.
        """
        labels = {name: label for label, name in enumerate(self.class_names)}
        return find_samples(self.folders[split], labels, unreadable)

    def files(self, split: str) -> ImageFiles:
        """The usable images of a split's folder; the folder is scanned once.

        A file in the folders of several splits belongs to test, otherwise to val.
        """
        order = [name for name in ("test", "val", "train") if name in self.folders]
        for name in order[: order.index(split) + 1]:
            if name not in self._files:
                self._files[name] = self._scan(name)
        return self._files[split]

    def _scan(self, split: str) -> ImageFiles:
        """The usable images of a split's folder. Raises: OSError: a file is broken, or a training class is empty."""
        folder, unreadable = self.folders[split], []
        samples = self.samples(split, unreadable)
        known = dict(self._known) if split == "train" else self._known  # train is scanned last, and large
        scan = scan_files(samples, folder, known)
        unreadable += scan.unreadable
        if unreadable and self.broken == "fail":
            more = f", and {len(unreadable) - 1:,} more" if len(unreadable) > 1 else ""
            raise OSError(f"{unreadable[0]}{more}{HINT}")
        if scan.empty:
            first = os.path.relpath(min(scan.empty), folder)
            log.warning(f"empty files, left out: {len(scan.empty)} in {folder}, the first {first}")
        if scan.duplicates:
            path, other = next(iter(scan.duplicates.items()))
            duplicates = f"{len(scan.duplicates)} in {folder}, the first {path}, the same as {other}"
            log.warning(f"duplicate files, left out: {duplicates}")
        usable = [(path, label) for path, label in samples if path in scan.sizes]
        transforms = (self.prepare.fit, self.train_transform)
        files = ImageFiles(usable, self.in_channels, *transforms, training=split == "train", hint=HINT)
        files.keys = file_keys(usable, scan.sizes, folder, self.class_names)
        if self.broken == "skip":
            files, errors = drop_unreadable(files, folder)
            log_unreadable([*unreadable, *errors], len(samples), folder)
        self._check_classes(files, split)
        return files

    def _check_classes(self, files: ImageFiles, split: str) -> None:
        """Raise an error for a class without training images; warn for other splits."""
        missing = set(range(len(self.class_names))) - {label for _, label in files.samples}
        if not missing:
            return
        message = f"{self.folders[split]} has no images of the class {self.class_names[min(missing)]}"
        if split == "train":
            raise FileNotFoundError(message)
        log.warning(f"{message}{f', nor of {len(missing) - 1} more' if len(missing) > 1 else ''}")


def class_folders(folder: Path) -> tuple[str, ...]:
    """The names of the classes, in natural order: 2 before 10.

    Raises: FileNotFoundError, ValueError: there are no classes, or a name is not UTF-8.
    """
    names = visible_folders(folder)
    if not names:
        hint = "for names like cat.0.jpg use datamodule=cats_vs_dogs"
        raise FileNotFoundError(f"{folder} has no class folders; expected {folder}/<class>/<image> ({hint})")
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{folder} has a class folder {name!r}, whose name is not UTF-8; rename it") from None
    return tuple(sorted(names, key=class_order))


def find_samples(folder: Path, classes: Mapping[str, int], unreadable: list[str]) -> list[Sample]:
    """The images in class folders and their subfolders, in an order that does not depend on the labels.

    Args:
        folder: contains the class folders.
        classes: name → label.
        unreadable: receives messages about unreadable folders and broken links.
    """
    unreadable += [broken_link(entry) for entry in visible(folder) if is_broken_link(entry)]
    count, samples = ProgressLogger(None, f"files found in {folder}"), []
    for name in sorted(classes):
        class_folder = os.path.join(folder, name)
        if os.path.isdir(class_folder):
            paths = []
            for path in walk_images(class_folder, unreadable):
                paths.append(path)
                count()
            samples += [(path, classes[name]) for path in sorted(paths, key=os.path.split)]
    return samples


def log_unreadable(messages: Sequence[str], total: int, folder: Path) -> None:
    if messages:
        lines = [f"  {message}" for message in messages[:ERRORS_LOGGED]]
        lines += [f"  and {len(messages) - ERRORS_LOGGED:,} more"] if len(messages) > ERRORS_LOGGED else []
        head = f"{'broken':<12} {len(messages):,} of {total:,} files in {folder}, left out"
        log.warning("\n".join([head, *lines]))
