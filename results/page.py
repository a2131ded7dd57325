"""The report of a table, as Markdown, as CSV and for the terminal."""

import csv
import io
import re
from collections.abc import Iterator, Sequence

from results.table import ABSENT, Row, Table, human, percent

SHOWN = 12  # rows and failures in the terminal
WIDEST = 32  # characters of a terminal column


def to_csv(table: Table) -> str:
    """The table for programs: raw numbers, an empty cell where there is none, accuracies as fractions."""
    spread = [table.metric, table.test, "train_seconds", "images_per_second"]
    names = [table.metric, table.test, "params", "flops_per_image", "train_seconds", "images_per_second"]
    head = [part for name in names for part in ([name, f"{name} std"] if name in spread else [name])]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*table.keys.values(), *head, "seeds", "completed", "jobs", "status"])
    for row in table.rows:
        numbers = [row.std(name[:-4]) if name.endswith(" std") else row.mean(name) for name in head]
        counts = [len(row.numbers(table.metric)), row.completed, len(row.jobs)]
        writer.writerow([*(row.values.get(key) for key in table.keys), *numbers, *counts, row.status])
    return file.getvalue()


def headings(table: Table) -> list[str]:
    metrics = [f"{name} (%)" if percent(name) else name for name in (table.metric, table.test)]
    return [*table.keys.values(), *metrics, "params", "FLOPs/image", "train s", "images/s", "n", "status"]


def cells(table: Table, row: Row) -> list[str]:
    """One configuration for people, as under ``headings``."""
    costs = [human(value) if value is not None else ABSENT for value in map(row.mean, ("params", "flops_per_image"))]
    times = [with_spread(row, name) for name in ("train_seconds", "images_per_second")]
    metrics = [with_spread(row, table.metric), with_spread(row, table.test)]
    values = [row.values.get(key, ABSENT) for key in table.keys]
    return [*values, *metrics, *costs, *times, str(len(row.numbers(table.metric))), row.status]


def with_spread(row: Row, name: str) -> str:
    """The mean, with ± the sample standard deviation if there are several seeds."""
    center, spread = row.mean(name), row.std(name)
    if center is None:
        return ABSENT
    scale = 100 if percent(name) else 1
    digits = 2 if scale == 100 else 4 if "/" in name else 1 if center < 100 else 0
    return " ± ".join(f"{scale * value:.{digits}f}" for value in (center, spread) if value is not None)


def verdict(table: Table) -> str:
    """The best configuration, and how far the second is behind, in sentences."""
    if not table.measured:
        return "No job has a result."
    best, *others = table.measured
    metric, unit = table.metric, " %" if percent(table.metric) else ""
    n = len(best.numbers(metric))
    said = f"The best by {metric}: {table.name(best)}, with {with_spread(best, metric)}{unit}"
    said += f" (n = {n}; {table.test} {with_spread(best, table.test)}{unit})."
    if not others:
        return said
    gap, spread, scale = abs(best.mean(metric) - others[0].mean(metric)), best.std(metric), 100 if unit else 1
    digits, points = (2, " points") if unit else (4, "")
    said += f" The second, {table.name(others[0])}, is {scale * gap:.{digits}f}{points} behind"
    if spread is None:
        return f"{said}; the best has one seed only, so how much the seed matters is not known."
    within = "within" if gap <= spread else "more than"
    said += f": {within} one standard deviation of the best's {n} seeds ({scale * spread:.{digits}f}{points})."
    return f"{said} That is the spread of single runs, not a test of which is better."


def shared(table: Table) -> Iterator[tuple[str, str]]:
    """What the jobs have in common; where they differ, all that occurs."""
    jobs = [job for job in table.jobs if job.record]
    common = [f"{key}={value}" for key, value in table.rows[0].values.items() if key not in table.keys] if jobs else []
    yield "overrides", ", ".join(f"`{part}`" for part in common) or "none"
    seeds = sorted({job.seed for job in jobs}, key=lambda seed: (len(seed), seed))
    yield "seeds", ", ".join(seeds)
    for fact in ("device", "versions", "git_commit"):
        values = [job.record.get(fact) for job in jobs]
        told = [
            ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value for value in values
        ]
        yield fact.replace("_", " "), "; ".join(sorted({str(value) for value in told if value})) or "not recorded"


def repeated(table: Table) -> int:
    """How many completed jobs repeat both a configuration and a seed."""
    seeds = [[job.seed for job in row.jobs if job.status == "completed"] for row in table.rows]
    return sum(len(row) - len(set(row)) for row in seeds)


def to_markdown(table: Table, title: str, command: str, pictures: Sequence[str] = (), drawn_now: bool = True) -> str:
    failures = [
        [job.name, *(job.overrides.get(key, ABSENT) for key in table.keys), job.seed, job.status, reason]
        for job, reason in table.failures
    ]
    lines = [f"# {title}", "", escape(verdict(table)), ""]
    lines += [
        f"{len(table.jobs)} jobs, {len(table.rows)} configurations, {len(failures)} jobs without a result. Sorted by "
        f"{table.metric}; mean ± sample standard deviation over the n seeds that have a result.",
        "",
    ]
    if copies := repeated(table):
        lines += [f"{copies} jobs repeat a configuration and a seed: n counts them, and ± is too small there.", ""]
    lines += grid(headings(table), [cells(table, row) for row in table.rows], left=len(table.keys))
    if failures:
        lines += ["", "## Failures", ""]
        lines += grid(["job", *table.keys.values(), "seed", "status", "reason"], failures, left=99)
    if pictures:
        state = "" if drawn_now else " (of an earlier state of the sweep)"
        lines += ["", f"## Plots{state}", "", *(f"![{name[7:-4]}]({name})" for name in pictures)]
    lines += ["", "## What all jobs share", "", *(f"- {fact}: {value}" for fact, value in shared(table))]
    return "\n".join([*lines, "", f"Rebuilt by `{command}`; for spreadsheets: [report.csv](report.csv).", ""])


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """A Markdown table, whose columns after the first ``left`` are aligned to the right."""
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    return [f"| {' | '.join(map(escape, row))} |" for row in (head, rule, *rows)]


def escape(text: str) -> str:
    return re.sub(r"([|*_`\\\[])", r"\\\1", text).replace("<", "&lt;")


def to_text(table: Table) -> str:
    """The table for a terminal: the best rows, then the failures, a line each."""
    rows = [[clip(cell) for cell in line] for line in (headings(table), *(cells(table, r) for r in table.rows[:SHOWN]))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = len(table.keys)
    lines = [
        "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    if len(table.rows) > SHOWN:
        lines.append(f"… and {len(table.rows) - SHOWN} more in report.md")
    failures = list(table.failures)
    lines += [f"{job.name}: {job.status}: {reason}" for job, reason in failures[:SHOWN]]
    if len(failures) > SHOWN:
        lines.append(f"… and {len(failures) - SHOWN} more failures in report.md")
    return "\n".join(lines)


def clip(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"
