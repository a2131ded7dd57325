"""Which images come when: the split and the order, as functions of the seed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler


def random_key(*numbers: int) -> int:
    """A seed that is a function of the given numbers and nothing else."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(key: int) -> Iterator[None]:
    """The CPU's global generator begins at a key, and goes on afterwards as if nothing had been drawn."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(key)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split indices at random so that each class gives the same fraction.

    Args:
        labels: ``(N,)`` int64.
        fraction: of each class to put in the second part, 0 < fraction < 1; at least one image of a class,
            and never all of them.

    Returns:
        Two sorted index tensors, disjoint, together all N.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction to split off is {fraction}; expected a number between 0 and 1, say 0.1")
    generator = torch.Generator().manual_seed(seed)
    second = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=generator)]
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        second[members[:count]] = True
    return (~second).nonzero().squeeze(1), second.nonzero().squeeze(1)


class Draw(NamedTuple):
    """A batch that is asked for: which images, in which epoch, and the seed of all that is random about it."""

    indices: Tensor  # (N,) int64
    epoch: int = 0
    key: int = 0


class BatchSampler(Sampler):
    """Yields a ``Draw`` for each batch, which is a function of (seed, epoch, batch) alone.

    With several processes (``world_size``), each takes its share of every batch. In training all shares are
    equal and images that do not fill a batch are left out; otherwise every image comes exactly once.

    The indices are on ``device``: an epoch's order is copied there once, so that no batch waits for a copy.

    ``first`` is the batch at which the first epoch begins: not 0 where a run goes on in the middle of ``epoch``. The
    length stays that of a whole epoch.
    """

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

    def __iter__(self) -> Iterator[Draw]:
        first, self.first = self.first, 0
        if self.shuffle:
            generator = torch.Generator().manual_seed(random_key(self.seed, self.epoch))
            order = torch.randperm(self.size, generator=generator)
        else:
            order = torch.arange(self.size)
        order = order.to(self.device)
        shares = len(self) * self.world_size
        if self.training:
            parts = order[: shares * self.batch_size].split(self.batch_size)
        elif self.world_size == 1:
            parts = order.split(self.batch_size)
        else:  # sizes that differ by one at most, so that no process is left without an image
            parts = order.tensor_split(shares)
        numbers = range(first * self.world_size + self.rank, shares, self.world_size)
        keys = [random_key(self.seed, self.epoch, number) for number in numbers]  # 6 µs each; each in its step, 100
        for number, key in zip(numbers, keys, strict=True):
            yield Draw(parts[number], self.epoch, key)
