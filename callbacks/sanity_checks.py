"""What would end a training later, or spoil it, found before its first step."""

import logging
import math
import os
import shutil
from pathlib import Path

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch.nn import functional as F
from torch.utils.data import Dataset

from callbacks.probe import batch, logits, some, untouched

log = logging.getLogger(__name__)
IMAGES = 16  # that the network is shown
FILES = 32  # of each part, that are decoded
SIZES = 10_000  # files of which the smallest is looked for: it is the likeliest to be broken
# Of a weight's bytes: itself, and the momentum that most optimizers keep; twice, for the best and the last.
CHECKPOINTS = 2 * 2


class SanityChecks(Callback):
    """Looks at labels, image files, disk and network; it draws no random number and changes neither weights nor
    statistics, so that the training is the same in every bit.

    A label out of range, a file that is no image, a disk without room and numbers that are not finite are errors; a
    first loss far above that of guessing is a warning. Of the files some are decoded, spread over all of them. Of the
    test set labels and files are looked at, lest a training end without a test.

    Args:
        dirpath: the folder of the checkpoints.
    """

    def __init__(self, dirpath: str):
        self.dirpath = dirpath

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises: ValueError, OSError: one line that says what to do."""
        if trainer.checkpoint_callbacks and "://" not in self.dirpath:
            check_room(Path(self.dirpath), sum(p.nbytes for p in pl_module.parameters()))
        sets = getattr(trainer.datamodule, "sets", {})
        if sets:
            trainer.datamodule.setup("test")
            log.info(f"{'images':<12} {'  '.join(f'{split} {len(images):,}' for split, images in sets.items())}")
        for split in sets:
            check_labels(sets[split], split, pl_module.num_classes)
            check_files(trainer.datamodule, split)
        if "train" in sets:
            check_network(trainer, pl_module)


def check_room(folder: Path, weights: int) -> None:
    """Raise if two checkpoints with so many bytes of weights do not fit into a folder, which need not be there yet."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free, needed = shutil.disk_usage(there).free, CHECKPOINTS * weights
    if free < needed:
        raise OSError(
            f"{there} has room for {free / 2**20:,.0f} MiB, and two checkpoints of this network need some "
            f"{needed / 2**20:,.0f} MiB; make room, or put the run elsewhere with hydra.run.dir=…"
        )


def check_labels(images: Dataset, split: str, num_classes: int) -> None:
    """Raise if a label is none of 0 to num_classes - 1, as int64."""
    labels = images.labels
    if labels.dtype != torch.int64:
        raise ValueError(f"the labels of {split} are {labels.dtype}; expected torch.int64")
    for label in (labels.min().item(), labels.max().item()):
        if not 0 <= label < num_classes:
            raise ValueError(
                f"{split} has the label {label} with num_classes={num_classes}; expected 0 to {num_classes - 1}"
            )


def check_files(data: LightningDataModule, split: str) -> None:
    """Raise if one of some files cannot be decoded; nothing where the images are no files."""
    samples = getattr(data.sets[split], "samples", [])
    if not samples:
        return

    def spread(most: int) -> list[int]:
        return torch.linspace(0, len(samples) - 1, min(most, len(samples))).long().tolist()

    smallest = min(spread(SIZES), key=lambda index: os.path.getsize(samples[index][0]))
    for index in [smallest, *spread(FILES)]:
        data.fetch(split, torch.tensor([index]))  # names the file


def check_network(trainer: Trainer, pl_module: LightningModule) -> None:
    """Show the network some training images, as the first step would, and look at what it gives.

    It is in training mode: in evaluation mode a new network with batch norm normalises nothing, and a deep one gives
    logits in the thousands.
    """
    images, labels = batch(trainer, "train", some(trainer, "train", IMAGES))
    with torch.no_grad(), untouched(pl_module.backbone):
        pl_module.backbone.train()
        found = logits(trainer, pl_module, images)
    classes = pl_module.num_classes
    if found.shape != (len(labels), classes):
        return  # the Classifier says what it expects
    if not found.isfinite().all():
        raise ValueError(
            f"before any training the network's output is not finite, with trainer.precision={trainer.precision}; try "
            "32-true, and look at the weights that it starts from"
        )
    loss, guessing = F.cross_entropy(found, labels).item(), math.log(classes)
    if loss > 2 * guessing + 2 and not trainer.ckpt_path:
        log.warning(
            f"the first loss is {loss:.1f}, and guessing among {classes} classes has {guessing:.1f}: the network "
            "starts sure of wrong answers; look at its initial weights, and at the images' mean and std"
        )
