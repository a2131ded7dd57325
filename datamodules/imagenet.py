"""ImageNet."""

from datamodules.image_folder import ImageFolder


class ImageNet(ImageFolder):
    """``data_dir/{train,val}/n01440764/<image>`` …, as ILSVRC 2012 is usually unpacked.

    The 50,000 images in ``val``, on which papers report accuracies, are the test set; the best checkpoint is chosen on
    ``val_fraction`` of the training set.
    """

    split_folders = {"train": ("train",), "test": ("val",)}
