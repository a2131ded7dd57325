"""Backbones: plain ``nn.Module``s that map images ``(N, C, H, W)`` to logits ``(N, num_classes)``."""

from importlib import import_module

__all__ = ["LeNet", "ResNet"]


def __getattr__(name: str):
    """The networks are imported when they are asked for; ``models.form`` is to be had without torch."""
    if name in __all__:
        return getattr(import_module(f"models.{name.lower()}"), name)
    raise AttributeError(f"module 'models' has no attribute {name!r}")
