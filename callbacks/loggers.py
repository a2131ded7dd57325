"""Loggers beside TensorBoard's: MLflow for several jobs, and what they are told beside the metrics."""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

from filelock import FileLock
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

from callbacks.tensorboard import TensorBoard


class MLFlow(MLFlowLogger):
    """Lightning's logger, for jobs side by side: of a new file, only one at a time makes tables and experiment.

    Args:
        tracking_uri: a file, ``sqlite:///PATH``, or a server.
        options: as in Lightning's ``MLFlowLogger``.
    """

    def __init__(self, tracking_uri: str, **options):
        file = tracking_uri.removeprefix("sqlite:///")
        with FileLock(f"{file}.lock") if file != tracking_uri else nullcontext():
            super().__init__(tracking_uri=tracking_uri, **options)
            _ = self.experiment  # is made when it is first asked for


def log_start(loggers: Iterable[Logger], config: Mapping[str, Any], typed: Iterable[str]) -> None:
    """What a run is: the composed config, without what it says of the loggers, whose addresses may hold passwords.

    Args:
        config: as plain dicts.
        typed: overrides.

    Raises: OSError: a logger has no account or no way to it.
    """
    config = {key: value for key, value in config.items() if key != "logger"}
    for logger in loggers:
        if isinstance(logger, TensorBoard):
            logger.log_start(config, typed)
            continue
        try:
            logger.log_hyperparams(config)
        except Exception as error:  # each service has its own kind
            raise OSError(f"{type(logger).__name__} does not work: {error}") from error


def log_result(loggers: Iterable[Logger], *result: Any) -> None:
    """What came of it, as ``TensorBoard.log_result`` has it.

    A run of W&B's ends: Lightning leaves it open until the process does, in a sweep after the last job.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoard):
            logger.log_result(*result)
        elif isinstance(logger, WandbLogger):
            logger.experiment.finish()
