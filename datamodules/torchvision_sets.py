"""Data sets of torchvision by name, as image files or in memory."""

from collections.abc import Sequence
from difflib import get_close_matches
from inspect import signature
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets
from torchvision.transforms.v2.functional import pil_to_tensor

from datamodules.base import ImageDataModule, download
from datamodules.image_files import Sample
from datamodules.image_folder import ImageFolder
from datamodules.tensor_dataset import TensorImages

# Split → torchvision's names for it, in order of preference.
SPLIT_NAMES = {"train": ("train", "trainval"), "val": ("val", "valid"), "test": ("test",)}


def source_class(name: str) -> type[Dataset]:
    """The torchvision data set of this name. Raises: ValueError: unknown name."""
    if name not in datasets.__all__:
        near = get_close_matches(name, datasets.__all__, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"datamodule.dataset={name} is not a data set of torchvision{hint}")
    return getattr(datasets, name)


def open_split(name: str, data_dir: str, split: str, **options) -> Dataset | None:
    """A split of a data set, downloaded if necessary; None if the data set has no such split.

    A data set without splits is all ``train``.

    Raises:
        OSError: the files are missing or damaged, and the download failed.
        ValueError: a package is missing, or there is no training split.
    """
    source, found = source_class(name), None
    parameters = signature(source).parameters
    try:
        if "train" in parameters:
            found = None if split == "val" else download(source, data_dir, train=split == "train", **options)
        elif "split" not in parameters:
            found = download(source, data_dir, **options) if split == "train" else None
        for value in SPLIT_NAMES[split] if "split" in parameters else ():
            try:
                return download(source, data_dir, split=value, **options)
            except ValueError as error:
                if not str(error).startswith("Unknown value"):
                    raise
    except ImportError as error:
        raise ValueError(f"torchvision's {name} needs a package: {error} (pip install -e '.[mat]' has SciPy)") from None
    if found is None and split == "train":
        raise ValueError(f"torchvision's {name} has no split {' or '.join(SPLIT_NAMES['train'])}")
    return found


class TorchvisionFiles(ImageFolder):
    """A data set of torchvision that consists of image files, such as ``Flowers102``, ``DTD`` or ``Food101``.

    Splits that torchvision lacks are split off as in ``ImageFolder``.

    Args:
        dataset: class name in ``torchvision.datasets``; the class must have the argument ``loader``.
        options: as in ``ImageFolder``.
    """

    def __init__(self, data_dir: str, dataset: str, **options):
        self.dataset = dataset
        if "loader" not in signature(source_class(dataset)).parameters:
            hint = f"use datamodule=torchvision_tensors datamodule.dataset={dataset}"
            raise ValueError(f"torchvision's {dataset} does not list image files; {hint}")
        Path(data_dir).expanduser().mkdir(parents=True, exist_ok=True)
        super().__init__(data_dir, **options)

    def _find_splits(self) -> dict[str, Path]:
        with FileLock(self.root / f".{self.dataset}.lock"):  # one process downloads
            opened = {split: open_split(self.dataset, str(self.root), split, loader=str) for split in SPLIT_NAMES}
        self.sources = {split: source for split, source in opened.items() if source is not None}
        return dict.fromkeys(self.sources, self.root)

    def find_classes(self) -> tuple[str, ...]:
        names = getattr(self.sources["train"], "classes", None)
        if names is None:
            names = range(1 + max(label for _, label in self.samples("train", [])))
        return class_names(names)

    def samples(self, split: str, unreadable: list[str]) -> list[Sample]:
        source = self.sources[split]
        pairs = (source[i] for i in range(len(source)))
        return [(path, int(label)) for path, label in pairs]  # the loader, str, returns the path

    def order_classes(self, class_names: Sequence[str]) -> None:
        """Do nothing: the order is torchvision's."""


class TorchvisionTensors(ImageDataModule):
    """A data set of torchvision with all images in memory, such as ``MNIST``, ``SVHN`` or ``STL10``.

    Images are resized to ``image_size``; a data set of image files is decoded once.

    Args:
        dataset: class name in ``torchvision.datasets``.
        num_classes: number of classes; they are named 0, 1, … if torchvision has no names.
        mean, std: of each channel, for pixels from 0 to 1.
        options: as in ``ImageDataModule``.
    """

    def __init__(self, dataset: str, num_classes: int, mean: Sequence[float], std: Sequence[float], **options):
        self.dataset, self.mean, self.std = dataset, tuple(mean), tuple(std)
        self.class_names = class_names(getattr(source_class(dataset), "classes", range(num_classes)))
        super().__init__(num_classes, **options)

    def prepare_data(self) -> None:
        for split in SPLIT_NAMES:
            open_split(self.dataset, self.data_dir, split)

    def load(self, split: str) -> TensorImages | None:
        source = open_split(self.dataset, self.data_dir, split)
        if source is None and split == "test":
            raise ValueError(f"torchvision's {self.dataset} has no test set")
        return None if source is None else TensorImages(*self._in_memory(source))

    def _in_memory(self, source: Dataset) -> tuple[Tensor, Tensor]:
        """Images ``(N, c, image_size, image_size)`` uint8 and labels ``(N,)`` int64."""
        if not hasattr(source, "data"):
            pairs = [source[i] for i in range(len(source))]
            images = [self.prepare.fit(pil_to_tensor(image.convert("RGB"))) for image, _ in pairs]
            return torch.stack(images), torch.tensor([label for _, label in pairs])
        images, labels = source.data, source.targets if hasattr(source, "targets") else source.labels
        images = torch.as_tensor(images)
        if images.ndim == 3:  # (N, h, w)
            images = images.unsqueeze(1)
        elif images.shape[3] == 3:  # (N, h, w, 3)
            images = images.permute(0, 3, 1, 2)
        return self.resize(images.contiguous()), torch.as_tensor(labels).long()


def class_names(names: Sequence) -> tuple[str, ...]:
    """Class names as text; the first one if a class has several."""
    return tuple(str(name[0] if isinstance(name, tuple) else name) for name in names)
