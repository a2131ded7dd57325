"""What Hydra calls: a script's task with a folder of its own, its errors said and turned into exit codes."""

import functools
import logging
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from launch import job_state, side_by_side
from launch.mistakes import tell
from results.record import OutOfTime, is_main_process, one_line, signal_code
from results.run_folder import FOLDER, LAST, short

log = logging.getLogger(__name__)


def as_job(task: Callable) -> Callable:
    """``task`` with its errors said at once and turned into exit codes; in a sweep it leaves the other jobs alone."""

    @functools.wraps(task)
    def job(cfg: DictConfig) -> float | None:
        leave_run_dir()
        if HydraConfig.get().mode == RunMode.MULTIRUN and "monitor" in cfg:  # else it keeps no record
            return _job_of_sweep(task, cfg)
        try:
            with job_state.alone(cfg.run_dir, wait=False):
                if "monitor" in cfg and job_state.is_requeued() and _go_on(cfg):
                    return None
                return task(cfg)
        except Exception as error:
            _log_to_file(error)
            code = tell(error)
            if isinstance(error, OutOfTime):
                _say_how_it_goes_on(cfg.run_dir)
            sys.exit(code)
        except BaseException as end:  # a signal, or an exit
            if signal_code(end):
                _say_how_it_goes_on(cfg.run_dir)
            sys.exit(signal_code(end) or getattr(end, "code", 1))

    return job


def leave_run_dir() -> None:
    """Undo ``hydra.job.chdir=true``: relative paths mean the folder that they were typed in."""
    started_in = HydraConfig.get().runtime.cwd
    if HydraConfig.get().job.chdir and os.path.isdir(started_in):
        log.warning(
            f"hydra.job.chdir=true: relative paths still start from {started_in}; the run's files are in run_dir"
        )
        os.chdir(started_in)


def _job_of_sweep(task: Callable, cfg: DictConfig) -> float | None:
    """A job's value, or None: its failure stands in its record and is no reason to stop the others."""
    hydra_config = HydraConfig.get()
    at_a_time = hydra_config.launcher.get("n_jobs", 1)
    if at_a_time not in (1, None):
        side_by_side.settle(hydra_config.sweep.dir, at_a_time)
    size = os.environ.get(job_state.SIZE, "?")
    name = f"job {hydra_config.job.num + 1} of {size}  {Path(cfg.run_dir).name}"
    with job_state.alone(cfg.run_dir):
        earlier = job_state.earlier(cfg.run_dir, typed())
        if earlier and job_state.ended(cfg.run_dir, earlier):
            log.info(f"{name} was {earlier['status']} before")
            return earlier["metrics"].get(cfg.monitor) if earlier["status"] == "completed" else None
        last = job_state.checkpoint(cfg.run_dir, earlier)
        left = job_state.seconds_left(hydra_config.sweep.dir, int(size)) if size.isdigit() else None
        said = f"  about {job_state.duration(left)} left" if left else ""
        log.info(name + (" goes on from its last checkpoint" if last else "") + said)
        cfg.ckpt_path = last or cfg.ckpt_path
        try:
            return task(cfg)
        except BaseException as error:
            if signal_code(error):
                sys.exit(signal_code(error))  # ends the sweep
            _log_to_file(error)
            job_state.keep_interrupted(cfg.run_dir, last)
            full = os.environ.get("HYDRA_FULL_ERROR") == "1"
            log.error(f"{name} failed: {one_line(error)}", exc_info=error if full else None)
            if job_state.SIZE not in os.environ:  # nobody will count the records
                raise
        finally:
            job_state.report_now_and_then(hydra_config.sweep.dir, cfg.monitor)
    return None


def _go_on(cfg: DictConfig) -> bool:
    """Let a job that SLURM has started again go on in its folder. Returns whether it had been completed.

    Raises: ValueError, OSError: the folder is another one, or holds another run.
    """
    earlier = job_state.earlier(cfg.run_dir, typed())
    placed = any(override.startswith("hydra.run.dir=") for override in HydraConfig.get().overrides.hydra)
    if earlier is None and not placed:
        raise FileNotFoundError(
            f"SLURM has started this job again, and {cfg.run_dir} is a new folder with nothing to go on with; "
            "give the job one of its own, say hydra.run.dir=runs/$SLURM_JOB_ID"
        )
    if earlier and earlier["status"] == "completed":
        log.info(f"{cfg.run_dir} is completed; there is nothing to go on with")
        return True
    last = Path(cfg.run_dir, FOLDER, LAST)
    if last.is_file():
        cfg.ckpt_path = str(last)
    return False


def _say_how_it_goes_on(run_dir: str) -> None:
    if Path(run_dir, FOLDER, LAST).is_file() and is_main_process():
        again = shlex.quote(f"resume={short(run_dir)}")
        print(f"go on with it: python {sys.argv[0]} {again}", file=sys.stderr)


def _log_to_file(error: BaseException) -> None:
    """Keep an error's traceback in the run's log; the console gets one line."""
    trace = (type(error), error, error.__traceback__)
    entry = log.makeRecord(log.name, logging.ERROR, __file__, 0, one_line(error), (), trace)
    for handler in logging.root.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(entry)


def refuse_sweep(what: str) -> None:
    """Each of a job's further processes would run the whole sweep again; where SLURM started them, they do not."""
    sweeping = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if sweeping and "SLURM_PROCID" not in os.environ:
        raise ValueError(f"{what} cannot be part of a sweep; sweep with trainer.devices=1, or run each job on its own")


def typed() -> list[str]:
    """What was typed for this run, or nothing outside a script."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
