"""ImageNet."""

from datamodules.image_folder import ImageFolder


class ImageNet(ImageFolder):
    """``data_dir/{train,val}/n01440764/<image>`` …, as ILSVRC 2012 is usually unpacked.

    What it calls ``val``, the 50,000 images that the literature reports on, is the test set; the best checkpoint is
    chosen by ``val_fraction`` of the training set.
    """

    parts = {"train": ("train",), "test": ("val",)}
