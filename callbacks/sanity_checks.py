"""Before the first step, find errors that would otherwise end or spoil the training later."""

import logging
import math
import os
import shutil
from pathlib import Path

import torch
from lightning import Callback, Trainer
from torch.nn import functional as F
from torch.utils.data import Dataset

from callbacks.contracts import ImageClassifier, ImageData
from callbacks.probe import eval_batch, fixed_indices, forward_logits, preserve_state

log = logging.getLogger(__name__)
IMAGES = 16  # run through the network
FILES = 32  # decoded, per split
SIZES = 10_000  # files whose sizes are compared: the smallest file is the likeliest to be broken
# Size of the checkpoints, in sizes of the weights: weights and momentum, for each of best and last.
CHECKPOINTS = 2 * 2
IMBALANCE = 10  # ratio of the largest to the smallest class above which to warn


class SanityChecks(Callback):
    """Check labels, image files, free disk space and the network. Draws no random numbers and changes no weights or
    statistics, so that every bit of the training stays the same.

    A label out of range, a file that is not an image, a full disk and an output that is NaN or infinite are errors; a
    first loss far above that of guessing, and classes of very different sizes, are warnings. Some files are decoded,
    spread over each split. Labels and files of the test set are checked too, so that no training ends without a test.

    Args:
        dirpath: the folder of the checkpoints.
    """

    def __init__(self, dirpath: str):
        self.folder = dirpath  # not named dirpath: a resumed run may have another

    def on_fit_start(self, trainer: Trainer, pl_module: ImageClassifier) -> None:
        """Raises: ValueError, OSError: one line with a remedy."""
        if trainer.checkpoint_callbacks and "://" not in self.folder:
            check_room(Path(self.folder), sum(p.nbytes for p in pl_module.parameters()))
        sets = getattr(trainer.datamodule, "sets", {})
        if sets:
            trainer.datamodule.setup("test")
            log.info(f"{'images':<12} {'  '.join(f'{split} {len(images):,}' for split, images in sets.items())}")
        for split in sets:
            check_labels(sets[split], split, pl_module.num_classes)
            check_files(trainer.datamodule, split)
        if "train" in sets:
            check_balance(trainer, pl_module)
            check_network(trainer, pl_module)


def check_room(folder: Path, weights: int) -> None:
    """Raise an OSError if two checkpoints do not fit into a folder, which may not exist. ``weights`` is in bytes."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free, needed = shutil.disk_usage(existing).free, CHECKPOINTS * weights
    if free < needed:
        raise OSError(
            f"{existing} has room for {free / 2**20:,.0f} MiB, and two checkpoints of this network need about "
            f"{needed / 2**20:,.0f} MiB; make room, or put the run elsewhere with hydra.run.dir=…"
        )


def check_labels(images: Dataset, split: str, num_classes: int) -> None:
    """Raise a ValueError if a label is not an int64 from 0 to num_classes - 1."""
    labels = images.labels
    if labels.dtype != torch.int64:
        raise ValueError(f"the labels of {split} are {labels.dtype}; expected torch.int64")
    for label in (labels.min().item(), labels.max().item()):
        if not 0 <= label < num_classes:
            raise ValueError(
                f"{split} has the label {label} with num_classes={num_classes}; expected 0 to {num_classes - 1}"
            )


def check_balance(trainer: Trainer, pl_module: ImageClassifier) -> None:
    """Warn if the largest class has ten times the training images of the smallest, and nothing compensates."""
    counts = trainer.datamodule.sets["train"].labels.bincount(minlength=pl_module.num_classes)
    most, least = counts.argmax().item(), counts.argmin().item()
    handled = getattr(trainer.datamodule, "sampling", None) or getattr(pl_module, "class_weights", None)
    if counts[most] >= IMBALANCE * counts[least] and not handled:
        names = pl_module.class_names
        log.warning(
            f"{'imbalance':<12} train has {counts[most]:,} images of {names[most]} and {counts[least]:,} of "
            f"{names[least]}; look at val/f1_macro, and try lit_module.class_weights=balanced or "
            "datamodule.sampling=balanced"
        )


def check_files(data: ImageData, split: str) -> None:
    """Raise a ValueError if one of a sample of files cannot be decoded; images in memory are not checked."""
    samples = getattr(data.sets[split], "samples", [])
    if not samples:
        return

    def spread(count: int) -> list[int]:
        return torch.linspace(0, len(samples) - 1, min(count, len(samples))).long().tolist()

    smallest = min(spread(SIZES), key=lambda index: os.path.getsize(samples[index][0]))
    for index in [smallest, *spread(FILES)]:
        data.fetch(split, torch.tensor([index]))  # raises an error with the path


def check_network(trainer: Trainer, pl_module: ImageClassifier) -> None:
    """Check the network's output for some training images, in training mode.

    In evaluation mode a new network with batch norm does not normalise, and a deep one has logits in the thousands.
    """
    images, labels = eval_batch(trainer, "train", fixed_indices(trainer, "train", IMAGES))
    with torch.no_grad(), preserve_state(pl_module.backbone):
        pl_module.backbone.train()
        logits = forward_logits(trainer, pl_module, images)
    classes = pl_module.num_classes
    if logits.shape != (len(labels), classes):
        return  # the Classifier raises an error with the expected shape
    if not logits.isfinite().all():
        raise ValueError(
            f"the untrained network's output is NaN or infinite, with trainer.precision={trainer.precision}; try "
            "32-true, and check the initial weights"
        )
    loss, guessing = F.cross_entropy(logits, labels).item(), math.log(classes)
    if loss > 2 * guessing + 2 and not trainer.ckpt_path:
        log.warning(
            f"the first loss is {loss:.1f}, but guessing among {classes} classes has {guessing:.1f}: the network "
            "starts with confident errors; check the initial weights and datamodule.mean and std"
        )
