"""Run a script's task under Hydra: errors become one line and an exit code, sweeps end with a report.

Exit codes: 2 for errors that the user can fix; 1 for a bug in this project, with a traceback, and for a sweep with a
job that has not completed; 130 and 143 after SIGINT and SIGTERM. ``HYDRA_FULL_ERROR=1`` shows all tracebacks.
"""

import errno
import gc
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import hydra
from omegaconf import DictConfig

from launch import checks, jobs, resume, sweep_folder, sweeps, validation
from results.errors import TRACEBACKS, ConfigError, is_user_error, report_error, tracebacks
from results.record import is_main_process, one_line

# Hydra's flags, and whether a value follows.
FLAGS = {
    **dict.fromkeys("-m --multirun -r --run -h --help --hydra-help --version --resolve".split(), False),
    **dict.fromkeys("-sc --shell-completion -p --package -cp --config-path -cn --config-name".split(), True),
    **dict.fromkeys("-c --cfg -cd --config-dir -i --info --experimental-rerun".split(), True),
}
MULTIRUN = {"-m", "--multirun"}
# Warnings from Lightning and torch about intended behaviour.
NOISE = (
    r".*LeafSpec",  # torch's pytree, used by Lightning
    r".*treespec",
    r".*does not have many workers",  # batches of indices into memory need none
    r".*is smaller than the logging interval",
    r".*exists and is not empty",  # the checkpoints of a resumed run
    r"The dirpath has changed",  # a run resumed in a new folder
    r".*could not find the monitored key",  # trainer.max_steps ended the run within an epoch
    r".*your dataloader is not resumable",  # the data module is
    r"When using `Trainer\(accumulate_grad_batches",  # the Classifier's optimizer_step is meant for whole steps
    r".*in eval mode at the start of training",  # frozen by callbacks=finetune
    r"Detected call of `lr_scheduler.step\(\)` before",  # the first step was skipped: non-finite
)


def run(task: Callable, config_name: str, check: Callable[[DictConfig], None] | None = None) -> NoReturn:
    """Run ``task(cfg)`` with the command line's arguments, then exit.

    Args:
        check: raises for an invalid config of a single run, before the folder is created.
    """
    os.environ.setdefault(TRACEBACKS, os.environ.get("HYDRA_FULL_ERROR", "0"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors instead of printing them
    # Two hooks that Python documents: on a full disk, the run's error is enough.
    logging.raiseExceptions = False
    threading.excepthook = _thread_failed
    checks.LaunchChecks.check_config = staticmethod(check) if check else None
    job = jobs.as_job(task)
    code = 0
    try:
        overrides, flags = split_arguments(sys.argv[1:])
        overrides = validation.rename_checkpoint(config_name, overrides)
        resumed = resume.requested(overrides, flags) if config_name == "train" else None
        of_sweep = resumed is not None and sweep_folder.is_sweep(resumed[0])
        if of_sweep:
            overrides, flags = split_arguments(resume.sweep_arguments(*resumed))
        sys.argv[1:] = [*flags, *overrides]  # argparse rejects flags between overrides
        if resumed and not of_sweep:
            if MULTIRUN & set(flags):
                raise ConfigError(f"resume={resumed[0]} is not a sweep's folder; leave out -m")
            resume.run(*resumed, job)
        else:
            folders = [Path(value) for flag, value in pairwise(flags) if flag in ("-cd", "--config-dir")]
            validation.check_config_files([validation.CONF, *folders])
            if set(flags) <= MULTIRUN:
                validation.check_overrides(config_name, overrides, multirun=bool(flags))
            checks.LaunchChecks.resumes = resumed is not None
            hydra.main(version_base="1.3", config_path=str(validation.CONF), config_name=config_name)(job)()
    except SystemExit as end:
        code = end.code or 0
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        if sweeps.current is None or sweeps.current.in_process or is_user_error(error) or tracebacks():
            code = report_error(error)
        else:  # the jobs have reported their own errors
            print(f"error: a launcher process died: {one_line(error)}", file=sys.stderr)
            code = 1
    if sweeps.current is not None and is_main_process():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves SIGINT ignored
        code = sweeps.current.conclude(code)
    sys.exit(code)


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    """Print a thread's error as Python does, unless the disk is full: the main thread reports that."""
    if not (isinstance(args.exc_value, OSError) and args.exc_value.errno == errno.ENOSPC):
        threading.__excepthook__(args)


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(overrides that Hydra can read, flags with their values). Raises: ConfigError: an unknown flag."""
    overrides, flags, rest = [], [], iter(argv)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            overrides.append(argument)
        elif flag not in FLAGS:
            raise ConfigError(f"{argument}: no such flag; --help lists the choices")
        else:
            flags += [flag, value if equals else next(rest, "")] if FLAGS[flag] else [argument]
    multirun = bool(MULTIRUN & set(flags))
    return [validation.readable(text, multirun) for text in overrides], flags


def quiet_lightning() -> None:
    """Route Lightning's messages through Hydra's logging and drop those that repeat the config.

    With several processes, only the first one logs.
    """
    for pattern in NOISE:
        warnings.filterwarnings("ignore", message=pattern)
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    if not is_main_process():
        logging.disable(logging.INFO)


@contextmanager
def imports_without_gc() -> Iterator[None]:
    """Disable garbage collection during imports; it would rescan long-lived objects repeatedly (0.7 s of a start)."""
    first = "torch" not in sys.modules and gc.isenabled()
    if first:
        gc.disable()
    try:
        yield
    finally:
        if first:
            gc.freeze()
            gc.enable()
