"""A sweep's records as a table: one row for each configuration, over its seeds."""

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from results.record import HARMLESS

ABSENT = "–"
TAKEN = "params flops_per_image train_seconds images_per_second seeds completed jobs status job seed reason n".split()


@dataclass(frozen=True)
class Job:
    """One run; of an unreadable record nothing is known but ``error``."""

    name: str  # its folder, below the sweep's
    status: str
    error: str | None = None
    overrides: dict[str, str] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> str:
        seed = self.overrides.get("seed", self.record.get("seed"))
        return ABSENT if seed is None else str(seed)

    def number(self, name: str) -> float | None:
        """A metric or another measurement; None if the record has no finite one."""
        value = (self.record.get("metrics") or {}).get(name, self.record.get(name))
        good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
        return value if good else None


@dataclass(frozen=True)
class Row:
    """A configuration, as its overrides without the seed, and the jobs that ran it. Numbers are of completed jobs."""

    values: dict[str, str]
    jobs: list[Job] = field(default_factory=list)

    def numbers(self, name: str) -> list[float]:
        numbers = (job.number(name) for job in self.jobs if job.status == "completed")
        return [number for number in numbers if number is not None]

    def mean(self, name: str) -> float | None:
        return mean(self.numbers(name))

    def std(self, name: str) -> float | None:
        return std(self.numbers(name))

    @property
    def completed(self) -> int:
        return sum(job.status == "completed" for job in self.jobs)

    @property
    def status(self) -> str:
        kinds = {job.status for job in self.jobs}
        return kinds.pop() if len(kinds) == 1 else f"{self.completed} of {len(self.jobs)} completed"


@dataclass(frozen=True)
class Table:
    """Rows, the best first by ``metric``; ``keys`` are the overrides that differ, with their titles."""

    metric: str
    rows: list[Row]
    jobs: list[Job]
    keys: dict[str, str]

    @property
    def lower(self) -> bool:
        """Whether less is better."""
        return self.metric.endswith("loss")

    @property
    def test(self) -> str:
        """The test metric beside ``metric``; nothing is sorted or chosen by it."""
        return "test/" + self.metric.partition("/")[2]

    @property
    def measured(self) -> list[Row]:
        return [row for row in self.rows if row.numbers(self.metric)]

    def name(self, row: Row, without: str | None = None) -> str:
        """What sets a configuration apart, in words."""
        parts = [f"{title} {row.values.get(key, ABSENT)}" for key, title in self.keys.items() if key != without]
        return ", ".join(parts) or "the only configuration"

    @property
    def failures(self) -> Iterator[tuple[Job, str]]:
        """The jobs without a result, and why."""
        for job in self.jobs:
            if job.status != "completed":
                unknown = "began; its end is not recorded" if job.status == "running" else "no reason recorded"
                yield job, " ".join(str(job.error or unknown).split())
            elif job.number(self.metric) is None:
                yield job, f"no finite {self.metric} in its record"


def mean(numbers: Sequence[float]) -> float | None:
    return statistics.fmean(numbers) if numbers else None


def std(numbers: Sequence[float]) -> float | None:
    """The sample standard deviation; None of fewer than two."""
    return statistics.stdev(numbers) if len(numbers) > 1 else None


def tabulate(jobs: Sequence[Job], metric: str) -> Table:
    """Join the jobs that differ only in their seed, and sort by the mean of a metric that is not the test set's.

    Equal means are sorted by the mean validation loss, as equal epochs are in a run.

    Raises:
        ValueError: the metric is a test metric, or no completed job has it.
    """
    if metric.startswith("test/"):
        raise ValueError(f"{metric}: nothing is chosen by the test set; say val/{metric[5:]}, and it is shown beside")
    there = sorted({name for job in jobs if job.status == "completed" for name in job.record.get("metrics") or ()})
    if metric not in there and any(job.status == "completed" for job in jobs):
        raise ValueError(f"{metric}: no completed job has this metric; there are: {', '.join(there) or 'none'}")
    rows: dict[frozenset, Row] = {}
    for job in jobs:
        if job.record:
            values = {key: value for key, value in job.overrides.items() if key not in HARMLESS | {"seed"}}
            rows.setdefault(frozenset(values.items()), Row(values)).jobs.append(job)
    options: dict[str, set] = {key: set() for row in rows.values() for key in row.values}
    for key, values in options.items():
        values.update(row.values.get(key, ABSENT) for row in rows.values())
    keys = [key for key, values in options.items() if len(values) > 1]
    last = Counter(key.rpartition(".")[2] for key in keys)
    titles = {key: key.rpartition(".")[2] for key in keys}
    titles = {key: key if last[title] > 1 or title in TAKEN else title for key, title in titles.items()}
    sign = 1 if metric.endswith("loss") else -1

    def rank(row: Row) -> tuple:
        value, loss = row.mean(metric), row.mean("val/loss")
        return (not row.completed, value is None, sign * (value or 0), math.inf if loss is None else loss)

    return Table(metric, sorted(rows.values(), key=rank), list(jobs), titles)


def percent(metric: str) -> bool:
    """Whether a metric is a fraction that people read in percent."""
    return bool(re.search("top[0-9]|accuracy|f1|precision|recall", metric))


def human(value: float) -> str:
    """Three digits and a unit: 0.27 M, 41 M, 4.09 G."""
    for least, scale, unit in ((999.5e9, 1e12, " T"), (999.5e6, 1e9, " G"), (1e5, 1e6, " M"), (999.5, 1e3, " k")):
        if value >= least:
            return f"{value / scale:.3g}{unit}"
    return f"{value:.3g}"


def natural(text: str) -> list[tuple[int, str]]:
    """A sorting key by which 2 comes before 10."""
    return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(re.split("([0-9]{1,15})", text))]


def number(text: str) -> float | None:
    """The finite number that a text stands for, None for other texts."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def order(values: Sequence[str]) -> list[str]:
    """Distinct values: numbers in their order, then words, then the absent."""
    return sorted(set(values), key=lambda v: (v == ABSENT, number(v) is None, number(v) or 0, natural(v)))
