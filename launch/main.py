"""The command line that all scripts share: mistakes answered in one line, errors as exit codes, sweeps that go on.

Exit codes: 2 for what the user can mend, 1 for a fault of this project (with its traceback) and for a sweep of which a
job has not completed, 130 and 143 after SIGINT and SIGTERM in training. ``HYDRA_FULL_ERROR=1`` shows the traceback of
every error.
"""

import atexit
import gc
import logging
import os
import shlex
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import hydra
import hydra._internal.utils as hydra_utils
from hydra._internal.hydra import Hydra
from hydra.types import RunMode
from omegaconf import DictConfig

from launch import job_state, resume
from launch.jobs import as_job
from launch.mistakes import ConfigError, is_user_error, tell
from launch.sweep_folder import store_command
from launch.sweeps import Sweep, plan
from launch.validation import CONF, check, check_config_files, quoted, readable
from results.record import is_main_process, one_line

log = logging.getLogger(__name__)


def run(task: Callable, config_name: str, early: Callable[[DictConfig], None] | None = None) -> NoReturn:
    """Run ``task(cfg)`` under Hydra with the command line's arguments, then exit.

    Args:
        early: raises for what is wrong with the config of a single run, before there is a folder.
    """
    # Hydra would print errors and exit with 1; here they are to arrive in this function.
    hydra_utils.run_and_report = lambda function: function()
    logging.raiseExceptions = False  # where the disk is full, a log that cannot be written is not the news
    threading.excepthook = _thread_failed
    main = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(as_job(task))
    code, sweep = 0, None
    try:
        args = parse(sys.argv[1:])
        sys.argv[1:] = arranged(sys.argv[1:], args)
        resumed = resume.sweep_arguments(args) if config_name == "train" else None
        if resumed:
            args = parse(resumed)
            sys.argv[1:] = arranged(resumed, args)
        folder = resume.asked(args) if config_name == "train" else None
        sweep = None if folder else examine(args, config_name, early)
        if args.overrides:  # looked at, so hydra.mode is known; Hydra would compose the config once more to learn it
            Hydra.get_mode = lambda *_, **__: RunMode.MULTIRUN if sweep and not args.multirun else None
        if folder and job_state.is_completed(folder):
            print(f"{folder} is completed; there is nothing to go on with")
        elif folder:
            sys.argv[0] = os.path.abspath(sys.argv[0])  # further processes of DDP begin where the run did
            at = next(n for n, argument in enumerate(sys.argv) if resume.is_resume(argument))
            sys.argv[at] = f"resume={quoted(str(folder))}"
            as_job(task)(resume.config(folder, args.overrides))
        elif sweep is None:
            main()
        elif resumed and sweep.is_completed():
            print(f"{sweep.folder} is completed; there is nothing to resume")
        else:
            if is_main_process():
                store_command(sweep.folder, sweep.command)
            at = sys.argv.index(args.overrides[0]) if args.overrides else len(sys.argv)
            sys.argv[at:at] = sweep.arguments  # beside the others; what was typed comes later, and counts
            _sweep(main, sweep)
    except SystemExit as end:
        code = end.code or 0
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        code = tell(error)
    if sweep is not None and sweep.recorded and is_main_process():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves it ignored
        code = _conclude(sweep, code)
    sys.exit(code)


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    """As Python does, but for TensorBoard's thread: what it cannot write, it raises in the main one as well."""
    if not (args.exc_type is OSError and type(args.thread).__name__ == "_AsyncWriterThread"):
        threading.__excepthook__(args)


def parse(argv: Sequence[str]) -> Namespace:
    """A command line as Hydra reads it."""
    parser = hydra_utils.get_args_parser()
    parser.error = _refuse
    return parser.parse_intermixed_args(argv)


def arranged(argv: Sequence[str], args: Namespace) -> list[str]:
    """The arguments as Hydra can read them: flags first, and odd values of overrides in quotes, as in ``args`` then."""
    flags = list(argv)
    for override in args.overrides:
        flags.remove(override)
    args.overrides = [readable(override, args.multirun) for override in args.overrides]
    return [*flags, *args.overrides]


def _refuse(message: str) -> NoReturn:
    """As argparse does, without half a page of usage."""
    raise ConfigError(f"{message}; --help shows what there is")


def examine(args: Namespace, config_name: str, early: Callable[[DictConfig], None] | None = None) -> Sweep | None:
    """Find mistakes before anything runs. Returns what a sweep is about to run, None for all else."""
    check_config_files([CONF, *([Path(args.config_dir)] if args.config_dir else [])])
    config_name = args.config_name or config_name
    asked = args.cfg or args.info
    typed = args.overrides or args.multirun or (config_name != "train" and not asked)  # train.yaml needs nothing typed
    if args.help or args.hydra_help or args.shell_completion or args.config_path or not typed:
        return None
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        if not args.config_dir:
            check(args, config_name)
        return None if asked else plan(args, config_name, early)


def _sweep(main: Callable, sweep: Sweep) -> None:
    """Run a sweep. If a process of joblib's is killed, what it leaves is run again, unless nothing comes of that."""
    if not sweep.in_process:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # in process, Lightning's ends the step first
        paths = [str(CONF.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # for processes that are started anew
    ended, attempts = -1, 0
    while attempts < 3:
        try:
            main()
            return
        except Exception as error:
            if sweep.in_process or is_user_error(error) or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(f"a job's process was lost: {one_line(error)}", file=sys.stderr)
            if type(error).__name__ != "TerminatedWorkerError":  # other launchers' jobs may still be waiting or running
                return
        count = sweep.count()
        before, ended = ended, count["completed"] + count["failed"]
        attempts = 0 if ended > before else attempts + 1


def _conclude(sweep: Sweep, code: int) -> int:
    """Say what came of a sweep, and how it goes on. Returns the exit code: 1 if a job has not completed."""
    from results import report

    count = sweep.count()
    if count:
        try:
            print(report.write([sweep.folder], metric=sweep.metric))
        except Exception as error:  # a report must not cost what was trained
            print(f"no report in {sweep.folder}: {one_line(error)}", file=sys.stderr)
    size = count.total() if sweep.names is None else len(sweep.names)
    left = {"failed": count["failed"], "did not end": size - count["completed"] - count["failed"]}
    said = " and ".join(f"{number} {what}" for what, number in left.items() if number)
    if said and code in (0, 130, 143):
        again = shlex.quote(f"resume={sweep.folder}")
        print(f"error: of {size} jobs {said}; resume the sweep: python {sys.argv[0]} {again}", file=sys.stderr)
        return code or 1
    return code


@contextmanager
def importing() -> Iterator[None]:
    """Import torch and all that without the garbage collector, which would search it again and again for nothing.

    Nor does it search these modules later, in the jobs of a sweep.
    """
    first = "torch" not in sys.modules and gc.isenabled()
    if first:
        gc.disable()
    try:
        if first:
            _import_torchmetrics()
        yield
    finally:
        if first:
            gc.freeze()
            gc.enable()
            atexit.register(gc.unfreeze)  # else C++ bindings would report at the end that something is still there


def _import_torchmetrics() -> None:
    """Without scipy.signal, a sixth of all that a run imports.

    torchmetrics imports it only to give it an attribute that an audio package wants, ``hamming``, where it has none.
    """
    absent = "scipy.signal" not in sys.modules
    if absent:
        sys.modules["scipy.signal"] = SimpleNamespace(hamming=None)
    try:
        import torchmetrics  # noqa: F401
    finally:
        if absent:
            del sys.modules["scipy.signal"]
