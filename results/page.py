"""``report.html``: one self-contained page that needs neither a network nor a server."""

import base64
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from results.record import FILE
from results.table import ABSENT, SweepTable, number, ordered

TEMPLATE = "report.html.jinja"
# Columns whose text does not sort by value → columns of the numbers.
NUMBERS = {
    "params": "params",
    "FLOPs/image": "flops_per_image",
    "train s": "train_seconds",
    "images/s": "images_per_second",
    "minus best": "difference",
    "p": "p corrected",
    "seeds needed": "seeds needed",
}
SHOWN_FILES = (".png", ".log")  # in a job's folder, next to the record


def render(
    table: SweepTable,
    title: str,
    shown: pd.DataFrame,
    sections: Mapping[str, Any],
    pictures: Mapping[str, bytes],
    target: Path,
) -> str:
    """Render the page; all text is escaped.

    Args:
        shown: the table of configurations, as text.
        sections: texts, by their names in the template.
        pictures: PNG files under their names.
        target: the page's folder; links to the jobs' folders are relative to it.
    """
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    images = {name[7:-4]: base64.b64encode(picture).decode() for name, picture in pictures.items()}
    return environment.get_template(TEMPLATE).render(
        sections,
        title=title,
        columns=list(shown),
        keys=len(table.keys),
        rows=list(configuration_rows(table, shown)),
        verdicts=table.rows["verdict"].fillna("").tolist(),
        jobs=list(job_rows(table, target)),
        metric=table.metric,
        images=images,
    )


def configuration_rows(table: SweepTable, shown: pd.DataFrame) -> Iterator[list[tuple[str, float | str]]]:
    """For each row, (text, sort value) of each cell."""
    numbers = pd.DataFrame(index=shown.index)
    for name in shown:
        if name in table.titles:
            places = {value: place for place, value in enumerate(ordered(shown[name]))}
            numbers[name] = shown[name].map(places)
        else:
            numbers[name] = table.rows.get(NUMBERS.get(name, name.removesuffix(" (%)")), shown[name])
    for texts, values in zip(shown.to_numpy().tolist(), numbers.to_numpy().tolist(), strict=True):
        yield [(text, "" if pd.isna(value) else value) for text, value in zip(texts, values, strict=True)]


def job_rows(table: SweepTable, target: Path) -> Iterator[dict[str, Any]]:
    """What the page shows of each job: folder, rank of the configuration, numbers, findings, files and command."""
    places = {row: place for place, row in enumerate(table.rows.index, start=1)}
    here = os.path.abspath(target)
    for job in table.jobs.itertuples():
        record, folder = job.record, Path(job.folder)
        link = quote(Path(os.path.relpath(folder, here)).as_posix())
        files = sorted(entry for entry in os.listdir(folder) if entry.endswith(SHOWN_FILES))
        yield {
            "name": job.Index,
            "link": link,
            "place": places.get(job.configuration, ABSENT),
            "seed": job.seed,
            "status": job.status,
            "numbers": [number(record, fact) for fact in (table.metric, table.test_metric, "train_seconds")],
            "error": job.error,
            "findings": record.get("findings") or (),
            "files": [(file, f"{link}/{quote(file)}") for file in (FILE, *files)],
            "command": shlex.join(["python", "train.py", *(record.get("overrides") or ())]),
        }
