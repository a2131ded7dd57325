"""What all data modules share: the split, the loaders, and the batch's last steps on the device.

A batch is drawn as one tensor of indices, fetched by one indexing operation, and travels as uint8.
Augmentation and normalisation happen on the device, in ``on_after_batch_transfer``.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from lightning.fabric.utilities.data import suggested_max_num_workers
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from datamodules.decoding import reason
from datamodules.fingerprints import Fingerprint, differences, fingerprint, overlap, valid
from datamodules.preprocessing import Preprocessing
from datamodules.sampling import BatchKey, BatchSampler, seeded, stratified_split
from datamodules.tensor_dataset import Batch, TensorImages
from results.errors import building

log = logging.getLogger(__name__)


class ImageDataModule(LightningDataModule):
    """Base of all data modules. A data set is a subclass that says four things:

    ``class_names``, ``mean`` and ``std`` (a number a channel, for pixels from 0 to 1), and
    ``load(split)``, which returns the images of ``"train"``, ``"val"`` or ``"test"``, or None where the data has
    no such part: validation images are then split from the training set.

    Args:
        num_classes: must be the number of ``class_names``.
        in_channels: 1 or 3, what the network is to see: grey images are repeated, coloured ones turned grey.
        image_size: height and width in pixels; images of another size are resized.
        batch_size: images a step, of each process.
        val_fraction: of each class of the training set, where the data has no validation set.
        seed: of the split, the order and the augmentation.
        augmentation: batch transforms by name, applied to training batches in this order; None leaves one out.
        mixup, cutmix: mix each training image, and its label, with another of the batch: as a whole (Zhang et al.
            2018, "mixup") or by a rectangle (Yun et al. 2019, "CutMix"). The parameter alpha of the shares' Beta
            distribution; 0 is off; with both, each batch takes one of them. Labels are then shares of the classes,
            ``(N, num_classes)`` float32.
        shuffle: a new order in each epoch.
        num_workers: processes that load batches. 0 is fastest for images in memory. None takes one for each core
            but one, shared among the devices of this machine, at most 16.
        data_dir: the folder of downloaded data.
    """

    class_names: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    resize_ratio: float | None = None  # of evaluation, as in Preprocessing
    splits_by_name: Sequence[str] = ()  # splits of image files that are set aside from the training folder

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        batch_size: int = 128,
        val_fraction: float = 0.1,
        seed: int = 0,
        augmentation: Mapping[str, Callable] | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        shuffle: bool = True,
        num_workers: int | None = 0,
        data_dir: str = "data",
    ):
        super().__init__()
        if num_classes != len(self.class_names):
            raise ValueError(
                f"num_classes={num_classes}, but {type(self).__name__} has {len(self.class_names)} classes"
            )
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes}; there is nothing to tell apart with fewer than 2")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is no batch; expected at least 1")
        self.num_classes, self.in_channels, self.image_size = num_classes, in_channels, image_size
        self.batch_size, self.val_fraction, self.seed = batch_size, val_fraction, seed
        self.augmentation = {name: transform for name, transform in (augmentation or {}).items() if transform}
        mixers = {v2.MixUp: mixup, v2.CutMix: cutmix}
        if min(mixup, cutmix) < 0:
            raise ValueError(f"mixup={mixup}, cutmix={cutmix}; expected alpha of a Beta distribution, or 0")
        self.mixers = [mixer(alpha=float(alpha), num_classes=num_classes) for mixer, alpha in mixers.items() if alpha]
        self.shuffle, self.num_workers, self.data_dir = shuffle, num_workers, os.path.expanduser(data_dir)
        self.sets: dict[str, Dataset] = {}
        self._fingerprints: dict[str, Fingerprint] = {}
        self._train_sampler: BatchSampler | None = None
        self._next = {"epoch": 0, "batch": 0}  # of the training
        self.prepare = Preprocessing(in_channels, image_size, self.mean, self.std, self.resize_ratio)
        self.mean, self.std = self.prepare.mean, self.prepare.std

    def load(self, split: str) -> Dataset | None:
        """The images of a split, or None for a validation set that is to be split from the training set."""
        raise NotImplementedError

    @property
    def source_folder(self) -> Path | None:
        """The folder that the images are read from; None if there is none."""
        return Path(self.data_dir)

    def order_classes(self, class_names: Sequence[str]) -> None:
        """Before ``setup``: number the classes as a checkpoint does, if they are the same ones in another order.

        Data sets in memory have one order only.
        """

    def split_off(self, images: Dataset, fraction: float, split: str) -> tuple[Tensor, Tensor]:
        """(indices of the rest, indices of a part) of images, of which the part is set aside for ``split``."""
        return stratified_split(images.labels.cpu(), fraction, self.seed)

    @property
    def preprocessing(self) -> dict:
        """What an image goes through before the network, as plain values."""
        return self.prepare.values

    def setup(self, stage: str) -> None:
        if stage in ("fit", "validate") and "train" not in self.sets:
            train, val = self._load("train"), self._load("val")
            if val is None:
                train_indices, val_indices = self.split_off(train, self.val_fraction, "val")
                train, val = train.subset(train_indices, True), train.subset(val_indices, False)
                if not len(val):
                    few = f"has {len(train)} images for training and none to set aside for validation"
                    raise ValueError(f"{type(self).__name__} {few}; some class needs two")
            self.sets.update(train=train, val=val)
        if stage == "test" and "test" not in self.sets:
            self.sets["test"] = self._load("test")
        for split, images in self.sets.items():
            if len(images) == 0:
                raise ValueError(f"{type(self).__name__} has no images for {split} in {self.data_dir}")

    def _load(self, split: str) -> Dataset | None:
        """``load``, and images in memory go to the GPU if they fit into half of what is free there."""
        try:
            images = self.load(split)
        except (ValueError, OSError):  # their messages name what is wrong
            raise
        except Exception:
            with building("datamodule"):
                raise
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        movable = device.type == "cuda" and isinstance(images, TensorImages) and self.num_workers == 0
        if movable and images.images.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
            return images.to(device)
        return images

    def train_dataloader(self) -> DataLoader:
        if self.trainer is not None and self.trainer.overfit_batches:
            raise ValueError("trainer.overfit_batches does not work with these loaders; use debug=overfit")
        size, world_size = len(self.sets["train"]), self._world()[1]
        if size < self.batch_size * world_size:
            raise ValueError(
                f"batch_size={self.batch_size * world_size} is larger than the training set; "
                f"the largest that works is {size // world_size}"
            )
        self._check_augmentation()
        loader = self._loader("train", **self._next)
        self._train_sampler, self._next = loader.sampler, {"epoch": 0, "batch": 0}
        return loader

    def _check_augmentation(self) -> None:
        """Raise a ValueError that names the first batch transform that does not return what it is given, as uint8."""
        if not self.augmentation:
            return
        images, _ = self.fetch("train", torch.arange(min(2, len(self.sets["train"]))))
        draw = BatchKey(torch.arange(len(images), device=images.device))
        generator = torch.Generator(images.device).manual_seed(0)
        for name, transform in self.augmentation.items():
            which = f"augmentation.{name} ({type(transform).__name__})"
            try:
                changed = transform(images, generator, draw)
            except Exception as error:
                raise ValueError(f"{which} fails for uint8 images of {tuple(images.shape)}: {reason(error)}") from error
            if described(changed) != described(images):
                hint = (
                    "" if isinstance(changed, Tensor) else "; torchvision's transforms belong in datamodules.PerImage"
                )
                raise ValueError(f"{which} returns {described(changed)}; expected {described(images)}{hint}")
            images = changed

    def fingerprints(self) -> dict[str, Fingerprint]:
        """What tells the images of each split from others, as plain values and tensors for checkpoints."""
        self.setup("validate")
        self.setup("test")
        return {split: self.fingerprint(split) for split in self.sets}

    def fingerprint(self, split: str) -> Fingerprint:
        """That of one split, which is set up."""
        if split not in self._fingerprints:
            self._fingerprints[split] = fingerprint(self.sets[split])
        return self._fingerprints[split]

    def check_unchanged(self, before: Mapping[str, Fingerprint]) -> None:
        """Compare the images with those of the checkpoint from which the training is resumed.

        Args:
            before: the checkpoint's fingerprints; {} for one written before checkpoints had them.

        Raises:
            ValueError: they differ, and the checkpoint is this run's own. A new run gets a warning.
        """
        now, file = self.fingerprints(), self.trainer.ckpt_path
        what = "; ".join(differences(before, now).values())
        if not before and self.splits_by_name:
            what = "it was written before splits were assigned by file name, so the test images may be training images"
        if not what:
            return
        if Path(file).absolute().is_relative_to(Path(self.trainer.default_root_dir).absolute()):
            raise ValueError(
                f"the images are not those that {file} was trained on: {what}; restore them, or start a new run "
                f"(with ckpt_path={file} it continues from there)"
            )
        if "train" in before and "test" in self.splits_by_name and (seen := overlap(before["train"], now["test"])):
            what += f"; {seen:,} of the test images were training images there"
        log.warning(f"the images are not those that {file} was trained on: {what}")

    def state_dict(self) -> dict[str, Any]:
        """The batch of the training that is next, and the images' fingerprints; part of every checkpoint.

        Lightning's own state of loaders forgets the epoch where a checkpoint was written at an epoch's end.
        """
        if self._train_sampler is None:
            return {}
        epoch, batch = self._train_sampler.epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.processed
        whole = batch >= self.trainer.num_training_batches
        place = {"epoch": epoch + 1, "batch": 0} if whole else {"epoch": epoch, "batch": batch}
        return place | {"splits": self.fingerprints()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._next = {key: value for key, value in state_dict.items() if key != "splits"}
        if self.trainer is not None and self.trainer.state.fn == "fit":  # not where the best checkpoint is tested
            self.check_unchanged(valid(state_dict.get("splits")))

    def val_dataloader(self) -> DataLoader:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        return self._loader("test")

    def _world(self) -> tuple[int, int]:
        """(rank, number of processes)."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        return min(16, suggested_max_num_workers(self.trainer.num_devices if self.trainer else 1))

    def _loader(self, split: str, epoch: int = 0, batch: int = 0) -> DataLoader:
        training, images, workers = split == "train", self.sets[split], self._workers()
        device = getattr(images, "device", torch.device("cpu"))
        sampler = BatchSampler(
            len(images),
            self.batch_size,
            self.seed,
            training,
            training and self.shuffle,
            *self._world(),
            device=device,
            epoch=epoch,
            first=batch,
        )
        return DataLoader(
            images,
            sampler=sampler,
            batch_size=None,  # the sampler's items are whole batches
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available() and device.type == "cpu",
            generator=torch.Generator(),  # else each loader would draw from the global one
        )

    def fetch(self, split: str, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(N, c, h, w)`` uint8 of a part that is set up, and labels ``(N,)``; nothing is drawn."""
        images = self.sets[split]
        return images[BatchKey(indices.to(getattr(images, "device", "cpu")))][:2]

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """As Lightning's, without its search for tensors, which takes longer than to move none."""
        images, labels, draw = batch
        images, labels, indices = (part.to(device, non_blocking=True) for part in (images, labels, draw.indices))
        return images, labels, draw._replace(indices=indices)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """On the device: ``(N, c, h, w)`` uint8 → ``(N, in_channels, image_size, image_size)`` float32."""
        images, labels, draw = batch
        if not self.trainer.training:
            return self.normalize(images), labels
        if self.augmentation:
            generator = torch.Generator(images.device).manual_seed(draw.key)
            for transform in self.augmentation.values():
                images = transform(images, generator, draw)
        images = self.normalize(images)
        if self.mixers:
            with seeded(draw.key + 1):  # torchvision's draw from the global generator
                mix = self.mixers[int(torch.randint(len(self.mixers), ()))]
                images, labels = mix(images, labels)  # (N, C, H, W), (N, num_classes)
        return images, labels

    def normalize(self, images: Tensor) -> Tensor:
        """``(N, c, h, w)`` uint8 → ``(N, in_channels, h, w)`` float32 of mean 0 and deviation 1."""
        return self.prepare.normalize(images)

    def unnormalize(self, images: Tensor) -> Tensor:
        """``(N, in_channels, h, w)`` as the network sees it → uint8, to be looked at."""
        return self.prepare.unnormalize(images)

    def resize(self, images: Tensor) -> Tensor:
        """``(N, c, h, w)`` uint8 → ``(N, c, image_size, image_size)`` uint8."""
        return self.prepare.resize(images)


def described(images: Any) -> str:
    """The type and shape of images, in words."""
    if not isinstance(images, Tensor):
        return f"a {type(images).__name__}"
    return f"{images.dtype} of {tuple(images.shape)}".removeprefix("torch.")
