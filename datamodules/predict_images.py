"""Image files to predict."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from lightning.fabric.utilities.data import suggested_max_num_workers
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.image_files import ImageFiles
from datamodules.preprocessing import Preprocessing
from datamodules.sampling import BatchKey, BatchSampler
from datamodules.tensor_dataset import Batch


class PredictImages(LightningDataModule):
    """Image files in the given order, preprocessed for a network. The label of a file is the index in ``paths``.

    A batch is ``(images, indices, errors)``: ``(n, in_channels, image_size, image_size)`` float32, ``(n,)`` int64,
    and (index, message) of each file that was skipped; n may be 0.

    Args:
        paths: of the files.
        preprocessing: of the network.
        batch_size: files per batch.
        num_workers: decoding processes; None: for a GPU one per core but one, at most 16; otherwise 0.
        on_error: for a file that cannot be read: ``raise`` an error or ``skip`` the file.
    """

    def __init__(
        self,
        paths: Sequence[str],
        preprocessing: Mapping[str, Any],
        batch_size: int = 128,
        num_workers: int | None = None,
        on_error: str = "skip",
    ):
        super().__init__()
        self.prepare = Preprocessing(**preprocessing)
        samples = [(path, index) for index, path in enumerate(paths)]
        self.files = ImageFiles(samples, self.prepare.in_channels, self.prepare.fit, on_error=on_error)
        self.batch_size, self.num_workers = batch_size, num_workers

    def read(self, indices: Tensor) -> Batch:
        """Images before normalisation, without those that cannot be read."""
        return self.files[BatchKey(indices)]

    def predict_dataloader(self) -> DataLoader:
        sampler = BatchSampler(len(self.files), self.batch_size, seed=0, training=False, shuffle=False)
        return DataLoader(
            self.files,
            sampler=sampler,
            batch_size=None,  # the sampler's items are whole batches
            num_workers=min(self._workers(), len(sampler)),
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        if self.trainer is None or self.trainer.strategy.root_device.type == "cpu":
            return 0  # workers would slow down the network more than decoding does
        return min(16, suggested_max_num_workers(1))

    def on_after_batch_transfer(
        self, batch: Batch, dataloader_idx: int
    ) -> tuple[Tensor, Tensor, Sequence[tuple[int, str]]]:
        return self.prepare.normalize(batch.images), batch.labels, batch.errors
