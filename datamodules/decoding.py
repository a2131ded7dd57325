"""An image file of any kind, decoded to 8 bits a channel."""

import os
import stat
import struct
import warnings
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode
from torchvision.transforms.v2.functional import pil_to_tensor

from results.record import out_of_memory

# Of more, PIL decodes nothing: a small file could fill the memory.
MOST_PIXELS = 2 * Image.MAX_IMAGE_PIXELS
# Larger files are not opened: four channels of 32 bits a pixel take no more.
MOST_BYTES = 16 * MOST_PIXELS
# Of half as many it warns, and of a camera's odd remarks in a file, for each file.
warnings.filterwarnings("ignore", module=r"PIL\.")
MODES = {1: ("L", ImageReadMode.GRAY), 3: ("RGB", ImageReadMode.RGB)}
# The largest value that a file of more than 8 bits may mean by white: of the first that no pixel exceeds.
WHITES = {"I": (255, 65535), "F": (1, 255, 65535)}


def read_image(path: str, channels: int = 3) -> Tensor:
    """Decode a file, upright: ``(channels, h, w)`` uint8.

    What is transparent becomes white; more than 8 bits are scaled to 8; of several frames it is the first.

    Args:
        channels: 1 (grey) or 3 (RGB).

    Raises:
        ValueError: the file, which is named, cannot be read as an image.
    """
    pil_mode, mode = MODES[channels]
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a regular file")  # to open a pipe would wait for its other end
        if status.st_size > MOST_BYTES:
            raise ValueError(f"it has {status.st_size / 2**30:,.1f} GiB; expected at most {MOST_BYTES / 2**30:.1f}")
        with open(path, "rb") as file:
            content = file.read()
        if _is_simple(content):
            try:  # two to three times as fast as PIL where images are small, and so are crops of it
                data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
                # What torchvision.io.decode_image calls after a warning, at every image, that it will go some day.
                return torch.ops.image.decode_image(data, mode.value, True)  # True: upright
            except (RuntimeError, AttributeError):
                pass  # PIL may know it, or say what is wrong
        with Image.open(path) as image:
            return pil_to_tensor(_opaque(_eight_bits(ImageOps.exif_transpose(image))).convert(pil_mode))
    except Exception as error:  # PIL has a dozen for files that are not what they should be
        raise ValueError(f"{path} cannot be read as an image: {reason(error)}") from error


class TransformError(ValueError):
    """A transform does not do what is expected of it, whatever the image."""


def read_and_transform(path: str, channels: int, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """Decode a file as ``read_image`` does, and transform the image.

    Raises:
        TransformError: the transform is to blame.
        ValueError: the file, which is named, cannot be read or transformed.
    """
    image = read_image(path, channels)
    try:
        return transform(image)
    except TransformError:
        raise
    except Exception as error:  # of any kind: torch's allocator, for one, has RuntimeErrors
        height, width = image.shape[1:]
        raise ValueError(f"{path} ({width}×{height} pixels) cannot be transformed: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What an error says, on one line, or its name where it says nothing."""
    if (wanted := out_of_memory(error)) is not None:
        return f"out of memory{wanted}"
    return " ".join(str(error).split()) or type(error).__name__


def _is_simple(content: bytes) -> bool:
    """Whether torchvision decodes a file as it should be: a whole JPEG, or an opaque PNG of 8 bits, of bounded size."""
    if content.startswith(b"\xff\xd8") and content.endswith(b"\xff\xd9"):
        return _jpeg_pixels(content) <= MOST_PIXELS
    if content.startswith(b"\x89PNG\r\n\x1a\n") and len(content) > 32:
        width, height, bits, colour = struct.unpack(">IIBB", content[16:26])
        plain = bits == 8 and colour in (0, 2) and b"tRNS" not in content
        return plain and width * height <= MOST_PIXELS
    return False


def _jpeg_pixels(content: bytes) -> float:
    """Height times width, from the first segment that says it; infinity where none does."""
    at = 2
    while at + 9 <= len(content) and content[at] == 0xFF:
        kind, length, _, height, width = struct.unpack(">BHBHH", content[at + 1 : at + 9])
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            return height * width
        at += 2 + length
    return float("inf")


def _eight_bits(image: Image.Image) -> Image.Image:
    """An image of 16 or 32 bits a pixel as one of 8, which PIL would clip."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.nan_to_num(np.array(image, dtype=np.float32), copy=False)  # (h, w)
    low, high = float(values.min()), float(values.max())
    if low >= 0:
        low = 0.0
        high = next((white for white in WHITES.get(image.mode, (65535,)) if high <= white), high)
    scale = 255 / max(high - low, 1e-30)
    values *= scale  # in place: of a large image it has gigabytes
    values -= low * scale
    return Image.fromarray(np.rint(values, out=values).clip(0, 255).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """An image as it looks on white."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
