"""One split of any data, to be scored."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.base import ImageDataModule
from datamodules.fingerprints import Fingerprint, differences, overlap
from datamodules.preprocessing import Preprocessing
from datamodules.tensor_dataset import Batch

log = logging.getLogger(__name__)
SPLITS = ("test", "val", "train")


class Scored(LightningDataModule):
    """A split of another data module as test data: whole, in order, without augmentation.

    Args:
        data: where the images are from.
        split: ``test``, ``val`` or ``train``.
        preprocessing: that of the network that is to see them; its size and channels must be the data's.
        class_names: of the network's outputs; must be the data's, in the same order.
        trained_on: fingerprints of the splits that the network was trained on, to compare with; {} if its checkpoint
            should have them but is too old; None: there is nothing to compare.
        is_other: the data are not meant to be those that the network was trained on.

    Attributes:
        changes: how each split differs from the one of the training, in words; known after ``setup``.
        seen: how many of the images to score were training images; None if that is not known.
    """

    def __init__(
        self,
        data: ImageDataModule,
        split: str,
        preprocessing: Mapping[str, Any],
        class_names: Sequence[str],
        trained_on: Mapping[str, Fingerprint] | None = None,
        is_other: bool = False,
    ):
        super().__init__()
        if split not in SPLITS:
            raise ValueError(f"split={split} is none of {', '.join(SPLITS)}")
        found, wanted = list(data.class_names), list(class_names)
        if len(found) != len(wanted):
            raise ValueError(f"the data has {len(found)} classes, the network {len(wanted)}")
        for number, (its, ours) in enumerate(zip(found, wanted, strict=True)):
            if its != ours:
                raise ValueError(
                    f"class {number} is {its} in the data, {ours} in the network; expected the same names in order"
                )
        for fact in ("in_channels", "image_size"):
            if getattr(data, fact) != preprocessing[fact]:
                wanted, found = preprocessing[fact], getattr(data, fact)
                raise ValueError(f"the data has {fact}={found}, but the network was trained with {fact}={wanted}")
        data.prepare = Preprocessing(**preprocessing)
        self.data, self.split = data, split
        self.trained_on, self.is_other = trained_on, is_other
        self.changes: dict[str, str] = {}
        self.seen: int | None = None

    def prepare_data(self) -> None:
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        self.data.trainer = self.trainer
        self.data.setup("test" if self.split == "test" else "validate")
        if self.trained_on is not None:
            self._compare(self.trained_on)
        images = self.data.sets[self.split]
        if self.split == "train":  # the same images as in evaluation
            images = images.subset(torch.arange(len(images)), False)
        self.data.sets["test"] = images

    def _compare(self, before: Mapping[str, Fingerprint]) -> None:
        """Warn in one line if the images differ from those of the training, or if some of them were trained on."""
        split, by_name = self.split, self.split in self.data.splits_by_name
        if by_name and not before:
            log.warning(
                f"the checkpoint does not say which images it was trained on: it is older than splits by file name, so "
                f"{split} images may be training images, and the scores too high"
            )
            return
        # The other splits too if that is cheap: if they are from the same folder.
        whole = by_name and not self.is_other and getattr(self.data, "test_fraction", None) != 1
        now, parts = self.data.fingerprints() if whole else {split: self.data.fingerprint(split)}, []
        if not self.is_other and (changes := differences(before, now)):
            self.changes = changes
            parts.append(f"the images have changed since the training: {', '.join(changes.values())}")
        if by_name and "files" in before.get("train", {}):
            self.seen = overlap(before["train"], now[split])
            if self.seen:
                known = f"{self.seen:,} of the {now[split]['images']:,} {split} images were training images"
                parts.append(f"{known} (by name and size), so the scores may be too high")
        if parts:
            log.warning("; ".join(parts))

    @property
    def images(self):
        return self.data.sets["test"]

    def pixels(self, indices: Tensor) -> Tensor:
        """The images at ``indices`` as they are before normalisation: ``(n, c, image_size, image_size)`` uint8."""
        return self.data.fetch("test", indices)[0].cpu()

    def unnormalize(self, images: Tensor) -> Tensor:
        return self.data.unnormalize(images)

    def test_dataloader(self) -> DataLoader:
        return self.data.test_dataloader()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        return self.data.on_after_batch_transfer(batch, dataloader_idx)
