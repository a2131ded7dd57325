"""Image files to predict."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from lightning.fabric.utilities.data import suggested_max_num_workers
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.decoding import read_and_transform
from datamodules.preprocessing import Preprocessing

# (images that could be read, their indices, (index, message) of those that could not).
Part = tuple[Tensor, Tensor, list[tuple[int, str]]]


class PredictFiles(Dataset):
    """Image files, decoded and brought to a network's size when a batch asks for them.

    Args:
        paths: of the files.
        prepare: what the network's images go through.
        skip: tell of a file that cannot be read; else raise.
    """

    def __init__(self, paths: Sequence[str], prepare: Preprocessing, skip: bool):
        self.paths, self.prepare, self.skip = paths, prepare, skip

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: Tensor) -> Part:
        """Images ``(n, c, image_size, image_size)`` uint8, where n may be less than there are indices, or 0."""
        channels, size = self.prepare.in_channels, self.prepare.image_size
        images, read, broken = [], [], []
        for index in indices.tolist():
            try:
                images.append(read_and_transform(self.paths[index], channels, self.prepare.fit))
                read.append(index)
            except ValueError as error:
                if not self.skip:
                    raise
                broken.append((index, str(error)))
        stacked = torch.stack(images) if images else torch.empty(0, channels, size, size, dtype=torch.uint8)
        return stacked, torch.tensor(read, dtype=torch.int64), broken


class PredictImages(LightningDataModule):
    """Image files in the order given, as a network sees them, with the indices of those that could be read.

    A batch is ``(images, indices, broken)``: ``(n, in_channels, image_size, image_size)`` float32, ``(n,)`` int64,
    and (index, message) of each file that cannot be read.

    Args:
        paths: of the files.
        preprocessing: of the network that is to see them.
        batch_size: files a batch.
        num_workers: processes that decode; None: one for each core but one, at most 16, where a GPU computes; else 0.
        skip: go on without files that cannot be read; else the first of them is an error.
    """

    def __init__(
        self,
        paths: Sequence[str],
        preprocessing: Mapping[str, Any],
        batch_size: int = 128,
        num_workers: int | None = None,
        skip: bool = True,
    ):
        super().__init__()
        self.prepare = Preprocessing(**preprocessing)
        self.files = PredictFiles(paths, self.prepare, skip)
        self.batch_size, self.num_workers = batch_size, num_workers

    def predict_dataloader(self) -> DataLoader:
        batches = torch.arange(len(self.files)).split(self.batch_size)
        return DataLoader(
            self.files,
            sampler=batches,
            batch_size=None,  # the sampler's items are whole batches
            num_workers=min(self._workers(), len(batches)),
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        if self.trainer is None or self.trainer.strategy.root_device.type == "cpu":
            return 0  # where all cores compute, a process beside them slows them by more than it decodes
        return min(16, suggested_max_num_workers(1))

    def on_after_batch_transfer(self, batch: Part, dataloader_idx: int) -> Part:
        images, indices, broken = batch
        return self.prepare.normalize(images), indices, broken
