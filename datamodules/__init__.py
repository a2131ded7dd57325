"""Data modules that deliver ``(images, labels)``.

Images arrive as ``(N, C, H, W)`` float32, normalised and, in training, augmented; labels as ``(N,)`` int64, or mixed
in training (``mixup``, ``cutmix``) as ``(N, num_classes)`` float32.
"""

from importlib import import_module

_MODULES = {
    "AlternatingFlip": "batch_transforms",
    "CIFAR10": "cifar",
    "CIFAR100": "cifar",
    "CatsVsDogs": "cats_vs_dogs",
    "Digits": "digits",
    "FashionMNIST": "fashion_mnist",
    "ImageDataModule": "base",
    "ImageFolder": "image_folder",
    "ImageNet": "imagenet",
    "PerImage": "batch_transforms",
    "PredictImages": "predict_images",
    "Preprocessing": "preprocessing",
    "RandomCrop": "batch_transforms",
    "RandomErasing": "batch_transforms",
    "RandomHorizontalFlip": "batch_transforms",
    "Synthetic": "synthetic",
    "TensorImages": "tensor_dataset",
}
__all__ = list(_MODULES)


def __getattr__(name: str):
    """Import a class on first use, so that ``datamodules.image_paths`` can be imported without torch."""
    if name in _MODULES:
        return getattr(import_module(f"datamodules.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'datamodules' has no attribute {name!r}")
