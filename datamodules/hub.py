"""Data sets of the Hugging Face hub, converted to class folders."""

import re
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock

from datamodules.image_folder import ImageFolder
from datamodules.image_paths import is_image
from results.record import one_line


class Hub(ImageFolder):
    """A data set of the Hugging Face hub, or a local folder that ``datasets.load_dataset`` can read.

    The image files are written once to ``data_dir/hub/<dataset>/<split>/<class>``, unchanged, and then read by
    ``ImageFolder``. Images without a label (None or -1) are skipped.

    Args:
        dataset: the repository's name, such as ``user/flowers``, or the path of a folder.
        subset: the configuration, for a data set that has several.
        image, label: names of the columns.
        options: as in ``ImageFolder``.
    """

    def __init__(
        self,
        data_dir: str,
        dataset: str,
        subset: str | None = None,
        image: str = "image",
        label: str = "label",
        **options,
    ):
        parts = [safe_name(part) for part in (dataset, subset, label) if part]
        folder = Path(data_dir).expanduser() / "hub" / "_".join(parts)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):  # one process downloads
            if not folder.exists():
                write_folders(load(dataset, subset, folder.with_name(".cache")), image, label, folder)
        super().__init__(str(folder), **options)


def load(dataset: str, subset: str | None, cache: Path) -> Any:
    """All splits of a data set, a ``datasets.DatasetDict``. Raises: ValueError, OSError: it cannot be loaded."""
    try:
        import datasets
    except ImportError:
        raise ValueError("datamodule=hub needs the extra hub: pip install -e '.[hub]'") from None
    try:
        return datasets.load_dataset(dataset, subset, cache_dir=str(cache))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        hint = "without a network, set datamodule.dataset to the path of a copy"
        raise OSError(f"datamodule.dataset={dataset} cannot be loaded: {one_line(error)}; {hint}") from error


def write_folders(splits: Any, image: str, label: str, folder: Path) -> None:
    """Write the images of a ``DatasetDict`` to ``folder/<split>/<class>``; the folder appears when it is complete."""
    from datasets import Image

    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for split, rows in splits.items():
        for key, column in {"image": image, "label": label}.items():
            if column not in rows.features:
                columns = ", ".join(rows.features)
                raise ValueError(f"{split} has no column datamodule.{key}={column}; it has {columns}")
        names = getattr(rows.features[label], "names", None)  # of a ClassLabel
        if names and len(set(map(safe_name, names))) < len(names):
            raise ValueError(f"two classes of {label} would share a folder; the names are {', '.join(names)}")
        for number, row in enumerate(rows.select_columns([image, label]).cast_column(image, Image(decode=False))):
            if row[label] is None or row[label] == -1:
                continue
            content, path = row[image]["bytes"], row[image]["path"] or ""
            name = f"{number:07d}{Path(path).suffix if is_image(path) else '.png'}"
            kind = safe_name(names[row[label]] if names else str(row[label]))
            (partial / split / kind).mkdir(parents=True, exist_ok=True)
            (partial / split / kind / name).write_bytes(Path(path).read_bytes() if content is None else content)
    partial.rename(folder)


def safe_name(text: str) -> str:
    """Turn text into a folder name without separators that is not hidden."""
    return re.sub(r"[^\w .+-]+", "_", text).strip(" ._") or "_"
