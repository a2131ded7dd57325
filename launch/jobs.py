"""One run or one job of a sweep: lock the folder; skip completed jobs, retry failed ones, resume interrupted ones."""

import functools
import itertools
import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from launch.sweep_folder import stored_command
from launch.validation import quote
from results import record as records
from results.errors import report_error, tracebacks
from results.record import OutOfTime, is_main_process, one_line, signal_code
from results.run_folder import FOLDER, LAST, short

log = logging.getLogger(__name__)
SIZE = "SWEEP_SIZE"  # environment variable: the number of jobs in a sweep; 0 in a search


def as_job(task: Callable) -> Callable:
    """Wrap ``task(cfg)``: report errors in one line, return exit codes, and keep a sweep running when one job fails."""

    @functools.wraps(task)
    def job(cfg: DictConfig) -> float | None:
        _leave_run_dir()
        if HydraConfig.get().mode == RunMode.MULTIRUN and "monitor" in cfg:
            return _sweep_job(task, cfg)
        try:
            with lock_run_dir(cfg.run_dir, wait=False):
                if "monitor" in cfg and is_requeued() and _resume_requeued(cfg):
                    return None
                return task(cfg)
        except Exception as error:
            _log_to_file(error)
            code = report_error(error)
            if isinstance(error, OutOfTime):
                _print_resume_command(cfg.run_dir)
            sys.exit(code)
        except BaseException as end:  # a signal or an exit
            if signal_code(end):
                _print_resume_command(cfg.run_dir)
            sys.exit(signal_code(end) or getattr(end, "code", 1))

    return job


def _leave_run_dir() -> None:
    """Undo ``hydra.job.chdir=true``: relative paths start from the folder in which they were typed."""
    started_in = HydraConfig.get().runtime.cwd
    if HydraConfig.get().job.chdir and os.path.isdir(started_in):
        log.warning(
            f"hydra.job.chdir=true: relative paths still start from {started_in}; the run's files are in run_dir"
        )
        os.chdir(started_in)


def _sweep_job(task: Callable, cfg: DictConfig) -> float | None:
    """Run one job of a sweep. Returns None if it fails: the record has the reason, and the other jobs continue."""
    if HydraConfig.get().launcher.get("n_jobs", 1) not in (1, None):
        _take_gpu(HydraConfig.get().job.num)
    sweep_dir = Path(HydraConfig.get().runtime.cwd, HydraConfig.get().sweep.dir)
    number, size = HydraConfig.get().job.num + 1, int(os.environ.get(SIZE, 0))
    name = f"job {number} of {size}" if size else f"job {number}"
    name += f"  {Path(cfg.run_dir).name}"
    with lock_run_dir(cfg.run_dir):
        previous = previous_record(cfg.run_dir, cli_overrides())
        if previous and previous["status"] == "completed":
            score = previous["metrics"].get(cfg.monitor)
            log.info(f"{name}  {cfg.monitor} {_text(score)}  was already completed")
            return score
        last, began = resume_checkpoint(cfg.run_dir, previous), time.perf_counter()
        cfg.ckpt_path = last or cfg.ckpt_path
        try:
            with quiet_console(cfg.verbose):
                log.info(f"{name}{'  resumes from {LAST}' if last else ''}")
                score = task(cfg)
        except BaseException as error:
            if signal_code(error):
                sys.exit(signal_code(error))  # ends the sweep
            _log_to_file(error)
            mark_resumable(cfg.run_dir, last)
            what = "interrupted" if isinstance(error, OutOfTime) else "failed"
            log.error(f"{name}  {what}: {one_line(error)}", exc_info=error if tracebacks() else None)
            return None
        took = duration(time.perf_counter() - began)
        resumed, left = "  resumed" if last else "", time_left(sweep_dir, size)
        log.info(f"{name}  {cfg.monitor} {_text(score)}  {took}{resumed}{left}")
        return score


def _text(score: float | None) -> str:
    return "unknown" if score is None else f"{score:.4f}"


@contextmanager
def quiet_console(verbose: bool) -> Iterator[None]:
    """Show only warnings and errors on the console, unless ``verbose``; the job's log file gets all messages."""
    consoles = [h for h in logging.root.handlers if getattr(h, "stream", None) in (sys.stdout, sys.stderr)]
    levels = [handler.level for handler in consoles]
    for handler in () if verbose else consoles:
        handler.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for handler, level in zip(consoles, levels, strict=True):
            handler.setLevel(level)


def _take_gpu(number: int) -> None:
    """Before the first job, give this process of a parallel launcher one of the visible GPUs, in turn."""
    if "torch" in sys.modules:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        gpus = [str(gpu) for gpu, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
    else:
        gpus = [gpu for gpu in visible.split(",") if gpu]
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]


@contextmanager
def lock_run_dir(run_dir: str | Path, wait: bool = True) -> Iterator[None]:
    """Keep other processes out of a run's folder; the system releases the lock however this process ends.

    Args:
        wait: for another process to release the folder; otherwise a locked folder is an error.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(Path(run_dir) / ".lock")
    try:
        if is_main_process():
            lock.acquire(timeout=0)
    except Timeout:
        message = f"another process is using {run_dir}"
        if not wait:
            raise ValueError(message) from None
        log.info(f"{message}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        if lock.is_locked and not wait:
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def previous_record(run_dir: str | Path, overrides: Sequence[str]) -> dict[str, Any] | None:
    """The record that an earlier attempt at this job left; None if there is no valid one.

    Raises: ValueError: the folder holds another job.
    """
    record = read_valid_record(run_dir)
    if record is None:
        return None
    before, now = (_relevant(texts) for texts in (record["overrides"], overrides))
    if before != now:
        had, has = (" ".join(sorted(part)) or "nothing more" for part in (before - now, now - before))
        raise ValueError(f"{run_dir} holds a job with {had}, this one has {has}; choose another hydra.sweep.dir")
    return record


def _relevant(overrides: Sequence[str]) -> set[str]:
    """The overrides that can change a result, in the form that records store."""
    relevant = (text for text in overrides if text.partition("=")[0].lstrip("+") not in records.RESULT_NEUTRAL_KEYS)
    return set(map(records.redact_override, relevant))


def read_valid_record(run_dir: str | Path) -> dict[str, Any] | None:
    """A run's record, or None if it is missing or damaged."""
    try:
        return records.read(run_dir)
    except (OSError, ValueError):
        return None


def is_completed(run_dir: str | Path) -> bool:
    record = read_valid_record(run_dir)
    return record is not None and record["status"] == "completed"


def resume_checkpoint(run_dir: str | Path, previous: dict[str, Any] | None) -> str | None:
    """The checkpoint from which a job resumes; otherwise None, after deleting the files of a failed attempt."""
    folder = Path(run_dir)
    last = folder / FOLDER / LAST
    if previous and previous["status"] in ("running", "interrupted") and last.exists():
        return str(last)
    shutil.rmtree(last.parent, ignore_errors=True)
    for events in folder.glob("events.out.tfevents.*"):
        events.unlink()
    return None


def mark_resumable(run_dir: str | Path, last: str | None) -> None:
    """Mark a job that failed before it got past the checkpoint ``last`` as interrupted, so that it resumes there."""
    record, start = read_valid_record(run_dir), Path(run_dir, ".hydra", "config.yaml")  # written when a job starts
    if last and record and start.exists() and os.path.exists(last) and os.path.getmtime(last) < start.stat().st_mtime:
        records.write(run_dir, record | {"status": "interrupted"})


def time_left(sweep_dir: Path, size: int) -> str:
    """The estimated time left when a job ends, from the jobs that have completed since this sweep started."""
    start_file = sweep_dir / "multirun.yaml"  # Hydra writes it when a sweep starts
    if not size or not start_file.is_file():
        return ""
    started, took, ended, running = start_file.stat().st_mtime, [], 0, 1
    for file in sweep_dir.glob(f"*/{records.FILE}"):
        record, at = read_valid_record(file.parent), file.stat().st_mtime
        status, start = record and record["status"], file.parent / ".hydra" / "config.yaml"
        ended += status == "completed" or status == "failed" and at > started
        running += status == "running" and at > started
        if status == "completed" and at > started and start.exists():
            took.append(at - start.stat().st_mtime)
    if not took or ended >= size:
        return ""
    return f"  about {duration(sum(took) / len(took) * max(1, (size - ended) / running))} left"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def is_requeued() -> bool:
    """Whether SLURM has started this job before, with the same command."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


def _resume_requeued(cfg: DictConfig) -> bool:
    """Resume a requeued SLURM job in the same folder. Returns whether it was already completed.

    Raises: ValueError, OSError: the folder is new, or holds another run.
    """
    previous = previous_record(cfg.run_dir, cli_overrides())
    if previous is None and not is_given(HydraConfig.get(), "hydra.run.dir"):
        raise FileNotFoundError(
            f"SLURM requeued this job, but {cfg.run_dir} is a new folder with nothing to resume; "
            "give the job a fixed folder, such as hydra.run.dir=runs/$SLURM_JOB_ID"
        )
    if previous and previous["status"] == "completed":
        log.info(f"{cfg.run_dir} is completed; there is nothing to resume")
        return True
    last = Path(cfg.run_dir, FOLDER, LAST)
    if last.is_file():
        cfg.ckpt_path = str(last)
    return False


def _print_resume_command(run_dir: str) -> None:
    if Path(run_dir, FOLDER, LAST).is_file() and is_main_process():
        print(f"resume with: python {sys.argv[0]} {shlex.quote(f'resume={short(run_dir)}')}", file=sys.stderr)


def _log_to_file(error: BaseException) -> None:
    """Write an error with the traceback to the run's log; the console gets one line."""
    trace = (type(error), error, error.__traceback__)
    entry = log.makeRecord(log.name, logging.ERROR, __file__, 0, one_line(error), (), trace)
    for handler in logging.root.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(entry)


def claim_folder(config: DictConfig, key: str) -> None:
    """Create the folder of a new run or sweep, unless the command line names one.

    If the folder exists, the name gets a number, such as ``2026-11-25_10-00-00_2``: no two processes share a folder.

    Args:
        key: of the folder, ``hydra.run.dir`` or ``hydra.sweep.dir``.
    """
    if is_given(config.hydra, key) or not is_main_process():
        return
    wanted = folder = Path(OmegaConf.select(config, key))
    for number in itertools.count(2):
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            folder = wanted.with_name(f"{wanted.name}_{number}")
    with read_write(config.hydra):
        OmegaConf.update(config, key, str(folder))
        if key == "hydra.sweep.dir":  # Hydra composes the config of each job from the overrides
            config.hydra.overrides.hydra.append(f"{key}={quote(str(folder))}")


def forbid_in_sweep(what: str) -> None:
    """Raise a ValueError in a sweep, unless SLURM started the job's processes: each would run the whole sweep again."""
    in_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if in_sweep and "SLURM_PROCID" not in os.environ:
        raise ValueError(f"{what} cannot be part of a sweep; use trainer.devices=1, or run each job separately")


def cli_overrides() -> list[str]:
    """The overrides that were typed for this run; none outside a script."""
    return overrides_of(HydraConfig.get()) if HydraConfig.initialized() else []


def swept_keys() -> set[str]:
    """The keys that differ between the jobs of the sweep that this run belongs to; none for a single run."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return set()
    hydra = HydraConfig.get()
    command = stored_command(Path(hydra.runtime.cwd, hydra.sweep.dir))
    return {*(hydra.sweeper.get("params") or ()), *(command.swept() if command else ())}


def is_given(hydra: DictConfig, key: str) -> bool:
    """Whether the command line sets a key of Hydra."""
    return any(override.startswith(f"{key}=") for override in overrides_of(hydra, "hydra"))


def overrides_of(hydra: DictConfig, kind: str = "task") -> list[str]:
    """The ``task`` or ``hydra`` overrides of a command line, as typed; ``${…}`` is not resolved."""
    return OmegaConf.to_container(hydra.overrides[kind])
