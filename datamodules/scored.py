"""One split of any data, to be scored."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.base import ImageDataModule
from datamodules.preprocessing import Preprocessing
from datamodules.tensor_images import Batch

SPLITS = ("test", "val", "train")


class Scored(LightningDataModule):
    """A split of another data module as test data: whole, in order, without augmentation.

    Args:
        data: where the images are from.
        split: ``test``, ``val`` or ``train``.
        preprocessing: that of the network that is to see them; its size and channels must be the data's.
        class_names: of the network's outputs; must be the data's, in the same order.
    """

    def __init__(self, data: ImageDataModule, split: str, preprocessing: Mapping[str, Any], class_names: Sequence[str]):
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

    def prepare_data(self) -> None:
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        self.data.trainer = self.trainer
        self.data.setup("test" if self.split == "test" else "validate")
        images = self.data.sets[self.split]
        if self.split == "train":  # the same images as in evaluation
            images = images.subset(torch.arange(len(images)), False)
        self.data.sets["test"] = images

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
