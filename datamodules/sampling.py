"""Splits and the order of training images, as functions of the seed."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler


def random_key(*numbers: int) -> int:
    """A seed that depends only on the given numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(key: int) -> Iterator[None]:
    """Seed the global CPU generator, and restore the state afterwards."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(key)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split indices at random, the same fraction of each class.

    Args:
        labels: ``(N,)`` int64.
        fraction: share of each class in the second part, 0 < fraction < 1; at least one image of a class,
            and never all of them.

    Returns:
        Two sorted, disjoint index tensors that cover all N.
    """
    _check_fraction(fraction)
    generator = torch.Generator().manual_seed(seed)
    second = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=generator)]
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        second[members[:count]] = True
    return (~second).nonzero().squeeze(1), second.nonzero().squeeze(1)


def split_by_name(
    names: Sequence[str], labels: Tensor, fraction: float, seed: int, part: str, rest: int = 1
) -> tuple[Tensor, Tensor]:
    """Split indices by a hash of each name, so that adding or removing images moves no other image.

    The number of images matters only for a class that would have too few in a part: then the image with the smallest
    hash is in the second part, or those with the largest hashes are in the first.

    Args:
        names: of the images.
        labels: ``(N,)`` int64.
        fraction: mean share of the images in the second part, 0 < fraction < 1; at least one image of each class
            that has two.
        seed, part: of the hash.
        rest: minimum number of images of each class in the first part, if there are enough.

    Returns:
        Two sorted, disjoint index tensors that cover all N.
    """
    _check_fraction(fraction)
    hashes = torch.tensor([name_hash(name, seed, part) for name in names], dtype=torch.float64)
    order = hashes.argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]  # by class, then by hash
    sizes = labels.bincount()  # of each class
    counts = labels[hashes < fraction].bincount(minlength=len(sizes))  # in the second part
    counts = counts.clamp(min=1).minimum((sizes - rest).clamp(min=1)).minimum((sizes - 1).clamp(min=0))
    place = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[order]]  # within the class
    second = torch.zeros(len(labels), dtype=torch.bool)
    second[order] = place < counts[labels[order]]
    return (~second).nonzero().squeeze(1), second.nonzero().squeeze(1)


def split_by_group(
    groups: Sequence[str], fraction: float, seed: int, part: str, rest: int = 1
) -> tuple[Tensor, Tensor]:
    """Split indices by a hash of each image's group: all images of a group are in the same part.

    Args:
        groups: of the images.
        fraction: mean share of the groups in the second part, 0 < fraction < 1; at least one group.
        seed, part: of the hash.
        rest: minimum number of groups in the first part.

    Returns:
        Two sorted, disjoint index tensors that cover all N.

    Raises: ValueError: there are too few groups.
    """
    _check_fraction(fraction)
    hashes = {group: name_hash(group, seed, part) for group in set(groups)}
    ordered = sorted(hashes.values())
    if len(ordered) <= rest:
        raise ValueError(f"there are {len(ordered)} groups; splitting off {part} needs {rest + 1}")
    bound = min(max(fraction, ordered[0]), ordered[-1 - rest])
    second = torch.tensor([hashes[group] <= bound for group in groups])
    return (~second).nonzero().squeeze(1), second.nonzero().squeeze(1)


def assign_folds(names: Sequence[str], labels: Tensor, folds: int, seed: int) -> Tensor:
    """The fold of each image, ``(N,)`` int64, for cross-validation: stratified, and a function of the arguments.

    Distinct names, sorted by class and hash, are dealt to the folds in turn: the numbers of names of a class differ by
    at most 1 between folds. Images with the same name are in the same fold; the class of the last one counts.

    Args:
        names: of the images or their groups.
        labels: ``(N,)`` int64.
        folds: number of folds, at least 2.
        seed: of the hash.

    Raises: ValueError: there are fewer names than folds.
    """
    classes = dict(zip(names, labels.tolist(), strict=True))
    if len(classes) < folds:
        raise ValueError(f"folds={folds} is more than there are images or groups of images: {len(classes)}")
    dealt = sorted(classes, key=lambda name: (classes[name], name_hash(name, seed, "fold")))
    fold = {name: place % folds for place, name in enumerate(dealt)}
    return torch.tensor([fold[name] for name in names])


def name_hash(name: str, seed: int, part: str) -> float:
    """A pseudorandom number, 0 ≤ x < 1, that depends only on the arguments."""
    digest = blake2b(os.fsencode(f"{seed}/{part}/{name}"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction to split off is {fraction}; expected a number between 0 and 1, such as 0.1")


class BatchKey(NamedTuple):
    """The request for a batch: the images, the epoch, and the seed of everything random in it."""

    indices: Tensor  # (N,) int64
    epoch: int = 0
    key: int = 0


class BatchSampler(Sampler):
    """Yields a ``BatchKey`` for each batch, which depends only on (seed, epoch, batch).

    With several processes (``world_size``), each gets an equal share of every training batch, and images that do not
    fill a batch are left out; in evaluation every image occurs exactly once.

    If ``weights`` is set, ``(N,)`` float, the N images of an epoch are drawn with replacement, with probabilities in
    proportion to the weights.

    The indices are on ``device``: the order of an epoch is copied there once, so that no batch waits for a copy.

    ``first`` is the first batch of ``epoch``: not 0 if a run resumes within an epoch. ``len`` is always that of a full
    epoch.
    """

    weights: Tensor | None = None

    def __init__(self, size, batch_size, seed, training, shuffle, rank=0, world_size=1, device="cpu", epoch=0, first=0):
        self.device = device
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.training, self.shuffle = training, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch, self.first = epoch, first

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        total = self.batch_size * self.world_size
        return self.size // total if self.training else -(-self.size // total)

    def __iter__(self) -> Iterator[BatchKey]:
        first, self.first = self.first, 0
        generator = torch.Generator().manual_seed(random_key(self.seed, self.epoch))
        if self.weights is not None:
            order = torch.multinomial(self.weights, self.size, replacement=True, generator=generator)
        elif self.shuffle:
            order = torch.randperm(self.size, generator=generator)
        else:
            order = torch.arange(self.size)
        order = order.to(self.device)
        shares = len(self) * self.world_size
        if self.training:
            parts = order[: shares * self.batch_size].split(self.batch_size)
        elif self.world_size == 1:
            parts = order.split(self.batch_size)
        else:  # sizes differ by at most one, so that every process has an image
            parts = order.tensor_split(shares)
        numbers = range(first * self.world_size + self.rank, shares, self.world_size)
        keys = [random_key(self.seed, self.epoch, number) for number in numbers]  # at once: 6 µs each instead of 100
        for number, key in zip(numbers, keys, strict=True):
            yield BatchKey(parts[number], self.epoch, key)


def check_sampling(sampling: str | None, shuffle: bool) -> None:
    """Raise a ValueError for an unknown way to draw training images, or one that shuffle=false rules out."""
    if sampling not in (None, "balanced"):
        raise ValueError(f"sampling={sampling} is neither null nor balanced")
    if sampling and not shuffle:
        raise ValueError("sampling=balanced draws images at random; expected shuffle=true")


def check_folds(folds: int | None, fold: int) -> None:
    """Raise a ValueError for a fold that does not exist."""
    if folds is None and fold != 0:
        raise ValueError(f"fold={fold} needs the number of folds: datamodule.folds=5")
    if folds is not None and not (folds >= 2 and 0 <= fold < folds):
        raise ValueError(f"fold={fold} of folds={folds}; expected 2 folds or more, numbered from 0 to folds - 1")
