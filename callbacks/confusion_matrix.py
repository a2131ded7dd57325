"""The confusion matrix, and each class's accuracy, as pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lightning import Callback
from PIL import Image, ImageDraw
from torch import Tensor

from callbacks.drawing import class_labels, encoded, letters, save, turned
from callbacks.tensorboard import TensorBoard, show

BLUE, SKY = (8, 48, 107), (86, 180, 233)
CELL, BAR, BAR_LENGTH, MARGIN = 48, 24, 400, 12  # pixels: a cell's side, a bar's height, that of 100 %, around it all


class ConfusionMatrixPlot(Callback):
    """After testing, writes ``confusion_matrix.png`` and shows it in TensorBoard as ``test/confusion_matrix``.

    Beside it there is ``test/accuracy_per_class``, the matrix's diagonal as bars.

    Args:
        dirpath: the folder to write to.
        max_classes: no plot with more classes than this; nobody could read it.
    """

    def __init__(self, dirpath: str, max_classes: int = 50):
        self.dirpath, self.max_classes = Path(dirpath), max_classes

    def on_test_epoch_end(self, trainer, pl_module) -> None:
        counts = pl_module.confusion.compute().cpu()  # in every process: it gathers
        if not trainer.is_global_zero or len(counts) > self.max_classes:
            return
        png = save(confusion_matrix(counts, pl_module.class_names), self.dirpath / "confusion_matrix.png")
        show(trainer.loggers, "test/confusion_matrix", png, trainer.global_step)
        if any(isinstance(logger, TensorBoard) for logger in trainer.loggers):
            bars = accuracy_bars(counts, pl_module.class_names)
            show(trainer.loggers, "test/accuracy_per_class", encoded(bars), trainer.global_step)


def confusion_matrix(counts: Tensor, class_names: Sequence[str]) -> np.ndarray:
    """Counts of images, a row a true class, the darker the larger their share of it: ``(H, W, 3)`` uint8.

    Args:
        counts: ``(true class, predicted class)``.
    """
    names, font = class_labels(class_names), letters(14)
    slanted = [turned(name, 14, 45) for name in names]
    left, side = MARGIN + 24 + _widest(names) + 8, CELL * len(names)
    under = max(name.height for name in slanted)
    canvas = Image.new("RGB", (left + side + MARGIN, MARGIN + side + 6 + under + 24), "white")
    draw = ImageDraw.Draw(canvas)
    shares = (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
    cells = Image.fromarray((255 + (np.array(BLUE) - 255.0) * shares[..., None]).astype(np.uint8))
    canvas.paste(cells.resize((side, side), Image.Resampling.NEAREST), (left, MARGIN))
    draw.rectangle((left - 1, MARGIN - 1, left + side, MARGIN + side), outline="gray")
    for true, predicted in counts.nonzero().tolist():
        place = left + CELL * (predicted + 0.5), MARGIN + CELL * (true + 0.5)
        color = "white" if shares[true, predicted] > 0.6 else "black"
        draw.text(place, str(int(counts[true, predicted])), color, letters(12), anchor="mm")
    for number, (name, mask) in enumerate(zip(names, slanted, strict=True)):
        middle = round(CELL * (number + 0.5))
        draw.text((left - 8, MARGIN + middle), name, "black", letters(14, name), anchor="rm")
        canvas.paste("black", (left + middle + 6 - mask.width, MARGIN + side + 6), mask)
    draw.text((left + side / 2, canvas.height - 6), "predicted", "black", font, anchor="ms")
    mask = turned("true", 14, 90)
    canvas.paste("black", (6, MARGIN + (side - mask.height) // 2), mask)
    return np.asarray(canvas)


def accuracy_bars(counts: Tensor, class_names: Sequence[str]) -> np.ndarray:
    """A bar a class with its accuracy, and the number of its images beside its name: ``(H, W, 3)`` uint8.

    Args:
        counts: ``(true class, predicted class)``.
    """
    font, images = letters(14), counts.sum(1)
    accuracies = (counts.diag() / images.clamp(min=1)).tolist()
    names = [f"{name} ({n})" for name, n in zip(class_labels(class_names), images.tolist(), strict=True)]
    left, height = MARGIN + _widest(names) + 8, BAR * len(names)
    canvas = Image.new("RGB", (left + BAR_LENGTH + 2 * MARGIN, MARGIN + height + 28), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (name, accuracy) in enumerate(zip(names, accuracies, strict=True)):
        top = MARGIN + BAR * number
        draw.text((left - 8, top + BAR / 2), name, "black", letters(14, name), anchor="rm")
        if accuracy > 0:
            draw.rectangle((left, top + 2, left + BAR_LENGTH * accuracy, top + BAR - 3), SKY)
        if images[number]:
            draw.text((left + 8, top + BAR / 2), f"{accuracy:.1%}", "black", font, anchor="lm")
    draw.rectangle((left, MARGIN, left + BAR_LENGTH, MARGIN + height), outline="gray")
    mean = (counts.diag().sum() / images.sum().clamp(min=1)).item()
    at = left + BAR_LENGTH * mean
    draw.line((at, MARGIN, at, MARGIN + height), "black")
    anchor = "ms" if left + 60 < at < left + BAR_LENGTH - 60 else "rs" if mean > 0.5 else "ls"
    draw.text((at, canvas.height - 10), f"all images {mean:.1%}", "black", font, anchor=anchor)
    return np.asarray(canvas)


def _widest(names: Sequence[str]) -> int:
    """Pixels."""
    return round(max(letters(14, name).getlength(name) for name in names))
