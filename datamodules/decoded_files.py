"""Image files that are decoded once, at the start of a training, and kept in memory."""

import logging
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from datamodules.decoding import read_and_transform
from datamodules.image_files import ImageFiles, ProgressLogger
from datamodules.tensor_dataset import TensorImages

log = logging.getLogger(__name__)
MEMORY_SHARE = 1 / 3  # of the free memory, for cache=auto
SAMPLED = 100  # files whose headers are read for the image size


class DecodedFiles(TensorImages):
    """Decoded image files in memory.

    Args:
        files: the decoded files.
        images: ``(N, c, H, W)`` uint8, in the order of the files.
    """

    def __init__(self, files: ImageFiles, images: Tensor):
        super().__init__(images, files.labels)
        self.files, self.keys = files, files.keys

    def subset(self, indices: Tensor, training: bool) -> ImageFiles:
        """Some of the files, to be decoded again: training and evaluation need different pixels."""
        return self.files.subset(indices, training)


def decode_files(files: ImageFiles, transform: Callable[[Tensor], Tensor], side: int) -> tuple[DecodedFiles, Tensor]:
    """Decode all files, in threads.

    Args:
        transform: ``(c, h, w)`` uint8 of any size → ``(c, side, side)`` uint8; draws no random numbers.

    Returns:
        The images; width / height of each file, ``(N,)`` float32.

    Raises: ValueError: a file cannot be read or transformed; names the file.
    """
    images, aspects = torch.empty(len(files), files.channels, side, side, dtype=torch.uint8), torch.empty(len(files))
    count = ProgressLogger(len(files), "images decoded")

    def decode(index: int) -> None:
        def measured(image: Tensor) -> Tensor:
            aspects[index] = image.shape[2] / image.shape[1]
            return transform(image)

        try:
            images[index] = read_and_transform(files.samples[index][0], files.channels, measured)
        except ValueError as error:
            raise ValueError(f"{error}{files.hint}") from error

    with ThreadPoolExecutor() as pool:  # decoding releases Python's lock
        for start in range(0, len(files), 1000):  # in blocks, so that an error ends it soon
            for _ in pool.map(decode, range(start, min(start + 1000, len(files)))):
                count()
    return DecodedFiles(files, images), aspects


def smallest_side(files: ImageFiles, image_size: int, crop_scale: Sequence[float] | None) -> int:
    """The smallest square size at which random crops have at least ``image_size`` pixels a side, or all of the file's.

    Args:
        crop_scale: bounds of a crop's area as a share of the image; None: images are not cropped.
    """
    if crop_scale is None:
        return image_size
    sides = []
    for index in torch.linspace(0, len(files) - 1, min(SAMPLED, len(files))).long().tolist():
        try:
            with Image.open(files.samples[index][0]) as image:  # reads the header only
                sides += image.size
        except Exception:  # PIL raises a dozen types; the file is named when it is decoded
            continue
    needed = math.ceil(image_size / math.sqrt(crop_scale[0]))
    return min(needed, max(sides, default=needed))


def free_memory() -> int:
    """Bytes of memory that a program could allocate now; 0 if unknown."""
    meminfo, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    elif hasattr(os, "sysconf"):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        return 0
    text = limit.read_text().strip() if limit.exists() else "max"  # of a container
    return free if text == "max" else min(free, int(text))


def fits(nbytes: int, processes: int) -> bool:
    """Whether images of this size fit into each process's share of the memory; logs it if not."""
    free = free_memory()
    if nbytes * processes <= free * MEMORY_SHARE:
        return True
    share = f"a third of the free memory ({free * MEMORY_SHARE / processes / 1e6:,.0f} MB"
    each = " for each process" if processes > 1 else ""
    log.info(
        f"{'cache':<12} none: the images need {nbytes / 1e6:,.0f} MB, more than {share}{each}); files are decoded in "
        "each epoch"
    )
    return False
