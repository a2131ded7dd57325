"""The tables of an evaluation: ``classes.csv`` and ``images.csv``."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.prediction_files import write_table

if TYPE_CHECKING:
    from datamodules.base import ImageDataModule
    from lit_modules import Evaluator

MAX_CLASSES = 100  # with more classes, images.csv has only the predicted class's probability


def write_tables(folder: Path, evaluator: "Evaluator", data: "ImageDataModule") -> None:
    """Write both tables, without test-time augmentation: seven significant digits; a ratio of 0 / 0 is empty."""
    write_table(folder / "classes.csv", class_rows(evaluator.confusion.compute().tolist(), evaluator.class_names))
    write_table(folder / "images.csv", image_rows(evaluator, data))


def class_rows(counts: Sequence[Sequence[int]], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Images, precision, recall and F1 of each class.

    Args:
        counts: number of images by true class, then by predicted class.
    """
    rows = []
    for label, (name, of_class) in enumerate(zip(class_names, counts, strict=True)):
        right, images, predicted = of_class[label], sum(of_class), sum(row[label] for row in counts)
        ratios = {"precision": (right, predicted), "recall": (right, images), "f1": (2 * right, images + predicted)}
        shares = {key: f"{part / whole:.7g}" if whole else "" for key, (part, whole) in ratios.items()}
        rows.append({"class": name, "images": images, **shares})
    return rows


def image_rows(evaluator: "Evaluator", data: "ImageDataModule") -> list[dict[str, Any]]:
    """Each image's file (or index in the split), true and predicted class, and probabilities."""
    names, probabilities = evaluator.class_names, evaluator.probabilities
    samples, folder = getattr(data.test_images, "samples", None), data.source_folder
    columns = [f"probability_{name}" for name in names] if len(names) <= MAX_CLASSES else []
    rows = []
    for index, (label, values) in enumerate(zip(evaluator.labels.tolist(), probabilities.tolist(), strict=True)):
        place = {"file": os.path.relpath(samples[index][0], folder)} if samples else {"index": index}
        best = max(range(len(values)), key=values.__getitem__)
        row = place | {"true": names[label], "predicted": names[best], "probability": f"{values[best]:.7g}"}
        rows.append(row | {column: f"{value:.7g}" for column, value in zip(columns, values, strict=False)})
    return rows
