"""What a report's plots show, as plain numbers."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from results.table import ABSENT, Row, Table, mean, order, std

MAX_LINES = 8  # in one plot


class Line(NamedTuple):
    """The metric against a key's values, as typed; an error is a standard deviation, nan of a single number."""

    label: str
    x: list[str]
    y: list[float]
    errors: list[float]


def axis_values(table: Table, key: str) -> list[str]:
    return order([row.values.get(key, ABSENT) for row in table.rows])


def lines(table: Table, key: str) -> tuple[list[Line], bool]:
    """A line for each combination of the other keys; of more than MAX_LINES, their mean, and True."""
    if key == "seed":
        completed = [job for row in table.rows for job in row.jobs if job.status == "completed"]
        jobs = {job.seed: job.number(table.metric) for job in completed}
        x = [seed for seed in order(list(jobs)) if jobs[seed] is not None]
        return [Line("", x, [jobs[seed] for seed in x], [math.nan] * len(x))], False
    groups: dict[str, dict[str, list[Row]]] = {}
    averaged = len({table.name(row, without=key) for row in table.measured}) > MAX_LINES
    for row in table.measured:
        label = "" if averaged or len(table.keys) == 1 else table.name(row, without=key)
        groups.setdefault(label, {}).setdefault(row.values.get(key, ABSENT), []).append(row)
    found = []
    for label in order(list(groups)):
        x = order(list(groups[label]))
        rows = [groups[label][value] for value in x]
        numbers = [
            [row.mean(table.metric) for row in here] if averaged else here[0].numbers(table.metric) for here in rows
        ]
        errors = [math.nan if len(part) < 2 else std(part) for part in numbers]
        found.append(Line(label, x, [mean(part) for part in numbers], errors))
    return found, averaged


def cells(table: Table) -> list[list[float | str]]:
    """A table's two keys as rows and columns: the metric's mean, or why there is none."""
    down, across = table.keys
    known = {(row.values.get(down, ABSENT), row.values.get(across, ABSENT)): row for row in table.rows}
    grid: list[list[float | str]] = []
    for y in axis_values(table, down):
        found = [known.get((y, x)) for x in axis_values(table, across)]
        values = [(row.mean(table.metric), row) if row else (None, None) for row in found]
        grid.append([v if v is not None else "not run" if r is None else r.status for v, r in values])
    return grid


def points(table: Table, cost: str) -> list[tuple[float, float, float, str]]:
    """Cost, metric, its standard deviation (or nan) and a short label of each configuration that has both."""
    found = []
    for row in table.measured:
        price, spread = row.mean(cost), row.std(table.metric)
        if price is not None and price > 0:
            label = "·".join(row.values.get(key, ABSENT) for key in table.keys)
            found.append((price, row.mean(table.metric), math.nan if spread is None else spread, label))
    return found


def pareto(costs: Sequence[float], values: Sequence[float], lower: bool) -> list[int]:
    """The indices of those that no other beats in cost or value without losing in the other, the cheapest first."""
    ranked = [(cost, value if lower else -value) for cost, value in zip(costs, values, strict=True)]
    front: list[int] = []
    for i in sorted(range(len(ranked)), key=ranked.__getitem__):
        if not front or ranked[i][1] < ranked[front[-1]][1] or ranked[i] == ranked[front[-1]]:
            front.append(i)
    return front
