"""The report of a sweep, built from the jobs' records: ``report.html``, ``report.md``, ``report.csv``, plots."""

import math
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from results import page
from results.metrics import is_percentage
from results.record import REPEAT_KEYS, RESULT_NEUTRAL_KEYS, replacing
from results.statistics import FEW
from results.table import (
    ABSENT,
    COMPARED,
    EQUAL,
    UNTESTED,
    WORSE,
    SweepTable,
    human,
    job_folders,
    ordered,
    read_jobs,
    tabulate,
)

SHOWN = 12  # rows and failures in the terminal
MAX_WIDTH = 32  # characters of a terminal column
MAX_SEEDS = 999  # a larger number is shown as “> 999”
METHOD = (
    "Each configuration is compared with the best over the seeds that both have: the mean of the differences seed by "
    "seed, with a 95 % interval by Student's t. The test is a paired t test, two-sided, at 5 %. Because the best was "
    "chosen by looking at all configurations, p is multiplied by the number of all pairs (Bonferroni); each interval "
    "is for one comparison alone. With the seeds needed, the test would detect a difference as large as the one "
    "measured in 80 % of sweeps. Only validation scores are compared; the test set decides nothing."
)


def write(folders: Sequence[Path], output: Path | None = None, metric: str = "val/top1", plots: bool = True) -> str:
    """Write the report of one sweep, or of several joined, and return the table for the terminal.

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
        raise ValueError(f"{len(folders)} folders: add --output with a folder for the joint report")
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
    rebuild = ["python", "report.py", *map(str, folders)] + ["--metric", metric] * (metric != "val/top1")
    rebuild += ["--output", str(output)] * (output is not None)
    commands = {"repeat": repeat_command(table), "resume": resume_commands(folders), "rebuild": shlex.join(rebuild)}
    title = "/".join(Path(os.path.abspath(target)).parts[-2:])
    previous = _linked_plots(target / "report.md")
    _replace(target / "report.html", to_html(table, title, commands, pictures, target).encode())
    _replace(target / "report.md", to_markdown(table, title, commands, list(pictures)).encode())
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


def repeat_command(table: SweepTable) -> str:
    """The command that runs these jobs again, without overrides that do not change a result.

    Empty if the jobs do not form a grid, so that one command would run additional jobs.
    """
    records = table.jobs.record[table.jobs.configuration >= 0]
    pairs = [[text.partition("=")[::2] for text in record["overrides"]] for record in records]
    typed = [{key: value for key, value in job if key.lstrip("+") not in RESULT_NEUTRAL_KEYS} for job in pairs]
    keys = dict.fromkeys(key for job in typed for key in job)
    values = {key: {job[key] for job in typed if key in job} for key in keys}
    size = math.prod(map(len, values.values()))
    if not typed or size != len({tuple(sorted(job.items())) for job in typed}):
        return ""
    keys = sorted(values, key=lambda key: len(values[key]) > 1)  # in the order typed, swept keys last
    given = [f"{key}={','.join(ordered(values[key]))}" for key in keys]
    return shlex.join(["python", "train.py", *["-m"] * (size > 1), *given])


def resume_commands(folders: Sequence[Path]) -> str:
    """The commands that resume each sweep."""
    return "\n".join(f"python train.py {shlex.quote(f'resume={folder}')}" for folder in folders)


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
    columns = [*table.titles, *spread, *costs, "seeds", "completed", "jobs", "status", *COMPARED]
    return rows[columns].replace(ABSENT, "").to_csv(index=False)


def cells(table: SweepTable, more: Sequence[str] = ()) -> pd.DataFrame:
    """The table for people, as text: ``titles``, metrics, costs, n, status, then further metrics."""
    rows, shown = table.rows, table.rows[table.titles].copy()
    for name in (table.metric, table.test_metric):
        shown[f"{name} (%)" if is_percentage(name) else name] = spreads(rows, name)
    shown["params"] = rows["params"].map(human)
    shown["FLOPs/image"] = rows["flops_per_image"].map(human)
    shown["train s"] = spreads(rows, "train_seconds")
    shown["images/s"] = spreads(rows, "images_per_second")
    shown["n"], shown["status"] = rows[f"{table.metric} n"].astype(str), rows["status"]
    for name in more:
        shown[name] = spreads(rows, name)
    return shown


def compared_cells(table: SweepTable) -> pd.DataFrame:
    """The comparison with the best as text: difference and 95 % interval, corrected p, seeds needed, verdict."""
    scale, digits = (100, 2) if is_percentage(table.metric) else (1, 4)

    def difference(mean: float, low: float, high: float) -> str:
        if pd.isna(mean):
            return ABSENT
        interval = "" if pd.isna(low) else f" [{scale * low:+.{digits}f}, {scale * high:+.{digits}f}]"
        return f"{scale * mean:+.{digits}f}{interval}"

    rows = table.rows
    three = (rows[name] for name in ("difference", "difference low", "difference high"))
    return pd.DataFrame(
        {
            "minus best": list(map(difference, *three)),
            "p": [ABSENT if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}" for p in rows["p corrected"]],
            "seeds needed": [
                _seeds(needed) if verdict == EQUAL and needed > 0 else ABSENT
                for needed, verdict in zip(rows["seeds needed"], rows["verdict"], strict=True)
            ],
            "verdict": rows["verdict"].fillna(ABSENT),
        },
        index=rows.index,
    )


def _seeds(needed: float) -> str:
    return f"> {MAX_SEEDS}" if needed > MAX_SEEDS else f"{needed:.0f}"


def spreads(rows: pd.DataFrame, name: str) -> list[str]:
    """``with_spread`` of each row."""
    columns = [name, f"{name} std"]
    return [with_spread(dict(zip(columns, pair, strict=True)), name) for pair in rows[columns].to_numpy()]


def with_spread(row: pd.Series | dict[str, float], name: str) -> str:
    """The mean, with ± the sample standard deviation if there are several seeds."""
    mean, std = row[name], row[f"{name} std"]
    if pd.isna(mean):
        return ABSENT
    scale = 100 if is_percentage(name) else 1
    digits = 2 if scale == 100 else 4 if "/" in name else 1 if mean < 100 else 0
    return " ± ".join(f"{scale * value:.{digits}f}" for value in ([mean] if pd.isna(std) else [mean, std]))


def verdict(table: SweepTable, names: int = 8) -> list[str]:
    """Sentences: the best configuration, how the rest compare with it, and how strong the evidence is.

    Args:
        names: how many configurations a sentence lists.
    """
    measured = table.measured
    if measured.empty:
        return ["No job has a result."]
    metric, best = table.metric, measured.iloc[0]
    unit = " %" if is_percentage(metric) else ""
    sentences = [
        f"Best by {metric}: {table.name(best)}, with {with_spread(best, metric)}{unit}"
        f" (n = {best[f'{metric} n']}; {table.test_metric} {with_spread(best, table.test_metric)}{unit})."
    ]
    rest = measured.iloc[1:]
    groups = {kind: rest[rest["verdict"] == kind] for kind in (EQUAL, WORSE, UNTESTED)}
    if len(groups[WORSE]):
        sentences.append(f"Worse than the best, beyond seed noise: {_listed(table, groups[WORSE], len(rest), names)}.")
    if len(groups[EQUAL]):
        text = f"Not distinguished from the best: {_listed(table, groups[EQUAL], len(rest), names)}."
        needed = groups[EQUAL]["seeds needed"].dropna()
        if len(needed):
            few, many = _seeds(needed.min()), _seeds(needed.max())
            count = f"about {few}" if few == many else f"from about {few} to {many}"
            text += f" Distinguishing them would probably take {count} seeds each (column: seeds needed)."
        sentences.append(text)
    if len(groups[UNTESTED]):
        sentences.append(
            f"Not tested, because fewer than two seeds are shared with the best: "
            f"{_listed(table, groups[UNTESTED], len(rest), names)}. The seed noise is unknown there."
        )
    shared = rest["shared seeds"][rest["verdict"].isin([EQUAL, WORSE])]
    if len(shared) and shared.min() < FEW:
        sentences.append(f"Weak evidence: only {shared.min():.0f} shared seeds; use {FEW} or more to gauge the noise.")
    return sentences


def _listed(table: SweepTable, rows: pd.DataFrame, of: int, names: int) -> str:
    """Configurations as text: how many, and the names of the first."""
    count = f"all {of} others" if len(rows) == of > 1 else f"{len(rows)} of {of}" if of > 1 else ""
    listed = "; ".join(table.name(row) for _, row in rows.head(names).iterrows())
    more = f"; and {len(rows) - names} more" if len(rows) > names else ""
    return f"{count} ({listed}{more})" if count else listed


def shared(table: SweepTable) -> Iterable[tuple[str, str]]:
    """(fact, text) pairs: what all jobs share, and every value of seeds, devices, versions and commits."""
    jobs = table.jobs[table.jobs.configuration >= 0]
    common = {} if jobs.empty else jobs.iloc[0].overrides
    varying = {*REPEAT_KEYS, *table.keys}
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


def counts(table: SweepTable) -> list[str]:
    """Sentences: the number of jobs, and what the table's numbers mean."""
    sentences = [
        f"{len(table.jobs)} jobs, {len(table.rows)} configurations, {len(list(table.failures()))} jobs without a "
        f"result. Sorted by {table.metric}; mean ± sample standard deviation over the n seeds that have a result."
    ]
    if copies := table.repeated():
        sentences.append(f"{copies} jobs repeat a configuration and a seed: n counts them, so ± is too small there.")
    return sentences


def failure_rows(table: SweepTable) -> list[list[str]]:
    return [
        [name, *(job.overrides.get(key, ABSENT) for key in table.keys), job.seed, job.status, reason]
        for name, job, reason in table.failures()
    ]


def to_html(table: SweepTable, title: str, commands: dict[str, str], pictures: dict[str, bytes], target: Path) -> str:
    """The report as one page that needs no other file; links to the jobs' folders are relative to ``target``."""
    shown, compared = cells(table), compared_cells(table)
    first = len(table.keys) + 1  # after the metric
    if len(table.measured) > 1:
        shown = pd.concat(
            [shown.iloc[:, :first], compared[["verdict", *compared.columns[:-1]]], shown.iloc[:, first:]], axis=1
        )
    if (table.rows["status"] == "completed").all():
        shown = shown.drop(columns="status")
    sections = {
        "verdict": verdict(table),
        "counts": counts(table),
        "method": METHOD if len(table.measured) > 1 else "",
        "failures": (["job", *table.titles, "seed", "status", "reason"], failure_rows(table)),
        "shared": [(fact, value.replace("`", "")) for fact, value in shared(table)],
        "commands": commands,
    }
    return page.render(table, title, shown, sections, pictures, target)


def to_markdown(table: SweepTable, title: str, commands: dict[str, str], pictures: Sequence[str] = ()) -> str:
    failures, several = failure_rows(table), len(table.measured) > 1
    lines = [f"# {title}", ""]
    for sentence in (*verdict(table), *counts(table)):
        lines += [escape(sentence), ""]
    shown = cells(table).join(compared_cells(table)) if several else cells(table)
    lines += grid(list(shown), shown.to_numpy().tolist(), left=len(table.keys))
    lines += ["", METHOD] if several else []
    if failures:
        lines += ["", "## Failures", ""]
        lines += grid(["job", *table.titles, "seed", "status", "reason"], failures, left=99)
    if pictures:
        lines += ["", "## Plots", "", *(f"![{name[7:-4]}]({name})" for name in pictures)]
    lines += ["", "## What all jobs share", "", *(f"- {fact}: {value}" for fact, value in shared(table))]
    if commands["repeat"]:
        lines += ["", f"Repeat with `{commands['repeat']}`."]
    rebuild = f"Rebuild with `{commands['rebuild']}`; to sort and filter: [report.html](report.html)"
    return "\n".join([*lines, "", f"{rebuild}; for spreadsheets: [report.csv](report.csv).", ""])


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """A Markdown table; columns after the first ``left`` are right-aligned."""
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    return [f"| {' | '.join(map(escape, row))} |" for row in (head, rule, *rows)]


def escape(text: str) -> str:
    return re.sub(r"([|*_`\\\[])", r"\\\1", text).replace("<", "&lt;")


def to_text(table: SweepTable) -> str:
    """The table for a terminal: the best rows, one line per failure, then the verdict."""
    shown = cells(table).head(SHOWN).map(_clip)
    width = {title: max(len(_clip(title)), *shown[title].map(len)) for title in shown}
    align = {title: str.ljust if title in table.titles else str.rjust for title in shown}
    lines = [
        "  ".join(align[title](text, width[title]) for title, text in zip(shown, row, strict=True))
        for row in (map(_clip, shown), *shown.itertuples(index=False))
    ]
    if len(table.rows) > SHOWN:
        lines.append(f"… and {len(table.rows) - SHOWN} more in report.html")
    failures = [f"{name}: {job.status}: {reason}" for name, job, reason in table.failures()]
    lines += failures[:SHOWN]
    if len(failures) > SHOWN:
        lines.append(f"… and {len(failures) - SHOWN} more failures in report.html")
    return "\n".join([*lines, *verdict(table, names=3)[: 4 * (len(table.measured) > 1)]])


def _clip(text: str) -> str:
    return text if len(text) <= MAX_WIDTH else text[: MAX_WIDTH - 1] + "…"
