"""Decode image files of any kind to 8 bits per channel."""

import os
import stat
import warnings
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from datamodules.transform_checks import TransformError
from results.record import one_line

# PIL warns about unusual metadata, torchvision about the removal of the decoder, for each file. A filter per file would
# take longer than decoding a small file.
warnings.filterwarnings("ignore", module=r"PIL\b|torchvision\.io\b")
MODES = {1: ("L", "GRAY"), 3: ("RGB", "RGB")}  # channels → PIL's name and torchcodec's
MAX_BYTES = 32 * Image.MAX_IMAGE_PIXELS  # of a file: the largest image that PIL opens, at 128 bits per pixel


def read_image(path: str, channels: int = 3) -> Tensor:
    """Decode a file and apply the EXIF orientation: ``(channels, h, w)`` uint8.

    Transparent pixels become white; more than 8 bits are scaled to 8; of several frames, the first is used.

    Args:
        channels: 1 (grey) or 3 (RGB).

    Raises:
        ValueError: the file cannot be read as an image; names the file.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a regular file")  # opening a pipe would block
        if status.st_size > MAX_BYTES:
            raise ValueError(f"it has {status.st_size / 2**30:,.1f} GiB; expected at most {MAX_BYTES / 2**30:.1f}")
        with Image.open(path) as image:  # reads only the header, and rejects images that would fill the memory
            pixels = _decode_fast(path, image, channels)
            return _decode_by_pil(image, channels) if pixels is None else pixels
    except Exception as error:  # PIL raises a dozen types for damaged files
        raise ValueError(f"{path} cannot be read as an image: {one_line(error)}") from error


def read_and_transform(path: str, channels: int, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """Decode a file as ``read_image`` does, and transform the image.

    Raises:
        TransformError: the transform itself is wrong.
        ValueError: the file cannot be read or transformed; names the file.
    """
    image = read_image(path, channels)
    try:
        return transform(image)
    except TransformError:
        raise
    except Exception as error:  # such as a RuntimeError of torch's allocator
        height, width = image.shape[1:]
        raise ValueError(f"{path} ({width}×{height} pixels) cannot be transformed: {one_line(error)}") from error


@cache
def fast_decoder() -> Callable[..., Tensor] | None:
    """torchcodec's decoder (an extra), otherwise torchvision's (deprecated), otherwise None."""
    try:
        from torchcodec.decoders import decode_image

        return partial(decode_image, output_dtype="auto")
    except (ImportError, OSError, RuntimeError):  # not installed, or incompatible with this torch
        pass
    try:
        from torchvision.io import decode_image

        return partial(decode_image, apply_exif_orientation=True)
    except ImportError:
        return None


def _decode_fast(path: str, image: Image.Image, channels: int) -> Tensor | None:
    """The pixels of an ordinary JPEG or PNG, the same as PIL's but faster; None if PIL must decode the file."""
    ordinary = image.mode == "L" or image.mode == "RGB" and channels == 3
    decode = fast_decoder()
    if decode is None or image.format not in ("JPEG", "PNG") or not ordinary or image.has_transparency_data:
        return None
    try:
        pixels = decode(path, mode=MODES[channels][1])
    except RuntimeError:
        return None  # PIL may read the file, or raises a clearer error
    return pixels if pixels.dtype == torch.uint8 else None  # a 16-bit PNG


def _decode_by_pil(image: Image.Image, channels: int) -> Tensor:
    image = _eight_bits(ImageOps.exif_transpose(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return pil_to_tensor(image.convert(MODES[channels][0]))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16 bits and fractions by the full range, other values by the image's range; PIL would clip them."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.nan_to_num(np.array(image, dtype=np.float32), copy=False)  # (h, w)
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I;16"):
        low, high = 0, 65535
    elif low >= 0 and high <= 1:  # fractions
        low, high = 0, 1
    scale = 255 / max(high - low, 1e-30)
    values *= scale  # in place: a large image takes gigabytes
    values -= low * scale
    return Image.fromarray(np.rint(values, out=values).clip(0, 255).astype(np.uint8))
