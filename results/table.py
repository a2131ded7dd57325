"""A sweep's records as tables: one row per job, and one row per configuration with statistics over seeds."""

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from results import record as records
from results.metrics import lower_is_better
from results.record import REPEAT_KEYS, RESULT_NEUTRAL_KEYS
from results.run_folder import nearest
from results.statistics import ALPHA, compare

ABSENT = "–"  # an override that a configuration lacks
COSTS = ("params", "flops_per_image", "train_seconds", "images_per_second")
EXPECTED = "expected a sweep's folder, runs/<name>/<date>, whose job folders contain result.json"
# Columns of the comparison with the best; ``results.statistics.Comparison`` explains the numbers.
COMPARED = ("difference", "difference low", "difference high", "shared seeds", "p corrected", "seeds needed", "verdict")
# Column titles that a swept key may not take.
RESERVED = {*COSTS, *COMPARED, "seeds", "completed", "jobs", "status", "job", "seed", "reason", "n"}
# Verdicts on a configuration.
BEST, WORSE, EQUAL, UNTESTED = "best", "worse", "not distinguished", "not tested"


@dataclass(frozen=True)
class SweepTable:
    """The results of one sweep, or of several joined.

    Attributes:
        metric: the validation metric that sorts the configurations.
        keys: override keys that differ between configurations → their column titles.
        jobs: one row per job, indexed by the folder below the sweep's: ``status``, ``error``, ``seed``, ``folder``,
            ``overrides`` and ``record`` (empty if unreadable), and ``configuration``, the index of a row in ``rows``.
        rows: one row per configuration, best first: the titles of ``keys`` (text); for each number, the mean over
            completed jobs, ``<name>``, sample standard deviation, ``<name> std``, and count, ``<name> n``; then
            ``completed``, ``jobs`` and ``status``; then ``COMPARED``, the paired comparison with the best.
        scores: the metric, one row per seed, one column per configuration that has a result, best first.
    """

    metric: str
    keys: dict[str, str]
    jobs: pd.DataFrame
    rows: pd.DataFrame
    scores: pd.DataFrame

    @property
    def titles(self) -> list[str]:
        return list(self.keys.values())

    @property
    def test_metric(self) -> str:
        """The test metric shown next to ``metric``; nothing is sorted or chosen by it."""
        return "test/" + self.metric.partition("/")[2]

    @property
    def measured(self) -> pd.DataFrame:
        """The configurations that have a result."""
        return self.rows[self.rows[f"{self.metric} n"] > 0]

    def jobs_of(self, row: pd.Series) -> pd.DataFrame:
        return self.jobs[self.jobs.configuration == row.name]

    def name(self, row: pd.Series, without: str | None = None) -> str:
        """What distinguishes a configuration, in words."""
        return ", ".join(f"{t} {row[t]}" for t in self.titles if t != without) or "the only configuration"

    def failures(self) -> Iterable[tuple[str, pd.Series, str]]:
        """(name, job, reason) of each job without a result."""
        lacking = self.jobs.record.map(lambda record: number(record, self.metric) is None)
        for name, job in self.jobs[(self.jobs.status != "completed") | lacking].iterrows():
            if job.status != "completed":
                unknown = "started; no end recorded" if job.status == "running" else "no reason recorded"
                yield name, job, " ".join(str(job.error or unknown).split())
            else:
                yield name, job, f"no finite {self.metric} recorded"

    def repeated(self) -> int:
        """How many completed jobs repeat both a configuration and a seed."""
        completed = self.jobs[self.jobs.status == "completed"]
        return int(completed.duplicated(["configuration", "seed"]).sum())


def job_folders(folders: Sequence[Path]) -> list[Path]:
    """The folders at or below ``folders`` that have a record, each once.

    Raises:
        FileNotFoundError: one of ``folders`` does not exist.
        ValueError: it is not a folder, or has no record below it.
    """
    found: dict[Path, None] = {}
    for folder in map(Path, folders):
        if not folder.exists():
            raise FileNotFoundError(f"{folder}: no such folder{nearest(folder)}; {EXPECTED}")
        if not folder.is_dir():
            raise ValueError(f"{folder}: not a folder; {EXPECTED}")
        below = [Path(here).resolve() for here, _, files in os.walk(folder) if records.FILE in files]
        if not below:
            raise ValueError(f"{folder}: no result.json below it; {EXPECTED}")
        found |= dict.fromkeys(sorted(below, key=lambda path: natural(str(path))))
    return list(found)


def read_jobs(folders: Sequence[Path]) -> pd.DataFrame:
    """One row per job, as in ``SweepTable.jobs``, indexed by the path below the sweep or the sweeps' common parent."""
    parent = Path(os.path.commonpath([Path(folder).resolve() for folder in folders]))
    places = job_folders(folders)
    jobs = [_read_job(place) for place in places]
    typed: dict[str, set[str]] = {}
    for job in jobs:
        for key, text in job["overrides"].items():
            typed.setdefault(key, set()).add(text)
    for place, job in zip(places, jobs, strict=True):
        lacking = typed.keys() - job["overrides"].keys() - RESULT_NEUTRAL_KEYS - REPEAT_KEYS
        if lacking and job["record"]:
            job["overrides"] |= _configured(place, {key: typed[key] for key in sorted(lacking)})
        seed = job["overrides"].get("seed", job["record"].get("seed"))
        fold = job["overrides"].get("datamodule.fold")  # folds of a cross-validation are repeats, like seeds
        job["seed"] = ABSENT if seed is None else str(seed) if fold is None else f"{seed} fold {fold}"
        job["folder"] = str(place)
    names = [place.name if place == parent else place.relative_to(parent).as_posix() for place in places]
    return pd.DataFrame(jobs, index=names)


def _read_job(folder: Path) -> dict[str, Any]:
    try:
        record = records.read(folder)
    except (OSError, ValueError) as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        return {"status": "unreadable record", "error": f"{kind}{error}", "overrides": {}, "record": {}}
    pairs = (text.lstrip("+").partition("=") for text in record["overrides"])
    overrides = {key: value for key, _, value in pairs}
    return {"status": record["status"], "error": record.get("error") or "", "overrides": overrides, "record": record}


def _configured(folder: Path, typed: Mapping[str, set[str]]) -> dict[str, str]:
    """Values from a job's config for keys that were typed for other jobs, spelled as typed there if equal.

    Empty for keys that the job's network or data do not have, and for a job without a readable config.
    """
    try:
        config, hydra = (OmegaConf.load(folder / ".hydra" / f"{name}.yaml") for name in ("config", "hydra"))
        choices = OmegaConf.select(hydra, "hydra.runtime.choices") or {}
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        return {}
    found = {}
    for key, texts in typed.items():
        try:
            value = choices[key] if key in choices else OmegaConf.select(config, key, default=ABSENT)
        except OmegaConfBaseException:  # an interpolation that only the run could resolve
            continue
        if value != ABSENT and not OmegaConf.is_config(value):
            text = "null" if value is None else str(value)
            found[key] = next((typed for typed in texts if _equal(typed, text)), text)
    return found


def _equal(one: str, other: str) -> bool:
    return one.lower() == other.lower() or as_number(one) is not None and as_number(one) == as_number(other)


def tabulate(jobs: pd.DataFrame, metric: str, more: Sequence[str] = ()) -> SweepTable:
    """Group the jobs that differ only in the seed, and sort the groups by the mean of a validation metric.

    Equal means are sorted by lower mean ``val/loss``.

    Args:
        jobs: of ``read_jobs``.
        metric: a validation metric.
        more: further metrics to include.

    Raises:
        ValueError: the metric is a test metric, or no completed job has it.
    """
    if metric.startswith("test/"):
        raise ValueError(f"{metric}: the test set decides nothing; use val/{metric[5:]}, which is shown next to it")
    completed = jobs.status == "completed"
    known = sorted({name for record in jobs.record[completed] for name in record.get("metrics") or ()})
    if metric not in known and completed.any():
        raise ValueError(f"{metric}: no completed job has this metric; there are: {', '.join(known) or 'none'}")

    readable = jobs[jobs.record.map(bool)]
    overrides = pd.DataFrame(list(readable.overrides), index=readable.index).drop(
        columns=[*RESULT_NEUTRAL_KEYS, *REPEAT_KEYS], errors="ignore"
    )
    overrides = overrides.astype(object).where(overrides.notna(), ABSENT)
    keys = _titles([key for key in overrides if overrides[key].nunique() > 1])
    groups = overrides.groupby(list(keys), sort=False).ngroup() if keys else pd.Series(0, index=readable.index)
    jobs = jobs.assign(configuration=groups.reindex(jobs.index, fill_value=-1))

    names = dict.fromkeys([metric, "test/" + metric.partition("/")[2], "val/loss", *COSTS, *more])
    numbers = pd.DataFrame({name: [number(record, name) for record in readable.record] for name in names}, dtype=float)
    numbers = numbers.set_index(readable.index)
    numbers[~completed[readable.index]] = math.nan
    statistics = _statistics(numbers, readable.status, groups)
    rows = overrides[list(keys)].groupby(groups).first().rename(columns=keys)
    rows = rows.join(statistics) if keys else statistics
    direction = 1 if lower_is_better(metric) else -1
    order = pd.DataFrame(
        {"none": rows.completed == 0, "value": (direction * rows[metric]).round(9), "loss": rows["val/loss"]}
    )
    rows = rows.loc[order.sort_values(["none", "value", "loss"], kind="stable").index]
    scores = numbers[metric].groupby([jobs.seed[readable.index], groups]).mean().unstack()  # a repeated job counts once
    scores = scores.loc[ordered(scores.index), [row for row in rows.index if rows[f"{metric} n"][row]]]
    return SweepTable(metric, keys, jobs, rows.join(_compared(scores, direction)), scores)


def _statistics(numbers: pd.DataFrame, statuses: pd.Series, groups: pd.Series) -> pd.DataFrame:
    """Per configuration: mean, standard deviation and count of each number, and the status of the jobs."""
    found = numbers.groupby(groups).agg(["mean", "std", "count"])
    suffixes = {"mean": "", "std": " std", "count": " n"}
    found.columns = [f"{name}{suffixes[kind]}" for name, kind in found.columns]
    status = statuses.groupby(groups)
    found["completed"] = status.agg(lambda each: int((each == "completed").sum()))
    found["jobs"] = status.size()
    mixed = found["completed"].astype(str) + " of " + found["jobs"].astype(str) + " completed"
    found["status"] = status.first().where(status.nunique() == 1, mixed)
    return found


def _compared(scores: pd.DataFrame, direction: int) -> pd.DataFrame:
    """The columns ``COMPARED`` of the configurations that have a result.

    Args:
        scores: as in ``SweepTable.scores``; the best first.
        direction: 1 if smaller values of the metric are better, else -1.
    """
    if scores.empty:
        return pd.DataFrame(columns=list(COMPARED), index=scores.columns)
    found = compare(scores.drop(index=ABSENT, errors="ignore"), scores.columns[0])
    worse = (found["p"] <= ALPHA) & (direction * found["difference"] > 0)
    found["verdict"] = worse.map({True: WORSE, False: EQUAL}).where(found["p"].notna(), UNTESTED)
    found.columns = list(COMPARED)
    best = pd.DataFrame({"verdict": [BEST]}, index=scores.columns[:1])
    return pd.concat([best, found])


def _titles(keys: Sequence[str]) -> dict[str, str]:
    """Key → column title: the last part of the key, or the whole key if that would be ambiguous."""
    last = {key: key.rpartition(".")[2] for key in keys}
    count = Counter(last.values())
    return {key: key if count[title] > 1 or title in RESERVED else title for key, title in last.items()}


def number(record: Mapping[str, Any], name: str) -> float | None:
    """A metric or another number of a record; None if it is missing or not finite."""
    value = (record.get("metrics") or {}).get(name, record.get(name))
    valid = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return value if valid else None


def human(value: float) -> str:
    """Three digits and a unit: 0.27 M, 41 M, 4.09 G."""
    if math.isnan(value):
        return ABSENT
    for least, scale, unit in ((999.5e9, 1e12, " T"), (999.5e6, 1e9, " G"), (1e5, 1e6, " M"), (999.5, 1e3, " k")):
        if value >= least:
            return f"{value / scale:.3g}{unit}"
    return f"{value:.3g}"


def natural(text: str) -> list[tuple[int, str]]:
    """A sort key that puts 2 before 10."""
    return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(re.split("([0-9]{1,15})", text))]


def as_number(text: str) -> float | None:
    """The finite number that a text stands for, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def ordered(values: Iterable[str]) -> list[str]:
    """Distinct values: numbers by size, then words, then ``ABSENT``."""
    return sorted(set(values), key=lambda v: (v == ABSENT, as_number(v) is None, as_number(v) or 0, natural(v)))
