"""Backbones: ``nn.Module``s that map images ``(N, C, H, W)`` to logits ``(N, num_classes)``."""

from importlib import import_module

__all__ = ["LeNet", "ResNet"]


def __getattr__(name: str):
    """Import a network on first use, so that ``models.resnet_config`` can be imported without torch."""
    if name in __all__:
        return getattr(import_module(f"models.{name.lower()}"), name)
    raise AttributeError(f"module 'models' has no attribute {name!r}")
