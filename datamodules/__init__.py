"""Data sets as LightningDataModules that deliver ``(images, labels)``.

Images arrive as ``(N, C, H, W)`` float32, normalised and, in training, augmented; labels as ``(N,)`` int64, or mixed
in training (``mixup``, ``cutmix``) as ``(N, num_classes)`` float32.
"""

from datamodules.base import ImageDataModule
from datamodules.cats_vs_dogs import CatsVsDogs
from datamodules.cifar import CIFAR10, CIFAR100
from datamodules.digits import Digits
from datamodules.fashion_mnist import FashionMNIST
from datamodules.image_folder import ImageFolder
from datamodules.imagenet import ImageNet
from datamodules.preprocessing import Preprocessing
from datamodules.scored import Scored
from datamodules.synthetic import Synthetic
from datamodules.tensor_images import TensorImages
from datamodules.transforms import AlternatingFlip, PerImage, RandomCrop, RandomErasing, RandomHorizontalFlip
from datamodules.unlabelled import Unlabelled

__all__ = [
    "AlternatingFlip",
    "CIFAR10",
    "CIFAR100",
    "CatsVsDogs",
    "Digits",
    "FashionMNIST",
    "ImageDataModule",
    "ImageFolder",
    "ImageNet",
    "PerImage",
    "Preprocessing",
    "RandomCrop",
    "RandomErasing",
    "RandomHorizontalFlip",
    "Scored",
    "Synthetic",
    "TensorImages",
    "Unlabelled",
]
