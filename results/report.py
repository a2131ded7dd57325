"""The report of a sweep, built from the records of its jobs: ``report.md``, ``report.csv`` and plots."""

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from results.metrics import is_percentage
from results.record import replacing
from results.table import ABSENT, SweepTable, human, job_folders, read_jobs, tabulate

SHOWN = 12  # rows and failures in the terminal
MAX_WIDTH = 32  # characters of a terminal column


def write(folders: Sequence[Path], output: Path | None = None, metric: str = "val/top1", plots: bool = True) -> str:
    """Write the report of one sweep, or of several joined, and return its table for the terminal.

    Args:
        folders: the sweeps' folders.
        output: the report's folder; by default that of the sweep.
        metric: sorts the configurations.
        plots: draw plots too.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: a folder has no records, none has the metric, or several folders are given without an output.
    """
    if output is None and len(folders) != 1:
        raise ValueError(f"{len(folders)} folders: choose with --output where their common report goes")
    job_folders(folders)  # reject a misspelt folder before anything is written
    target = Path(output or folders[0])
    table = tabulate(read_jobs(folders), metric)
    pictures = {}
    if plots:
        from results.figures import draw

        pictures = draw(table)
    for name, picture in pictures.items():
        _replace(target / name, picture)
    _replace(target / "report.csv", to_csv(table).encode())
    command = ["python", "report.py", *map(str, folders)] + ["--metric", metric] * (metric != "val/top1")
    command += ["--output", str(output)] * (output is not None)
    title = "/".join(Path(os.path.abspath(target)).parts[-2:])
    previous = _linked_plots(target / "report.md")
    page = to_markdown(table, title, shlex.join(command), list(pictures))
    _replace(target / "report.md", page.encode())
    for stale in previous - set(pictures):
        (target / stale).unlink(missing_ok=True)
    return to_text(table)


def _replace(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _linked_plots(page: Path) -> set[str]:
    """The plots that an earlier report shows."""
    text = page.read_text("utf-8", "replace") if page.exists() else ""
    return set(re.findall(r"\]\((report_[^)/]+\.png)\)", text))


def to_csv(table: SweepTable) -> str:
    """The table for programs: plain numbers, accuracies as fractions, an empty cell for a missing value."""
    rows = table.rows.rename(columns={f"{table.metric} n": "seeds"})
    both = (table.metric, table.test_metric)
    spread = [part for name in both for part in (name, f"{name} std")]
    costs = [
        "params",
        "flops_per_image",
        "train_seconds",
        "train_seconds std",
        "images_per_second",
        "images_per_second std",
    ]
    columns = [*table.titles, *spread, *costs, "seeds", "completed", "jobs", "status"]
    return rows[columns].replace(ABSENT, "").to_csv(index=False)


def cells(table: SweepTable, more: Sequence[str] = ()) -> pd.DataFrame:
    """The table for people, as text: ``titles``, metrics, costs, n, status, then further metrics."""
    rows, shown = table.rows, table.rows[table.titles].copy()
    for name in (table.metric, table.test_metric):
        shown[f"{name} (%)" if is_percentage(name) else name] = [with_spread(row, name) for _, row in rows.iterrows()]
    shown["params"] = rows["params"].map(human)
    shown["FLOPs/image"] = rows["flops_per_image"].map(human)
    shown["train s"] = [with_spread(row, "train_seconds") for _, row in rows.iterrows()]
    shown["images/s"] = [with_spread(row, "images_per_second") for _, row in rows.iterrows()]
    shown["n"], shown["status"] = rows[f"{table.metric} n"].astype(str), rows["status"]
    for name in more:
        shown[name] = [with_spread(row, name) for _, row in rows.iterrows()]
    return shown


def with_spread(row: pd.Series, name: str) -> str:
    """The mean, with ± the sample standard deviation if there are several seeds."""
    if pd.isna(row[name]):
        return ABSENT
    scale = 100 if is_percentage(name) else 1
    digits = 2 if scale == 100 else 4 if "/" in name else 1 if row[name] < 100 else 0
    numbers = [row[name]] if pd.isna(row[f"{name} std"]) else [row[name], row[f"{name} std"]]
    return " ± ".join(f"{scale * value:.{digits}f}" for value in numbers)


def verdict(table: SweepTable) -> str:
    """The best configuration, and how far the second is behind, in sentences."""
    measured = table.measured
    if measured.empty:
        return "No job has a result."
    metric, best = table.metric, measured.iloc[0]
    n, scale, unit = int(best[f"{metric} n"]), *((100, " %") if is_percentage(metric) else (1, ""))
    text = (
        f"Best by {metric}: {table.name(best)}, with {with_spread(best, metric)}{unit}"
        f" (n = {n}; {table.test_metric} {with_spread(best, table.test_metric)}{unit})."
    )
    if len(measured) == 1:
        return text
    second = measured.iloc[1]
    gap, spread = abs(best[metric] - second[metric]), best[f"{metric} std"]
    digits, points = (2, " points") if unit else (4, "")
    text += f" The second, {table.name(second)}, is {scale * gap:.{digits}f}{points} behind"
    if pd.isna(spread):
        return f"{text}; the best has only one seed, so the effect of the seed is unknown."
    within = "within" if gap <= spread else "more than"
    text += f": {within} one standard deviation of the best's {n} seeds ({scale * spread:.{digits}f}{points})."
    return f"{text} That is the spread of single runs, not a test of which is better."


def shared(table: SweepTable) -> Iterable[tuple[str, str]]:
    """What the jobs have in common; every value that occurs where they differ."""
    jobs = table.jobs[table.jobs.configuration >= 0]
    common = {} if jobs.empty else jobs.iloc[0].overrides
    varying = {"seed", *table.keys}
    same = [f"{key}={value}" for key, value in common.items() if key not in varying]
    yield "overrides", ", ".join(f"`{text}`" for text in same) or "none"
    yield "seeds", ", ".join(sorted(set(jobs.seed), key=lambda seed: (len(seed), seed)))
    for fact in ("device", "versions", "git_commit"):
        values = [record.get(fact) for record in jobs.record]
        texts = {
            ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
            for value in values
            if value
        }
        yield fact.replace("_", " "), "; ".join(sorted(texts)) or "not recorded"


def to_markdown(table: SweepTable, title: str, command: str, pictures: Sequence[str] = ()) -> str:
    failures = [
        [name, *(job.overrides.get(key, ABSENT) for key in table.keys), job.seed, job.status, reason]
        for name, job, reason in table.failures()
    ]
    lines = [f"# {title}", "", escape(verdict(table)), ""]
    lines += [
        f"{len(table.jobs)} jobs, {len(table.rows)} configurations, {len(failures)} jobs without a result. Sorted by "
        f"{table.metric}; mean ± sample standard deviation over the n seeds that have a result.",
        "",
    ]
    if copies := table.repeated():
        lines += [f"{copies} jobs repeat a configuration and a seed: n counts them, and ± is too small there.", ""]
    shown = cells(table)
    lines += grid(list(shown), shown.to_numpy().tolist(), left=len(table.keys))
    if failures:
        lines += ["", "## Failures", ""]
        lines += grid(["job", *table.titles, "seed", "status", "reason"], failures, left=99)
    if pictures:
        lines += ["", "## Plots", "", *(f"![{name[7:-4]}]({name})" for name in pictures)]
    lines += ["", "## What all jobs share", "", *(f"- {fact}: {value}" for fact, value in shared(table))]
    return "\n".join([*lines, "", f"Rebuild with `{command}`; for spreadsheets: [report.csv](report.csv).", ""])


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """A Markdown table; columns after the first ``left`` are aligned to the right."""
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    return [f"| {' | '.join(map(escape, row))} |" for row in (head, rule, *rows)]


def escape(text: str) -> str:
    return re.sub(r"([|*_`\\\[])", r"\\\1", text).replace("<", "&lt;")


def to_text(table: SweepTable) -> str:
    """The table for a terminal: the best rows, then one line per failure."""
    shown = cells(table).head(SHOWN).map(_clip)
    width = {title: max(len(_clip(title)), *shown[title].map(len)) for title in shown}
    align = {title: str.ljust if title in table.titles else str.rjust for title in shown}
    lines = [
        "  ".join(align[title](text, width[title]) for title, text in zip(shown, row, strict=True))
        for row in (map(_clip, shown), *shown.itertuples(index=False))
    ]
    if len(table.rows) > SHOWN:
        lines.append(f"… and {len(table.rows) - SHOWN} more in report.md")
    failures = [f"{name}: {job.status}: {reason}" for name, job, reason in table.failures()]
    lines += failures[:SHOWN]
    if len(failures) > SHOWN:
        lines.append(f"… and {len(failures) - SHOWN} more failures in report.md")
    return "\n".join(lines)


def _clip(text: str) -> str:
    return text if len(text) <= MAX_WIDTH else text[: MAX_WIDTH - 1] + "…"
