"""The base class of all data modules: splits, loaders, and the last steps of a batch on the device.

A batch is sampled as one tensor of indices, fetched by one indexing operation, and moved to the device as uint8.
Augmentation and normalisation happen on the device, in ``on_after_batch_transfer``.
"""

import logging
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from lightning.fabric.utilities.data import suggested_max_num_workers
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.utils import download_url
from torchvision.transforms import v2

from datamodules.fingerprints import Fingerprint, check_unchanged, fingerprint, valid
from datamodules.preprocessing import Preprocessing
from datamodules.sampling import (
    BatchKey,
    BatchSampler,
    assign_folds,
    check_folds,
    check_sampling,
    seeded,
    stratified_split,
)
from datamodules.tensor_dataset import Batch, TensorImages
from datamodules.transform_checks import try_transforms
from results.errors import building

log = logging.getLogger(__name__)
SPLITS = ("test", "val", "train")


class ImageDataModule(LightningDataModule):
    """Base of all data modules. A subclass defines:

    - ``class_names``, and ``mean`` and ``std`` of each channel, for pixels from 0 to 1;
    - ``load(split)``, which returns the images of ``"train"``, ``"val"`` or ``"test"``, or None if the data has no
      validation set, which is then split from the training set.

    Args:
        num_classes: must be the number of ``class_names``.
        in_channels: of the network, 1 or 3: grey images are repeated, RGB images converted to grey.
        image_size: height and width in pixels; other images are resized.
        batch_size: images per step and process.
        val_fraction: share of each class of the training set to split off, if the data has no validation set.
        folds: for cross-validation, the number of stratified parts of the training set, instead of ``val_fraction``;
            the data must not have a validation set.
        fold: the part used as the validation set, from 0.
        seed: of the split, the order and the augmentation.
        augmentation: batch transforms by name, applied to training batches in this order; None leaves one out.
        mixup, cutmix: alpha of the Beta distribution from which mixing shares are drawn; 0 is off. Mixes images and
            labels within a training batch: whole images (Zhang et al. 2018, "mixup") or a rectangle (Yun et al. 2019,
            "CutMix"); with both, each batch uses one of them. Labels are then ``(N, num_classes)`` float32 shares.
        shuffle: use a new order in each epoch.
        sampling: None: each training image once per epoch; ``balanced``: the same number of images, drawn with
            replacement, every class with the same probability.
        num_workers: processes that load batches. 0 is fastest for images in memory. None: 0 for images in memory; for
            files one per core but one, shared among the devices of this machine, at most 16.
        data_dir: the folder of downloaded data.
    """

    class_names: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    resize_ratio: float | None = None  # in evaluation, as in Preprocessing
    splits_by_name: Sequence[str] = ()  # splits that are taken from the training folder by file name
    is_one_test_set: bool = False  # all images are for testing
    crop: Callable | None = None  # a batch transform to ``image_size``, if training images in memory are larger

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        batch_size: int = 128,
        val_fraction: float = 0.1,
        folds: int | None = None,
        fold: int = 0,
        seed: int = 0,
        augmentation: Mapping[str, Callable] | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        shuffle: bool = True,
        sampling: str | None = None,
        num_workers: int | None = 0,
        data_dir: str = "data",
    ):
        super().__init__()
        if num_classes != len(self.class_names):
            raise ValueError(
                f"num_classes={num_classes}, but {type(self).__name__} has {len(self.class_names)} classes"
            )
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes}; expected at least 2")
        check_sampling(sampling, shuffle)
        check_folds(folds, fold)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}; expected at least 1")
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, image_size
        self.batch_size, self.seed, self.shuffle, self.sampling = batch_size, seed, shuffle, sampling
        self.val_fraction, self.folds, self.fold, self.num_workers = val_fraction, folds, fold, num_workers
        self.augmentation = {name: transform for name, transform in (augmentation or {}).items() if transform}
        mixers = {v2.MixUp: mixup, v2.CutMix: cutmix}
        if min(mixup, cutmix) < 0:
            raise ValueError(f"mixup={mixup}, cutmix={cutmix}; expected alpha of a Beta distribution, or 0")
        self.mixers = [mixer(alpha=float(alpha), num_classes=num_classes) for mixer, alpha in mixers.items() if alpha]
        self.data_dir = os.path.expanduser(data_dir)
        self.sets: dict[str, Dataset] = {}
        self._fingerprints: dict[str, Fingerprint] = {}
        self._train_sampler: BatchSampler | None = None
        self._next = {"epoch": 0, "batch": 0}  # position in the training
        self.test_split = "test"
        self.prepare = Preprocessing(in_channels, image_size, self.mean, self.std, self.resize_ratio)
        self.mean, self.std = self.prepare.mean, self.prepare.std

    def load(self, split: str) -> Dataset | None:
        """The images of a split; None if the validation set is to be split from the training set."""
        raise NotImplementedError

    @property
    def source_folder(self) -> Path | None:
        """The folder that the images are read from, or None."""
        return Path(self.data_dir)

    def order_classes(self, class_names: Sequence[str]) -> None:
        """Before ``setup``: number the classes as in a checkpoint that has the same classes in another order.

        Data sets in memory have one order only.
        """

    def as_test_set(self, split: str, preprocessing: Mapping[str, Any], class_names: Sequence[str]) -> None:
        """Before ``setup``: use a split as the test set of a network: complete, in order, without augmentation.

        Args:
            split: ``test``, ``val`` or ``train``.
            preprocessing: of the network; must have the size and channels of the data.
            class_names: of the network's outputs; must equal the data's.
        """
        if split not in SPLITS:
            raise ValueError(f"split={split}; expected one of {', '.join(SPLITS)}")
        if len(self.class_names) != len(class_names):
            raise ValueError(f"the data has {len(self.class_names)} classes, the network has {len(class_names)}")
        for number, (found, wanted) in enumerate(zip(self.class_names, class_names, strict=True)):
            if found != wanted:
                order = "expected the same names in the same order"
                raise ValueError(f"class {number} is {found} in the data and {wanted} in the network; {order}")
        for key, found in {"in_channels": self.in_channels, "image_size": self.image_size}.items():
            if found != preprocessing[key]:
                trained = f"the network was trained with {key}={preprocessing[key]}"
                raise ValueError(f"the data has {key}={found}, but {trained}")
        self.test_split, self.prepare = split, Preprocessing(**preprocessing)

    def split_off(self, images: Dataset, fraction: float, split: str) -> tuple[Tensor, Tensor]:
        """(remaining indices, indices for ``split``)."""
        return stratified_split(images.labels.cpu(), fraction, self.seed)

    def split_names(self, images: Dataset) -> list[str]:
        """The name that assigns each training image to a split; the index for images in memory."""
        return list(map(str, range(len(images))))

    def _split_off_validation(self, images: Dataset) -> tuple[Tensor, Tensor]:
        """(indices for training, indices for validation)."""
        if self.folds is None:
            return self.split_off(images, self.val_fraction, "val")
        is_val = assign_folds(self.split_names(images), images.labels.cpu(), self.folds, self.seed) == self.fold
        return (~is_val).nonzero().squeeze(1), is_val.nonzero().squeeze(1)

    @property
    def preprocessing(self) -> dict:
        """The steps from an image to the network's input, as plain values."""
        return self.prepare.values

    def setup(self, stage: str) -> None:
        if stage == "test" and self.test_split == "test":
            self._set_up_test()
        else:
            self._set_up_training()

    def _set_up_test(self) -> None:
        if "test" not in self.sets:
            self.sets["test"] = self._load("test")
        self._check_sizes()

    def _set_up_training(self) -> None:
        """Load the training and validation images."""
        if "train" not in self.sets:
            train, val = self._load("train"), self._load("val")
            if val is None:
                rest, aside = self._split_off_validation(train)
                train, val = train.subset(rest, True), train.subset(aside, False)
                if not len(val):
                    few = f"has too few training images ({len(train)}) to split off a validation set"
                    raise ValueError(f"{type(self).__name__} {few}; expected two images of some class")
            elif self.folds is not None:
                raise ValueError(f"folds={self.folds} splits the training set, but the data has a validation set")
            self.sets.update(train=train, val=val)
        self._check_sizes()

    def _check_sizes(self) -> None:
        for split, images in self.sets.items():
            if len(images) == 0:
                raise ValueError(f"{type(self).__name__} has no images for {split} in {self.data_dir}")

    def _load(self, split: str) -> Dataset | None:
        """Call ``load``; name the data module in errors without a clear message."""
        try:
            return self.on_device(self.load(split))
        except (ValueError, OSError):  # with a clear message
            raise
        except Exception:
            with building("datamodule"):
                raise

    def on_device(self, images: Dataset | None) -> Dataset | None:
        """Move images in memory to the GPU if they fit into half of the free GPU memory."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        movable = device.type == "cuda" and isinstance(images, TensorImages) and not self.num_workers
        if movable and images.images.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
            return images.to(device)
        return images

    def class_counts(self) -> Tensor:
        """Number of training images per class, ``(num_classes,)`` int64; after ``setup``."""
        return self.sets["train"].labels.cpu().bincount(minlength=self.num_classes)

    def train_dataloader(self) -> DataLoader:
        if self.trainer is not None and self.trainer.overfit_batches:
            raise ValueError("trainer.overfit_batches does not work with these loaders; use debug=overfit")
        size, world_size = len(self.sets["train"]), self._world()[1]
        if size < self.batch_size * world_size:
            raise ValueError(
                f"batch_size={self.batch_size * world_size} is larger than the training set; "
                f"the largest that works is {size // world_size}"
            )
        if self.augmentation:
            images, _ = self.fetch("train", torch.arange(min(2, size)))
            key = BatchKey(torch.arange(len(images), device=images.device))
            try_transforms("augmentation", self.augmentation, images, torch.Generator(images.device), key)
        loader = self._loader(self.sets["train"], training=True, **self._next)
        self._train_sampler, self._next = loader.sampler, {"epoch": 0, "batch": 0}
        return loader

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.sets["val"])

    def test_dataloader(self) -> DataLoader:
        return self._loader(self.test_images)

    @property
    def test_images(self) -> Dataset:
        images = self.sets[self.test_split]
        return images.subset(torch.arange(len(images)), False) if self.test_split == "train" else images

    def pixels(self, indices: Tensor) -> Tensor:
        """Test images before normalisation: ``(n, c, image_size, image_size)`` uint8, on the CPU."""
        return fetch(self.test_images, indices)[0].cpu()

    def fingerprints(self) -> dict[str, Fingerprint]:
        """The fingerprint of each split, as plain values and tensors for checkpoints."""
        self._set_up_training()
        self._set_up_test()
        return {split: self.fingerprint(split) for split in self.sets}

    def fingerprint(self, split: str) -> Fingerprint:
        """The fingerprint of a split that is set up."""
        if split not in self._fingerprints:
            self._fingerprints[split] = fingerprint(self.sets[split])
        return self._fingerprints[split]

    def state_dict(self) -> dict[str, Any]:
        """The next training batch, and the fingerprints of the images; part of every checkpoint.

        Lightning's state of loaders loses an epoch if the checkpoint is written at an epoch's end.
        """
        if self._train_sampler is None:
            return {}
        epoch, batch = self._train_sampler.epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.processed
        ended = batch >= self.trainer.num_training_batches
        place = {"epoch": epoch + 1, "batch": 0} if ended else {"epoch": epoch, "batch": batch}
        return place | {"splits": self.fingerprints()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._next = {key: state_dict.get(key, 0) for key in ("epoch", "batch")}
        if self.trainer is not None and self.trainer.state.fn == "fit":  # not in the test of the best checkpoint
            file, run_dir = Path(self.trainer.ckpt_path), Path(self.trainer.default_root_dir)
            check_unchanged(self, valid(state_dict.get("splits")), file, run_dir)

    def _world(self) -> tuple[int, int]:
        """(rank, number of processes)."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _workers(self, images: Dataset) -> int:
        if self.num_workers is not None:
            return self.num_workers
        if isinstance(images, TensorImages):
            return 0
        return min(16, suggested_max_num_workers(self.trainer.num_devices if self.trainer else 1))

    def _loader(self, images: Dataset, training: bool = False, epoch: int = 0, batch: int = 0) -> DataLoader:
        workers, device = self._workers(images), getattr(images, "device", torch.device("cpu"))
        shuffle, (rank, world_size) = training and self.shuffle, self._world()
        options = {"rank": rank, "world_size": world_size, "device": device, "epoch": epoch, "first": batch}
        sampler = BatchSampler(len(images), self.batch_size, self.seed, training, shuffle, **options)
        if training and self.sampling:
            sampler.weights = 1 / self.class_counts().double()[images.labels.cpu()]
        return DataLoader(
            images,
            sampler=sampler,
            batch_size=None,  # the sampler's items are whole batches
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available() and device.type == "cpu",
            generator=torch.Generator(),  # otherwise loaders would draw from the global generator
        )

    def fetch(self, split: str, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels of a split that is set up; draws no random numbers.

        Returns:
            ``(N, c, image_size, image_size)`` uint8 and ``(N,)`` int64.
        """
        images, labels = fetch(self.sets[split], indices)
        return self.resize(images), labels

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """On the device: ``(N, c, h, w)`` uint8 → ``(N, in_channels, image_size, image_size)`` float32."""
        images, labels, key = batch[:3]
        if not self.trainer.training:
            return self.normalize(images), labels
        if self.crop or self.augmentation:
            generator = torch.Generator(images.device).manual_seed(key.key)
            for transform in ([self.crop] if self.crop else []) + list(self.augmentation.values()):
                images = transform(images, generator, key)
        images = self.normalize(images)
        if self.mixers:
            with seeded(key.key + 1):  # torchvision's transforms draw from the global generator
                mix = self.mixers[int(torch.randint(len(self.mixers), ()))]
                images, labels = mix(images, labels)  # (N, C, H, W), (N, num_classes)
        return images, labels

    def normalize(self, images: Tensor) -> Tensor:
        """``(N, c, h, w)`` uint8 → ``(N, in_channels, h, w)`` float32 of mean 0 and deviation 1."""
        return self.prepare.normalize(images)

    def unnormalize(self, images: Tensor) -> Tensor:
        """The input of a network, ``(N, in_channels, h, w)``, → uint8 images to look at."""
        return self.prepare.unnormalize(images)

    def resize(self, images: Tensor) -> Tensor:
        """``(N, c, h, w)`` uint8 → ``(N, c, image_size, image_size)`` uint8."""
        return self.prepare.resize(images)


def fetch(images: Dataset, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Images ``(N, c, h, w)`` uint8 and labels ``(N,)`` of a data set."""
    return images[BatchKey(indices.to(getattr(images, "device", "cpu")))][:2]


def download(source: type[Dataset], data_dir: str, **options) -> Dataset:
    """A data set of torchvision; missing files are downloaded to ``data_dir``.

    Raises: OSError: the files are missing or damaged, and the download failed.
    """
    try:
        return source(data_dir, **options)
    except RuntimeError:  # not found or corrupted
        log.info(f"{'downloading':<12} {source.__name__} to {data_dir}")
    try:
        if hasattr(source, "tgz_md5"):  # CIFAR: torchvision would extract the archive without a filter
            download_url(source.url, data_dir, source.filename, source.tgz_md5)
            with tarfile.open(Path(data_dir, source.filename)) as archive:
                archive.extractall(data_dir, filter="data")  # does not write outside the folder
            return source(data_dir, **options)
        return source(data_dir, download=True, **options)
    except (OSError, RuntimeError, tarfile.TarError) as error:
        raise OSError(
            f"{source.__name__} is missing from datamodule.data_dir={data_dir} or damaged, and the "
            f"download failed: {error}; without a network, {_by_hand(source, data_dir)}"
        ) from error


def _by_hand(source: type[Dataset], data_dir: str) -> str:
    """How to install a data set of torchvision by hand."""
    if hasattr(source, "resources"):  # MNIST and similar
        files, folder = [name for name, _ in source.resources], Path(data_dir, source.__name__, "raw")
    elif hasattr(source, "split_list"):  # SVHN
        files, folder = [source.split_list[split][1] for split in ("train", "test")], Path(data_dir)
    elif hasattr(source, "filename"):  # CIFAR
        files, folder = [source.filename], Path(data_dir)
    else:
        return f"run the same command on a machine with one, and copy {data_dir} from there"
    return f"put {', '.join(files)} into {folder}"
