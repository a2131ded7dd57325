"""Asking a network something beside its training, which goes on as if nobody had."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn


@contextmanager
def untouched(network: nn.Module) -> Iterator[None]:
    """Put back what forward passes in this block change: buffers, modes, the global random generators."""
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    modes = [(module, module.training) for module in network.modules()]
    with isolate_rng():
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, kept in buffers:
                    buffer.copy_(kept)
            for module, training in modes:
                module.training = training


def some(trainer: Trainer, split: str, most: int) -> Tensor:
    """Indices of so many images at most, in an order without a pattern, always the same."""
    return torch.randperm(len(trainer.datamodule.sets[split]), generator=torch.Generator().manual_seed(0))[:most]


def batch(trainer: Trainer, split: str, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Images ``(N, C, H, W)`` as the network sees them, without augmentation on the device, and labels ``(N,)``."""
    device = trainer.strategy.root_device
    images, labels = trainer.datamodule.fetch(split, indices)
    images = trainer.precision_plugin.convert_input(trainer.datamodule.normalize(images.to(device)))
    return images, labels.to(device)


def logits(trainer: Trainer, pl_module: LightningModule, images: Tensor) -> Tensor:
    """``(N, num_classes)`` float32, in the run's precision. Past torch.compile, which would compile for this alone."""
    with trainer.precision_plugin.forward_context():
        return pl_module.backbone.forward(images.contiguous(memory_format=pl_module.memory_format)).float()
