"""Checks of the composed config, which Hydra runs before it creates a folder."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from launch import jobs, sweeps
from launch.sweep_folder import check_not_in_sweep
from launch.validation import model_conflict
from results.errors import ConfigError, report_error
from results.metrics import check_monitor
from results.record import is_main_process
from results.run_folder import FOLDER, LAST


class LaunchChecks(Callback):
    """Reject a run or a sweep that cannot work or would overwrite an earlier one.

    Attributes:
        check_config: the script's own check of a single run's config.
        resumes: whether ``resume=`` started the sweep.
    """

    check_config: Callable[[DictConfig], None] | None = None
    resumes = False

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with exit_on_error():
            _check_monitor(config)
            _check_folder_key(config, "hydra.sweep.dir", "a single run", "hydra.run.dir")
            placed = jobs.is_given(config.hydra, "hydra.run.dir")
            if "TORCHELASTIC_RUN_ID" in os.environ and not placed:
                raise ConfigError("torchrun starts several processes that need one folder: add hydra.run.dir=runs/…")
            if reason := model_conflict(config):
                raise ConfigError(reason)
            if placed and is_main_process() and not jobs.is_requeued():
                check_not_in_sweep(Path(config.hydra.run.dir))
                refuse_used_folder(Path(config.hydra.run.dir), config.get("ckpt_path"))
            if self.check_config:
                self.check_config(config)
            jobs.claim_folder(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with exit_on_error():
            _check_monitor(config)
            _check_folder_key(config, "hydra.run.dir", "a sweep", "hydra.sweep.dir")
            sweeps.prepare(config)
        if self.resumes and sweeps.current and sweeps.current.is_completed():
            print(f"{sweeps.current.folder} is completed; there is nothing to resume")
            raise SystemExit
        if sweeps.current and is_main_process():
            print(sweeps.current.announcement(), flush=True)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Report an error and exit: Hydra would only warn about an exception in a callback."""
    try:
        yield
    except Exception as error:
        raise SystemExit(report_error(error)) from error


def _check_monitor(config: DictConfig) -> None:
    if "monitor" in config:
        check_monitor(str(config.monitor), str(config.mode), tuple(config.lit_module.get("metrics") or ()))


def _check_folder_key(config: DictConfig, wrong: str, what: str, right: str) -> None:
    """Raise a ConfigError for a folder key that Hydra would ignore."""
    for override in jobs.overrides_of(config.hydra, "hydra"):
        key, _, folder = override.partition("=")
        if key == wrong:
            raise ConfigError(f"{override}: this is {what}, whose folder is {right}={folder}")


def refuse_used_folder(folder: Path, ckpt_path: str | None) -> None:
    """Raise a ConfigError if a new run would overwrite the one in a folder; resuming that run is allowed."""
    last, completed = folder / FOLDER / LAST, jobs.is_completed(folder)
    if not completed and not any(folder.glob(f"{FOLDER}/*.ckpt")):
        return
    if ckpt_path and Path(ckpt_path).expanduser().absolute().is_relative_to(folder.absolute()):
        return
    hint = f", or resume={folder} to resume it" if last.is_file() and not completed else ""
    raise ConfigError(f"hydra.run.dir={folder} already holds a run; expected another folder{hint}")
