"""Pictures without pyplot: no window system, no global state."""

import io
import logging
import textwrap
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from results.fonts import default_font, drawable, font_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

log = logging.getLogger(__name__)
SIDE, GAP, LINE = 192, 12, 15  # pixels of a grid: of an image, around it, and of a line of its title


def encoded(picture: "Figure | np.ndarray") -> bytes:
    """A PNG of a figure, or of pixels ``(H, W, 3)`` uint8; quickly rather than small."""
    if not isinstance(picture, np.ndarray):
        picture.canvas.draw()
        picture = np.asarray(picture.canvas.buffer_rgba())[..., :3]
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def save(picture: "Figure | np.ndarray", path: Path) -> bytes:
    """Write a PNG. Returns its bytes: drawing takes long, and is done once."""
    content = encoded(picture)
    path.write_bytes(content)
    return content


def letters(size: int, text: str = "") -> ImageFont.FreeTypeFont:
    """A font for a text, so many pixels high."""
    return _open_font(font_for(text) or default_font(), size)


@cache
def _open_font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


def turned(text: str, size: int, degrees: float) -> Image.Image:
    """Text as a mask to paste a colour through, turned counter-clockwise."""
    font = letters(size, text)
    left, top, right, bottom = font.getbbox(text)
    mask = Image.new("L", (int(right - left) + 1, int(bottom - top) + 1))
    ImageDraw.Draw(mask).text((-left, -top), text, 255, font)
    return mask.rotate(degrees, Image.Resampling.BICUBIC, expand=True)


def picture_grid(images: "Tensor", titles: Sequence[str], columns: int = 5) -> np.ndarray:
    """Images under titles of one or more lines: ``(H, W, 3)`` uint8. Matplotlib would take ten times as long.

    Args:
        images: ``(N, 1 or 3, h, w)`` uint8, N at least 1.
        columns: images in a row, at most.
    """
    lines = 1 + max(title.count("\n") for title in titles)
    width, height = SIDE + GAP, SIDE + LINE * lines + GAP
    columns = min(columns, len(images))
    canvas = Image.new("RGB", (columns * width + GAP, -(-len(images) // columns) * height + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (image, title) in enumerate(zip(images, titles, strict=True)):
        left, top = GAP + number % columns * width, GAP + number // columns * height
        for line, text in enumerate(title.split("\n")):
            draw.text((left + SIDE / 2, top + line * LINE), text, "black", letters(11, text), anchor="ma")
        picture = Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).numpy())  # (h, w, 3)
        larger = max(picture.size) > SIDE
        scale = SIDE / max(picture.size)
        shape = [max(1, round(side * scale)) for side in picture.size]
        picture = picture.resize(shape, Image.Resampling.BILINEAR if larger else Image.Resampling.NEAREST)
        canvas.paste(picture, (left + (SIDE - shape[0]) // 2, top + LINE * lines))
    return np.asarray(canvas)


def filter_grid(weights: "Tensor", most: int = 64) -> np.ndarray:
    """Filters as pictures, eight in a row, each from its lowest to its highest weight where grey is 0.

    Args:
        weights: ``(N, 1 or 3, h, w)``; no more than ``most`` are shown.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    weights = weights[:most].float()
    largest = weights.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    shown = (127.5 + 127.5 * weights / largest).round().to(torch.uint8).expand(-1, 3, -1, -1)  # (N, 3, h, w)
    scale = max(1, -(-48 // weights.shape[-1]))
    shown = shown.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    shown = torch.nn.functional.pad(shown, (1, 1, 1, 1), value=255)  # a white frame
    missing = -len(shown) % min(8, len(shown))
    shown = torch.cat([shown, shown.new_full((missing, *shown.shape[1:]), 255)])
    rows = shown.split(min(8, len(shown)))
    return torch.cat([torch.cat(list(row), 2) for row in rows], 1).permute(1, 2, 0).numpy()


def shortened(name: str, length: int = 20) -> str:
    """A name that fits above a picture, on one line, in characters that can be drawn and written.

    Args:
        length: in Latin letters, of which a Chinese one takes two.
    """
    name = drawable(" ".join(name.encode(errors="replace").decode().split()))
    ends = list(accumulate(1 + (unicodedata.east_asian_width(character) in "WF") for character in name))
    return name if not ends or ends[-1] <= length else name[: bisect_right(ends, length - 1)] + "…"


def class_labels(class_names: Sequence[str], length: int = 20) -> list[str]:
    """What pictures call the classes: their names, shortened, or ``class 3`` if no font can draw the name."""
    undrawable = _undrawable(tuple(class_names))
    return [f"class {i}" if i in undrawable else shortened(name, length) for i, name in enumerate(class_names)]


@cache
def _undrawable(class_names: tuple[str, ...]) -> frozenset[int]:
    """The classes whose names no installed font can draw; reported once."""
    found = [number for number, name in enumerate(class_names) if not font_for(" ".join(name.split()) or "?")]
    if found:
        log.warning(f"no installed font can draw {len(found)} of {len(class_names)} class names; pictures number them")
        legend = "  ".join(f"class {number} = {class_names[number]}" for number in found)
        log.info(f"{'legend':<12} {textwrap.fill(legend, 96, subsequent_indent=' ' * 13)}")
    return frozenset(found)
