"""Pictures as pixels ``(H, W, 3)`` uint8: figures without pyplot, grids of images, labels of classes, PNG files."""

import logging
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from results.fonts import default_font, drawable, families, font_for
from results.summary import paragraph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
SIDE, GAP, LINE = 192, 12, 15  # of a grid, in pixels: image side, space between images, height of a text line


def new_figure(width: float, height: float, **options) -> "Figure":
    """An empty figure, sized in inches; ``options`` go to matplotlib's ``Figure``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), **({"layout": "constrained"} | options))
    FigureCanvasAgg(figure)
    return figure


def literal_text(texts: Iterable[str]) -> AbstractContextManager:
    """A context in which matplotlib draws these texts literally, in fonts that cover their characters."""
    from matplotlib import rc_context

    return rc_context({"font.family": families(texts), "text.parse_math": False})


def to_pixels(figure: "Figure") -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def save_png(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(pixels).save(path, "png", compress_level=1)


def picture_grid(images: np.ndarray, titles: Sequence[str], columns: int = 5) -> np.ndarray:
    """Images below titles of one or more lines, ten times as fast as matplotlib.

    Args:
        images: ``(N, 1 or 3, h, w)`` uint8, N at least 1.
        columns: maximum images in a row.
    """
    lines = 1 + max(title.count("\n") for title in titles)
    width, height = SIDE + GAP, SIDE + LINE * lines + GAP
    columns = min(columns, len(images))
    canvas = Image.new("RGB", (columns * width + GAP, -(-len(images) // columns) * height + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (image, title) in enumerate(zip(images, titles, strict=True)):
        left, top = GAP + number % columns * width, GAP + number // columns * height
        for line, text in enumerate(title.split("\n")):
            draw.text((left + SIDE / 2, top + line * LINE), text, "black", open_font(11, text), anchor="ma")
        picture = Image.fromarray(np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0))
        scale = SIDE / max(picture.size)
        size = [max(1, round(side * scale)) for side in picture.size]
        picture = picture.resize(size, Image.Resampling.BILINEAR if scale < 1 else Image.Resampling.NEAREST)
        canvas.paste(picture, (left + (SIDE - size[0]) // 2, top + LINE * lines))
    return np.asarray(canvas)


def open_font(size: int, text: str) -> ImageFont.FreeTypeFont:
    """A font of ``size`` pixels that can draw a text."""
    return _open_font(font_for(text) or default_font(), size)


@cache
def _open_font(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


def shorten(name: str, length: int = 20) -> str:
    """Shorten a name to one line above a picture, in characters that can be drawn and written.

    Args:
        length: in Latin letters; a Chinese character is as wide as two.
    """
    name = drawable(" ".join(name.encode(errors="replace").decode().split()))
    ends = list(accumulate(1 + (unicodedata.east_asian_width(character) in "WF") for character in name))
    return name if not ends or ends[-1] <= length else name[: bisect_right(ends, length - 1)] + "…"


def class_labels(class_names: Sequence[str], length: int = 20) -> list[str]:
    """The names of classes for pictures: shortened, or ``class 3`` if no font can draw the name."""
    undrawable = _undrawable(tuple(class_names))
    return [f"class {i}" if i in undrawable else shorten(name, length) for i, name in enumerate(class_names)]


@cache
def _undrawable(class_names: tuple[str, ...]) -> frozenset[int]:
    """The classes whose names no installed font can draw; logged once."""
    found = [number for number, name in enumerate(class_names) if not font_for(" ".join(name.split()) or "?")]
    if found:
        log.warning(f"no installed font can draw {len(found)} of {len(class_names)} class names; pictures show numbers")
        legend = "  ".join(f"class {number} = {class_names[number]}" for number in found)
        log.info(paragraph("legend", legend))
    return frozenset(found)
