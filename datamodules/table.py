"""Image files with labels in a table."""

import logging
import os
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from torch import Tensor

from datamodules.image_files import ImageFiles, Sample
from datamodules.image_folder import ImageFolder
from datamodules.image_paths import class_order, walk_images
from datamodules.sampling import split_by_group
from results.record import one_line
from results.run_folder import nearest

log = logging.getLogger(__name__)


class Table(ImageFolder):
    """Image files anywhere below ``data_dir``, and a table with a row for each file.

    A row names the file by the path below ``data_dir`` or only the last part, with or without suffix. Labels are text
    or numbers, in natural order (2 before 10). Rows without a file or label, files without a row, and repeated rows of
    a file are left out, and logged in one line.

    Args:
        table: CSV, TSV or Parquet by suffix, with column names: a file in ``data_dir``, or a path.
        file, label: columns with file name and label.
        split: column with ``train``, ``val`` or ``test`` (or the other names in ``split_folders``). Without it, and for
            a split without rows, images are split off as in ``ImageFolder``.
        group: column with a group of images, such as a patient. All images of a group are in one split, by a hash of
            the group instead of the file's name, regardless of class.
        options: as in ``ImageFolder``.
    """

    def __init__(
        self,
        data_dir: str,
        table: str,
        file: str = "file_name",
        label: str = "label",
        split: str | None = None,
        group: str | None = None,
        **options,
    ):
        self.table, self.group = table, group
        self.columns = {"file": file, "label": label, "split": split, "group": group}
        super().__init__(data_dir, **options)

    def _find_splits(self) -> dict[str, Path]:
        paths = [self.root / self.table, Path(self.table).expanduser()]
        path = next(filter(Path.is_file, paths), None)
        if path is None:
            raise FileNotFoundError(f"datamodule.table={self.table} is not a file{nearest(paths[0])}")
        self.unreadable: list[str] = []
        self.rows = match_files(read_table(path, self.columns), self.root, path, self.unreadable)
        if self.columns["split"] is None:
            self.rows["split"] = "train"
        names = {name: split for split, names in self.split_folders.items() for name in names}
        for value in self.rows["split"].unique():
            if value.lower() not in names:
                raise ValueError(f"{path} has the split {value!r}; expected train, val or test")
        self.rows["split"] = self.rows["split"].str.lower().map(names)
        if "train" not in set(self.rows["split"]):
            raise ValueError(f"{path} has no rows for the split train")
        if self.group is not None:
            if missing := (self.rows.group == "").sum():
                raise ValueError(f"{path}: rows without a datamodule.group={self.group}: {missing}")
            several = self.rows.groupby("group")["split"].nunique() > 1
            if several.any():
                raise ValueError(f"{path}: groups in several splits: {several.sum()} (first {several.idxmax()})")
        return {split: self.root for split in self.split_folders if split in set(self.rows["split"])}

    def find_classes(self) -> tuple[str, ...]:
        classes = {split: set(rows.label) for split, rows in self.rows.groupby("split")}
        for split, names in classes.items():
            if extra := sorted(names - classes["train"]):
                raise ValueError(f"datamodule.table={self.table}: {split} has the class {extra[0]}, which train lacks")
        return tuple(sorted(classes["train"], key=class_order))

    def samples(self, split: str, unreadable: list[str]) -> list[Sample]:
        unreadable += self.unreadable if split == "train" else []
        labels, rows = {name: label for label, name in enumerate(self.class_names)}, self.rows
        return [(path, labels[name]) for path, name in rows.loc[rows["split"] == split, ["path", "label"]].to_numpy()]

    def split_names(self, images: ImageFiles) -> list[str]:
        if self.group is None:
            return super().split_names(images)
        groups = dict(zip(self.rows.path, self.rows.group, strict=True))
        return [groups[path] for path, _ in images.samples]

    def split_off(self, images: ImageFiles, fraction: float, split: str) -> tuple[Tensor, Tensor]:
        if self.group is None:
            return super().split_off(images, fraction, split)
        rest = 2 if split == "test" and "val" not in self.folders else 1
        return split_by_group(self.split_names(images), fraction, self.seed, split, rest)


def read_table(path: Path, columns: Mapping[str, str | None]) -> pd.DataFrame:
    """The columns of a table as text (empty for missing values), named like the arguments of ``Table``.

    Raises: ValueError: the file cannot be read, or lacks a column.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in (".parquet", ".pq"):
            found = pd.read_parquet(path)
        else:
            text = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig", "index_col": False}
            found = pd.read_csv(path, sep="\t" if suffix in (".tsv", ".tab") else ",", **text)
    except ImportError:
        raise ValueError(f"{path}: pandas needs pyarrow to read Parquet: pip install pyarrow") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table: {one_line(error)}") from error
    for key, column in columns.items():
        if column is not None and column not in found:
            names = ", ".join(map(str, found))
            raise ValueError(f"{path} has no column datamodule.{key}={column}; it has {names}")
    chosen = {key: found[column] for key, column in columns.items() if column is not None}
    return pd.DataFrame({k: ["" if pd.isna(value) else str(value).strip() for value in v] for k, v in chosen.items()})


def match_files(rows: pd.DataFrame, root: Path, table: Path, unreadable: list[str]) -> pd.DataFrame:
    """The usable rows with the new column ``path``, the image file, sorted by path. Logs the rest.

    Raises: ValueError, FileNotFoundError: a name matches several files, a file has two labels, or no row has a file.
    """
    start, index, files = os.path.join(root, ""), {}, []
    for path in walk_images(str(root), unreadable):
        name = path.removeprefix(start).replace(os.sep, "/")
        files.append(path)
        for short in {name, posixpath.basename(name)}:
            for key in (short, posixpath.splitext(short)[0]):
                index.setdefault(key, []).append(path)
    rows = rows.assign(path=[_file_of(name, index, start) for name in rows.file])
    found = rows[rows.path.notna()]
    if found.empty:
        first = f", such as {rows.file[0]}" if len(rows) else ""
        raise FileNotFoundError(f"{table} names {len(rows):,} files{first}; none of them is an image file below {root}")
    usable = found[found.label != ""]
    labels = usable.groupby("path").label.unique()
    if (several := labels[labels.map(len) > 1]).size:
        raise ValueError(f"{table} gives {several.index[0]} the labels {' and '.join(several.iloc[0])}")
    once = usable.label[~usable.duplicated("path")].value_counts()
    left_out = {
        "rows without a file": rows.file[rows.path.isna()],
        "rows without a label": found.file[found.label == ""],
        "files without a row": [path.removeprefix(start) for path in sorted(set(files) - set(found.path))],
        "second rows of a file": usable.file[usable.duplicated("path")],
        "labels that occur once": once.index[once == 1],
    }
    parts = [f"{kind}: {len(names):,} (first {list(names)[0]})" for kind, names in left_out.items() if len(names)]
    usable = usable.drop_duplicates("path").sort_values("path", ignore_index=True)
    if parts:
        level = logging.WARNING if len(usable) < len(rows) else logging.INFO  # were rows lost?
        log.log(level, f"{'table':<12} {table}: {len(usable):,} images; {'; '.join(parts)}")
    return usable


def _file_of(name: str, index: Mapping[str, Sequence[str]], start: str) -> str | None:
    """The file of a row, or None. Raises: ValueError: several files match."""
    name = posixpath.normpath(name.replace("\\", "/"))
    found = index.get(name, [])
    if start + name in found:
        return start + name
    if len(set(found)) > 1:
        raise ValueError(
            f"the name {name} in the table matches {found[0]} and {found[1]}; expected a path below {start}"
        )
    return found[0] if found else None
