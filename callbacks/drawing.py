"""A figure without pyplot: no window system, no global state."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure
    from torch import Tensor


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # matplotlib is slow to import, and not always needed
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: "Figure", path: Path) -> np.ndarray:
    """Write a PNG. Returns its pixels, ``(H, W, 3)`` uint8: drawing takes long, and is done once."""
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    Image.fromarray(pixels).save(path)
    return pixels


def picture_grid(images: "Tensor", titles: "Sequence[str]", path: Path, columns: int = 5) -> None:
    """Write a PNG of images under titles of one or more lines.

    Args:
        images: ``(N, 1 or 3, h, w)`` uint8, N at least 1.
        columns: images in a row, at most.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    lines = 1 + max(title.count("\n") for title in titles)
    figure = new_figure(2.1 * columns, (2.1 + 0.2 * lines) * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, image, title in zip(panels[: len(images)], images, titles, strict=True):
        axes.imshow(image.expand(3, -1, -1).permute(1, 2, 0).numpy(), interpolation="nearest")  # (h, w, 3)
        axes.set_title(title, fontsize=9, parse_math=False)
    save(figure, path)


def shortened(name: str, length: int = 20) -> str:
    """A name that fits above a picture; a file's name may hold bytes that are no text."""
    name = name.encode(errors="replace").decode()
    return name if len(name) <= length else name[: length - 1] + "…"
