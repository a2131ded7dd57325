"""Fashion-MNIST (Xiao et al. 2017): 60,000 training and 10,000 test images of 28×28, grey, ten classes."""

import gzip
import struct
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from datamodules.base import ImageDataModule, TensorImages

# Where Debian's package dataset-fashion-mnist puts the four files.
DEBIAN_DIR = Path("/usr/share/datasets/fashion-mnist")


class FashionMNIST(ImageDataModule):
    """Looks in ``data_dir/FashionMNIST/raw``, then where Debian's package puts the files, then downloads."""

    class_names = tuple(datasets.FashionMNIST.classes)
    mean = (0.2860,)
    std = (0.3530,)

    def prepare_data(self) -> None:
        if not self._downloaded() and not DEBIAN_DIR.is_dir():
            self.download(datasets.FashionMNIST)

    def load(self, split: str) -> TensorImages | None:
        if split == "val":
            return None
        if self._downloaded():
            check_files(self._folder(), "train" if split == "train" else "t10k")
            data = datasets.FashionMNIST(self.data_dir, train=split == "train")
            images, labels = data.data, data.targets
        else:
            images, labels = read_files(DEBIAN_DIR, "train" if split == "train" else "t10k")
        return TensorImages(self.resize(images.unsqueeze(1)), labels.long())

    def _folder(self) -> Path:
        return Path(self.data_dir) / "FashionMNIST" / "raw"

    def _downloaded(self) -> bool:
        kinds = ("images-idx3", "labels-idx1")
        return all((self._folder() / f"{name}-{kind}-ubyte").is_file() for name in ("train", "t10k") for kind in kinds)


def check_files(folder: Path, name: str) -> None:
    """Raise a ValueError if what was downloaded is no longer what was published.

    The archives, where they are still there, are compared with torchvision's MD5 sums, and the files with the archives
    by gzip's own checksum and size.
    """
    for resource, md5 in datasets.FashionMNIST.resources:
        archive = folder / resource
        if not resource.startswith(name) or not archive.exists():
            continue
        if not check_integrity(str(archive), md5):
            raise ValueError(f"{archive} is not what was published (its MD5 sum is another); delete {folder}")
        content = archive.with_suffix("").read_bytes()
        if archive.read_bytes()[-8:] != struct.pack("<II", zlib.crc32(content), len(content)):
            raise ValueError(f"{archive.with_suffix('')} is not what {archive.name} holds; delete {folder}")


@lru_cache(maxsize=2)  # the jobs of a sweep share them
def read_files(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """Images ``(N, 28, 28)`` and labels ``(N,)``, both uint8, of ``train`` or ``t10k``."""
    return (
        read_idx(folder / f"{name}-images-idx3-ubyte.gz"),
        read_idx(folder / f"{name}-labels-idx1-ubyte.gz"),
    )


def read_idx(path: Path) -> Tensor:
    """Read a gzipped IDX file of bytes (LeCun's format: two zeros, type 8, rank, sizes, data) as uint8."""
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an IDX file of bytes")
    rank = content[3]
    shape = np.frombuffer(content, ">i4", count=rank, offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if len(values) != shape.prod():
        raise ValueError(f"{path} holds {len(values)} values where its header says {shape.prod()}")
    return torch.from_numpy(values.reshape(shape).copy())
