"""What a prediction leaves: a table as CSV or JSON, features as NPZ, a picture; each written in one step."""

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
# The kinds of file that a format can be written as; the first unless one is named.
TABLE = (".csv", ".json")
SUFFIXES = {"submission": TABLE, "probability": TABLE, "full": TABLE, "features": (".npz",)}
BY_ID = ("submission", "probability")  # a row is named by the file's id, its name without folder and suffix


def check(cfg: "DictConfig") -> None:
    """Raise for outputs that cannot be written."""
    if cfg.output is not None:
        check_writable("output", Path(cfg.output), SUFFIXES[cfg.format])
    if cfg.labels == "name" and cfg.format != "submission":
        raise ConfigError(f"labels=name is for format=submission; format={cfg.format} does not have that column")
    if cfg.grid is not None:
        if cfg.format == "features":
            raise ConfigError("grid shows classes, and format=features has none; expected another format")
        check_writable("grid", Path(cfg.grid), (".png",))


def check_columns(format: str, class_names: Sequence[str]) -> None:
    """Raise a ValueError if two columns would have the same name."""
    if format == "probability" and len(class_names) != 2 and len({"id", *class_names}) <= len(class_names):
        raise ValueError(
            "format=probability writes a column id and one per class, and two of them would have the same name; "
            f"the classes are {', '.join(class_names)}; expected format=full"
        )


def write(
    cfg: "DictConfig", names: Sequence[str], found: "Predictions", class_names: Sequence[str], data: "PredictImages"
) -> Path:
    """Write predictions, and the picture if one is wanted.

    ``submission``: a row ``id,label`` for each image, the label a class's number or, by ``labels``, its name.
    ``probability``: of two classes a row ``id,label``, the label the second's probability; of more a row with each
    class's probability. ``full``: the file, its label, and the likeliest classes with their probabilities.
    ``features``: arrays ``features`` ``(N, F)`` float32 and ``files`` ``(N,)`` text.

    Args:
        cfg: says what, as which kind of file, and where to.
        names: of all files by index; their ids for formats in ``BY_ID``.

    Returns:
        The file that was written.
    """
    name = "features.npz" if cfg.format == "features" else "predictions.csv"
    path = Path(cfg.output if cfg.output is not None else Path(cfg.run_dir) / name).expanduser()
    named = [names[index] for index in found.indices.tolist()]
    if cfg.format == "features":
        import numpy as np

        with replacing(path) as temporary, open(temporary, "wb") as file:  # to a path NumPy would add .npz
            np.savez(file, features=found.outputs[0].numpy(), files=np.array(named))
        return path
    if cfg.format == "submission":
        labels = found.outputs[1][:, 0].tolist()
        if cfg.labels == "name":
            labels = [class_names[label] for label in labels]
        write_table(path, [{"id": name, "label": label} for name, label in zip(named, labels, strict=True)])
    elif cfg.format == "probability":
        write_table(path, probabilities(named, found, class_names))
        if len(class_names) == 2:
            log.info(f"{'label':<12} the probability of {class_names[1]}")
    else:
        write_table(path, detailed(named, found, class_names))
    if cfg.grid is not None:
        write_grid(Path(cfg.grid).expanduser(), cfg.grid_count, data, names, found, class_names)
    return path


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as JSON or CSV, by the path's suffix."""
    # A file's name may be no text: then its own bytes are written, in JSON as \udc80 to \udcff.
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


def detailed(named: Sequence[str], found: "Predictions", class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Each image's file, label, class name and probability, and under ``others`` the next likeliest classes."""
    rows = []
    for name, values, classes in zip(named, *(output.tolist() for output in found.outputs), strict=True):
        first, *others = (
            {"label": label, "class_name": class_names[label], "probability": float(f"{value:.7g}")}
            for value, label in zip(values, classes, strict=True)
        )
        rows.append({"file": name, **first, "others": others})
    return rows


def probabilities(named: Sequence[str], found: "Predictions", class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Each image's id, and the probability of the second of two classes (``label``), or of every class by its name.

    Args:
        found: with all classes among its outputs.
    """
    values, classes = found.outputs
    by_class = values.gather(1, classes.argsort(1)).tolist()  # (N, num_classes), in the classes' order
    columns = {"label": 1} if len(class_names) == 2 else {name: label for label, name in enumerate(class_names)}
    return [
        {"id": name, **{column: float(f"{row[label]:.7g}") for column, label in columns.items()}}
        for name, row in zip(named, by_class, strict=True)
    ]


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with columns of their own for the other classes: ``label_2,class_name_2,probability_2`` and so on."""
    others = row.get("others", ())
    row = {key: value for key, value in row.items() if key != "others"}
    return row | {f"{key}_{place}": value for place, other in enumerate(others, 2) for key, value in other.items()}


def write_grid(
    path: Path,
    count: int,
    data: "PredictImages",
    names: Sequence[str],
    found: "Predictions",
    class_names: Sequence[str],
) -> None:
    """Write a PNG of the first images as the network sees them, with file, class and probability."""
    from results.pictures import class_labels, picture_grid, save_png, shorten

    images, indices, *_ = data.read(found.indices[:count])
    said = zip(*(output[:count, 0].tolist() for output in found.outputs), strict=True)
    said = dict(zip(found.indices.tolist(), said, strict=False))
    labels, titles = class_labels(class_names), []
    for index in indices.tolist():
        probability, label = said[index]
        titles.append(f"{shorten(Path(names[index]).name)}\n{labels[label]} ({probability:.1%})")
    with replacing(path) as temporary:
        save_png(picture_grid(images.numpy(), titles), temporary)
