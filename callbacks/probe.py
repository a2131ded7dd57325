"""Run the network outside the training loop without side effects on buffers, modes and random generators."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from callbacks.contracts import ImageClassifier


@contextmanager
def preserve_state(network: nn.Module) -> Iterator[None]:
    """After the block, restore what forward passes change: buffers, modes, the global random generators."""
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    modes = [(module, module.training) for module in network.modules()]
    with isolate_rng():
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, saved in buffers:
                    buffer.copy_(saved)
            for module, training in modes:
                module.training = training


def fixed_indices(trainer: Trainer, split: str, count: int) -> Tensor:
    """Indices of at most ``count`` images, in a fixed random order."""
    return torch.randperm(len(trainer.datamodule.sets[split]), generator=torch.Generator().manual_seed(0))[:count]


def eval_batch(trainer: Trainer, split: str, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Images ``(N, C, H, W)`` as the network sees them in evaluation, and labels ``(N,)``, on the device."""
    device = trainer.strategy.root_device
    images, labels = trainer.datamodule.fetch(split, indices)
    images = trainer.precision_plugin.convert_input(trainer.datamodule.normalize(images.to(device)))
    return images, labels.to(device)


def forward_logits(trainer: Trainer, pl_module: ImageClassifier, images: Tensor) -> Tensor:
    """Logits ``(N, num_classes)`` float32, computed in the run's precision, without compiled code."""
    with trainer.precision_plugin.forward_context():
        return pl_module.backbone.forward(images.contiguous(memory_format=pl_module.memory_format)).float()
