"""A sweep's report: ``report.md``, ``report.csv`` and plots, built from its jobs' records and nothing else."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from results import record as records
from results.page import to_csv, to_markdown, to_text
from results.record import FILE, HARMLESS, replacing
from results.run_folder import nearest
from results.table import ABSENT, Job, natural, number, tabulate

EXPECTED = "expected a sweep's folder, runs/<name>/<date>, whose jobs' folders have a result.json"


def write(folders: Sequence[Path], output: Path | None = None, metric: str = "val/top1", plots: bool = True) -> str:
    """Write the report of one sweep, or of several joined, and return its table for the terminal.

    Two jobs that end at once may both call this: the later one reads what the earlier one recorded.

    Args:
        folders: the sweeps' folders.
        output: where the report goes; that of a single sweep into its folder, if not given.
        metric: what the configurations are sorted by.
        plots: draw them; without, those of an earlier report stay, and the page says so.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: a folder has no records, or none of them has the metric, or of several folders no output is given.
    """
    if output is None and len(folders) != 1:
        raise ValueError(f"{len(folders)} folders: say with --output where their common report goes")
    find(folders)  # a mistyped folder is refused before anything is written
    target = Path(output or folders[0])
    target.mkdir(parents=True, exist_ok=True)

    from filelock import FileLock

    with FileLock(target / ".report.lock"):
        table = tabulate(read(folders), metric)
        page = target / "report.md"
        before = re.findall(r"\]\((report_[^)/]+\.png)\)", page.read_text("utf-8", "replace")) if page.exists() else []
        pictures: dict[str, bytes] = {}
        if plots:
            from results.figures import draw

            pictures = draw(table)
            for stale in set(before) - set(pictures):
                (target / stale).unlink(missing_ok=True)
        for name, picture in pictures.items():
            replace(target / name, picture)
        replace(target / "report.csv", to_csv(table).encode())
        command = ["python", "report.py", *map(str, folders)] + ["--metric", metric] * (metric != "val/top1")
        command += ["--output", str(output)] * (output is not None)
        title = "/".join(Path(os.path.abspath(target)).parts[-2:])
        shown = list(pictures) if plots else before
        replace(page, to_markdown(table, title, shlex.join(command), shown, drawn_now=plots).encode())
    return to_text(table)


def replace(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def find(folders: Sequence[Path]) -> list[Path]:
    """The folders that have a record, each once.

    Raises:
        FileNotFoundError: one of ``folders`` does not exist.
        ValueError: it is no folder, or has no record below it.
    """
    found: dict[Path, None] = {}
    for folder in map(Path, folders):
        if not folder.exists():
            raise FileNotFoundError(f"{folder}: no such folder{nearest(folder)}; {EXPECTED}")
        if not folder.is_dir():
            raise ValueError(f"{folder}: not a folder; {EXPECTED}")
        below = [Path(here).resolve() for here, _, files in os.walk(folder) if FILE in files]
        if not below:
            raise ValueError(f"{folder}: no result.json below it; {EXPECTED}")
        found |= dict.fromkeys(sorted(below, key=lambda path: natural(str(path))))
    return list(found)


def read(folders: Sequence[Path]) -> list[Job]:
    """The jobs, named by their folders below the sweep's, or below the common parent of several sweeps'."""
    parent, places = Path(os.path.commonpath([Path(folder).resolve() for folder in folders])), find(folders)
    jobs = [read_job(job, job.name if job == parent else job.relative_to(parent).as_posix()) for job in places]
    typed: dict[str, set[str]] = {}
    for job in jobs:
        for key, text in job.overrides.items():
            typed.setdefault(key, set()).add(text)
    for place, job in zip(places, jobs, strict=True):
        lacking = sorted(typed.keys() - job.overrides.keys() - HARMLESS - {"seed"})
        if lacking and job.record:
            job.overrides.update(untyped(place, {key: typed[key] for key in lacking}))
    return jobs


def untyped(folder: Path, typed: Mapping[str, set[str]]) -> dict[str, str]:
    """What a job's own config has for keys that were typed for others, in their spelling where it is the same value.

    Nothing where the network or the data have no such key, or the job has no config.
    """
    try:
        config, hydra = (OmegaConf.load(folder / ".hydra" / f"{name}.yaml") for name in ("config", "hydra"))
        choices = OmegaConf.select(hydra, "hydra.runtime.choices") or {}
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):  # gone or damaged
        return {}
    found = {}
    for key, texts in typed.items():
        try:
            value = choices[key] if key in choices else OmegaConf.select(config, key, default=ABSENT)
        except OmegaConfBaseException:  # an interpolation of a run that is over
            continue
        if value != ABSENT and not OmegaConf.is_config(value):
            text = "null" if value is None else str(value)
            same = (
                t for t in texts if t.lower() == text.lower() or number(text) is not None and number(t) == number(text)
            )
            found[key] = next(same, text)
    return found


def read_job(folder: Path, name: str) -> Job:
    try:
        record = records.read(folder)
    except (OSError, ValueError) as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        return Job(name, "unreadable record", f"{kind}{error}")
    pairs = (part.lstrip("+").partition("=") for part in record["overrides"])
    return Job(name, record["status"], record.get("error"), {key: value for key, _, value in pairs}, record)
