"""Fashion-MNIST (Xiao et al. 2017): 60,000 training and 10,000 test images of 28×28, grey, ten classes."""

import gzip
import hashlib
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from datamodules.base import ImageDataModule, download
from datamodules.tensor_dataset import TensorImages

# The four files of Debian's package dataset-fashion-mnist
DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")
# SHA-256 of the unpacked files, the same in torchvision's archives and Debian's
PUBLISHED = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


class FashionMNIST(ImageDataModule):
    """Read from ``data_dir/FashionMNIST/raw``, otherwise from Debian's package, otherwise downloaded."""

    class_names = tuple(datasets.FashionMNIST.classes)
    mean = (0.2860,)
    std = (0.3530,)

    def prepare_data(self) -> None:
        if not self._downloaded() and not DEBIAN_DIR.is_dir():
            download(datasets.FashionMNIST, self.data_dir)

    @property
    def source_folder(self) -> Path:
        return self._folder() if self._downloaded() else DEBIAN_DIR

    def load(self, split: str) -> TensorImages | None:
        if split == "val":
            return None
        folder, ending = (self._folder(), "") if self._downloaded() else (DEBIAN_DIR, ".gz")
        images, labels = read_files(folder, "train" if split == "train" else "t10k", ending)
        return TensorImages(self.resize(images.unsqueeze(1)), labels.long())

    def _folder(self) -> Path:
        return Path(self.data_dir) / "FashionMNIST" / "raw"

    def _downloaded(self) -> bool:
        return all((self._folder() / name).is_file() for name in PUBLISHED)


@lru_cache(maxsize=2)  # unpacking takes 0.3 s; shared by the jobs of a sweep
def read_files(folder: Path, name: str, ending: str) -> tuple[Tensor, Tensor]:
    """Images ``(N, 28, 28)`` and labels ``(N,)``, both uint8, of ``train`` or ``t10k``.

    Raises: ValueError: a file differs from the published one.
    """
    images, labels = (folder / f"{name}-{kind}-ubyte{ending}" for kind in ("images-idx3", "labels-idx1"))
    return read_idx(images), read_idx(labels)


def read_idx(path: Path) -> Tensor:
    """Read a published IDX file of bytes (LeCun's format: two zeros, type 8, rank, sizes, data) as uint8.

    Raises: ValueError: it differs from the published one.
    """
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        # Hashing takes 0.05 s for all four files.
        is_published = hashlib.sha256(content).hexdigest() == PUBLISHED[path.name.removesuffix(".gz")]
    except (OSError, EOFError, zlib.error):  # it cannot be unpacked
        is_published = False
    if not is_published:
        raise ValueError(f"{path} differs from the published file (SHA-256); delete it to download it again")
    rank = content[3]
    shape = np.frombuffer(content, ">i4", count=rank, offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    return torch.from_numpy(values.reshape(shape).copy())
