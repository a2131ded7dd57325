"""Data modules that deliver ``(images, labels)``.

Images are ``(N, C, H, W)`` float32, normalised and, in training, augmented. Labels are ``(N,)`` int64; with ``mixup``
or ``cutmix``, training labels are ``(N, num_classes)`` float32.
"""

from importlib import import_module

# Class → file. Checkpoints may build data sets and batch transforms: add a new one here to put it on the allow-list.
DATA_SETS = {
    "CIFAR10": "cifar",
    "CIFAR100": "cifar",
    "CatsVsDogs": "cats_vs_dogs",
    "Digits": "digits",
    "FashionMNIST": "fashion_mnist",
    "Hub": "hub",
    "ImageFolder": "image_folder",
    "ImageNet": "imagenet",
    "Synthetic": "synthetic",
    "Table": "table",
    "TorchvisionFiles": "torchvision_sets",
    "TorchvisionTensors": "torchvision_sets",
}
BATCH_TRANSFORMS = dict.fromkeys(
    ("AlternatingFlip", "PerImage", "RandomAffine", "RandomCrop", "RandomErasing", "RandomHorizontalFlip"),
    "batch_transforms",
)
_MODULES = {
    **DATA_SETS,
    **BATCH_TRANSFORMS,
    "ImageDataModule": "base",
    "PredictImages": "predict_images",
    "Preprocessing": "preprocessing",
    "TensorImages": "tensor_dataset",
}
__all__ = list(_MODULES)


def __getattr__(name: str):
    """Import a class on first use, so that ``datamodules.image_paths`` can be imported without torch."""
    if name in _MODULES:
        return getattr(import_module(f"datamodules.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'datamodules' has no attribute {name!r}")
