"""The output files of a prediction, written atomically: a CSV or JSON table, features as NPZ, a grid of images."""

import csv
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.image_paths import check_writable
from results.errors import ConfigError
from results.record import replacing

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from datamodules import PredictImages
    from lit_modules.predictor import Predictions

log = logging.getLogger(__name__)
# Format → the suffixes that a file may have; the first is the default.
TABLE = (".csv", ".json")
SUFFIXES = {"submission": TABLE, "probability": TABLE, "full": TABLE, "features": (".npz",)}
BY_ID = ("submission", "probability")  # their rows have the file's id: the name without folder and suffix


def check(cfg: "DictConfig") -> None:
    """Raise an error for outputs that cannot be written."""
    if cfg.output is not None:
        check_writable("output", Path(cfg.output), SUFFIXES[cfg.format])
    if cfg.labels == "name" and cfg.format != "submission":
        raise ConfigError(f"labels=name needs format=submission; format={cfg.format} does not use labels")
    if cfg.grid is not None:
        if cfg.format == "features":
            raise ConfigError("grid shows predicted classes, and format=features has none; expected another format")
        check_writable("grid", Path(cfg.grid), (".png",))


def check_columns(format: str, class_names: Sequence[str]) -> None:
    """Raise a ValueError if two columns would have the same name."""
    if format == "probability" and len(class_names) != 2 and len({"id", *class_names}) <= len(class_names):
        raise ValueError(
            "format=probability writes a column id and one per class, and two of them would have the same name; "
            f"the classes are {', '.join(class_names)}; expected format=full"
        )


def write(
    cfg: "DictConfig",
    names: Sequence[str],
    predictions: "Predictions",
    class_names: Sequence[str],
    data: "PredictImages",
) -> Path:
    """Write predictions, and a grid of images if ``cfg.grid`` names a file.

    ``submission``: rows ``id,label``; the label is a class number or, with ``labels=name``, a class name.
    ``probability``: for two classes, rows ``id,label``, where the label is the probability of the second class; for
    more, one column per class. ``full``: the file and the most probable classes. ``features``: arrays
    ``features`` ``(N, F)`` float32 and ``files`` ``(N,)`` text.

    Args:
        cfg: the config of predict.py.
        names: of all files, by index; their ids for formats in ``BY_ID``.

    Returns:
        The file that was written.
    """
    name = "features.npz" if cfg.format == "features" else "predictions.csv"
    path = Path(cfg.output if cfg.output is not None else Path(cfg.run_dir) / name).expanduser()
    row_names = [names[index] for index in predictions.indices.tolist()]
    if cfg.format == "features":
        import numpy as np

        with replacing(path) as temporary, open(temporary, "wb") as file:  # NumPy would append .npz to a path
            np.savez(file, features=predictions.outputs[0].numpy(), files=np.array(row_names))
        return path
    if cfg.format == "submission":
        labels = predictions.outputs[1][:, 0].tolist()
        if cfg.labels == "name":
            labels = [class_names[label] for label in labels]
        write_table(path, [{"id": name, "label": label} for name, label in zip(row_names, labels, strict=True)])
    elif cfg.format == "probability":
        write_table(path, probability_rows(row_names, predictions, class_names))
        if len(class_names) == 2:
            log.info(f"{'label':<12} the probability of {class_names[1]}")
    else:
        write_table(path, full_rows(row_names, predictions, class_names))
    if cfg.grid is not None:
        write_grid(Path(cfg.grid).expanduser(), cfg.grid_count, data, names, predictions, class_names)
    return path


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as JSON or CSV, by the path's suffix."""
    # File names that are not valid text are written as bytes, in JSON as \udc80 to \udcff.
    is_json = path.suffix.lower() == ".json"
    errors = "backslashreplace" if is_json else "surrogateescape"
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", errors=errors) as file:
        if is_json:
            file.write("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n")
        else:
            rows = [flat(row) for row in rows]
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def full_rows(names: Sequence[str], predictions: "Predictions", class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Each image's file, label, class name and probability; the next most probable classes under ``others``."""
    rows = []
    for name, values, classes in zip(names, *(output.tolist() for output in predictions.outputs), strict=True):
        first, *runners_up = (
            {"label": label, "class_name": class_names[label], "probability": float(f"{value:.7g}")}
            for value, label in zip(values, classes, strict=True)
        )
        rows.append({"file": name, **first, "others": runners_up})
    return rows


def probability_rows(
    names: Sequence[str], predictions: "Predictions", class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Each image's id, and the probability of the second of two classes (``label``) or of each class (by class name).

    Args:
        predictions: of all classes.
    """
    values, classes = predictions.outputs
    by_class = values.gather(1, classes.argsort(1)).tolist()  # (N, num_classes), in the classes' order
    columns = {"label": 1} if len(class_names) == 2 else {name: label for label, name in enumerate(class_names)}
    return [
        {"id": name, **{column: float(f"{row[label]:.7g}") for column, label in columns.items()}}
        for name, row in zip(names, by_class, strict=True)
    ]


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the entries of ``others`` as columns: ``label_2,class_name_2,probability_2`` and so on."""
    runners_up = row.get("others", ())
    row = {key: value for key, value in row.items() if key != "others"}
    return row | {f"{key}_{place}": value for place, entry in enumerate(runners_up, 2) for key, value in entry.items()}


def write_grid(
    path: Path,
    count: int,
    data: "PredictImages",
    names: Sequence[str],
    predictions: "Predictions",
    class_names: Sequence[str],
) -> None:
    """Write a PNG of the first images at the network's size, with file, class and probability."""
    from results.pictures import class_labels, picture_grid, save_png, shorten

    images, indices, *_ = data.read(predictions.indices[:count])
    first = zip(*(output[:count, 0].tolist() for output in predictions.outputs), strict=True)
    predicted = dict(zip(predictions.indices.tolist(), first, strict=False))
    labels, titles = class_labels(class_names), []
    for index in indices.tolist():
        probability, label = predicted[index]
        titles.append(f"{shorten(Path(names[index]).name)}\n{labels[label]} ({probability:.1%})")
    with replacing(path) as temporary:
        save_png(picture_grid(images.numpy(), titles), temporary)
