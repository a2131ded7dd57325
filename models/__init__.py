"""Backbones: plain ``nn.Module``s that map images ``(N, C, H, W)`` to logits ``(N, num_classes)``."""

from models.lenet import LeNet
from models.resnet import ResNet

__all__ = ["LeNet", "ResNet"]
