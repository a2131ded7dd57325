"""The jobs of a sweep: what is done is not done again, what failed is tried again, what broke off goes on."""

import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from results import record as records
from results.run_folder import FOLDER, LAST

# Environment variables of a sweep's jobs (hydra.job.env_set): when it began, and how many jobs it has.
BEGAN, SIZE = "SWEEP_BEGAN", "SWEEP_SIZE"
log = logging.getLogger(__name__)


def earlier(run_dir: str | Path, overrides: Sequence[str]) -> dict[str, Any] | None:
    """The record that an earlier attempt at this job left; None if there is no sound one.

    Raises:
        ValueError: the folder holds another job.
    """
    folder = Path(run_dir)
    record = sound(folder)
    if record is None:
        return None
    before, now = (_essential(typed) for typed in (record["overrides"], overrides))
    if before != now:
        had, has = (" ".join(sorted(part)) or "nothing more" for part in (before - now, now - before))
        raise ValueError(f"{folder} holds a job with {had}, this one has {has}; take another hydra.sweep.dir")
    return record


def sound(folder: Path) -> dict[str, Any] | None:
    """A run's record, whoever left it; None if there is no sound one."""
    try:
        return records.read(folder)
    except (OSError, ValueError):
        return None


def is_completed(folder: Path) -> bool:
    record = sound(folder)
    return record is not None and record["status"] == "completed"


def ended(run_dir: str | Path, record: dict[str, Any]) -> bool:
    """Whether a job is not to be run: it was completed, or it has failed in this very sweep."""
    if record["status"] == "failed":
        return (Path(run_dir) / records.FILE).stat().st_mtime > float(os.environ.get(BEGAN, "inf"))
    return record["status"] == "completed"


def _essential(overrides: Sequence[str]) -> set[str]:
    essential = (typed for typed in overrides if typed.partition("=")[0].lstrip("+") not in records.HARMLESS)
    return set(map(records.redact_override, essential))  # as they stand in a record


@contextmanager
def alone(run_dir: str | Path, wait: bool = True) -> Iterator[None]:
    """Keep other processes from the same run; the system lets go of it however this process ends.

    Args:
        wait: for a process that is at work in this folder; else it is an error that there is one.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(Path(run_dir) / ".lock")
    try:
        if records.is_main_process():
            lock.acquire(timeout=0)
    except Timeout:
        said = f"another process is at work in {run_dir}"
        if not wait:
            raise ValueError(said) from None
        log.info(f"{said}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        if lock.is_locked and not wait:
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def checkpoint(run_dir: str | Path, record: dict[str, Any] | None) -> str | None:
    """The checkpoint from which a job goes on; None if it starts anew, without an earlier attempt's leftovers.

    Args:
        run_dir: the job's folder.
        record: what the earlier attempt left.
    """
    folder = Path(run_dir)
    last = folder / FOLDER / LAST
    if record and record["status"] in ("running", "interrupted") and last.exists():
        return str(last)
    shutil.rmtree(last.parent, ignore_errors=True)
    for events in folder.glob("events.out.tfevents.*"):
        events.unlink()
    return None


def keep_interrupted(run_dir: str | Path, last: str | None) -> None:
    """A job that failed before it came any further than its last checkpoint can still go on from there.

    Its data may have been out of reach, or another process had its memory.

    Args:
        last: the checkpoint that it went on from, if any.
    """
    record, start = sound(Path(run_dir)), Path(run_dir, ".hydra", "config.yaml")  # written when a job begins
    if not (last and record and start.exists() and os.path.exists(last)):
        return
    if os.path.getmtime(last) < start.stat().st_mtime:
        records.write(run_dir, record | {"status": "interrupted"})


def seconds_left(sweep_dir: str | Path, size: int) -> float | None:
    """How long a sweep will still take when a job of it begins: as its completed jobs took, as many at a time as now.

    Args:
        sweep_dir: with the jobs' folders.
        size: how many jobs it has.

    Returns:
        Seconds; None before a job has been completed since the sweep began or went on.
    """
    began, took, ended, running = float(os.environ.get(BEGAN, "inf")), [], 0, 1  # the one that begins
    for file in Path(sweep_dir).glob(f"*/{records.FILE}"):
        record, at = sound(file.parent), file.stat().st_mtime
        if record is None:
            continue
        ended += record["status"] == "completed" or record["status"] == "failed" and at > began
        running += record["status"] == "running" and at > began
        start = file.parent / ".hydra" / "config.yaml"  # written when a job begins
        if record["status"] == "completed" and at > began and start.exists():
            took.append(at - start.stat().st_mtime)
    return sum(took) / len(took) * max(1, (size - ended) / running) if took else None


def duration(seconds: float) -> str:
    """In words, as exactly as an estimate is."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def is_requeued() -> bool:
    """Whether SLURM has started this job before, with the very same command."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


class Reporter:
    """Renews a sweep's report after each job; the plots only so often that they take a twentieth of the time."""

    def __init__(self):
        self.next_drawing = time.monotonic() + 20

    def __call__(self, sweep_dir: str | Path, metric: str) -> None:
        from results import report  # it is needed after the first job only

        began = time.monotonic()
        draw = began >= self.next_drawing
        try:
            report.write([Path(sweep_dir)], metric=metric, plots=draw)
        except Exception as error:  # a report must not cost a run
            log.warning(f"no report in {sweep_dir}: {records.one_line(error)}")
        if draw:
            now = time.monotonic()
            self.next_drawing = now + 20 * (now - began)


report_now_and_then = Reporter()
