"""Loggers other than TensorBoard (CSV, MLflow for parallel jobs), and the start and end of a run for all loggers."""

import copy
import csv
from collections.abc import Collection, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, open_dict

from callbacks.tensorboard import TensorBoard
from results.record import replacing


class CSV(Logger):
    """Write ``metrics.csv``, one row per call, and the config as ``hparams.yaml``.

    Lightning's ``CSVLogger`` deletes the file of a run that resumes, and buffers up to a hundred steps in memory. Here,
    rows of steps before the checkpoint are kept, later ones are replaced, and each row is written at once.

    Args:
        save_dir: the run's folder.
        resume_step: rows of earlier steps are kept. The file changes when the first row is logged.
    """

    def __init__(self, save_dir: str, resume_step: int = 0):
        super().__init__()
        self.folder, self.resume_step = Path(save_dir), resume_step
        self.file = self.folder / "metrics.csv"
        self._columns: list[str] | None = None  # None until this process has written to the file

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        row = {"step": step} | {name: float(value) for name, value in metrics.items()}
        if self._columns is None:
            kept = read_rows(self.file, self.resume_step)
            self._columns = list(dict.fromkeys([*(kept[0] if kept else ()), *row]))
            self._replace([*kept, row])
        elif new := [name for name in row if name not in self._columns]:
            self._columns += new
            self._replace([*read_rows(self.file), row])
        else:
            with open(self.file, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)

    def _replace(self, rows: list[dict[str, Any]]) -> None:
        with replacing(self.file) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns or [])
            writer.writeheader()
            writer.writerows(rows)

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(params, sort_keys=False, allow_unicode=True)
        (self.folder / "hparams.yaml").write_text(text, encoding="utf-8")


def read_rows(file: Path, before: int | None = None) -> list[dict[str, str]]:
    """The rows of a ``metrics.csv``, of all steps or of those ``before`` one; a truncated last line is skipped."""
    if not file.is_file():
        return []
    with open(file, newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if None not in row.values()]
    return rows if before is None else [row for row in rows if int(row["step"]) < before]


class MLFlow(MLFlowLogger):
    """Lightning's logger, safe for parallel jobs: one at a time creates tables and experiment in a new file.

    Args:
        tracking_uri: a file, ``sqlite:///PATH``, or a server.
        options: as in Lightning's ``MLFlowLogger``.
    """

    def __init__(self, tracking_uri: str, **options: Any):
        file = tracking_uri.removeprefix("sqlite:///")
        with FileLock(f"{file}.lock") if file != tracking_uri else nullcontext():
            super().__init__(tracking_uri=tracking_uri, **options)
            _ = self.experiment  # created on first access


def service_runs(loggers: Iterable[Logger]) -> dict[str, str]:
    """The ids of this run in W&B and MLflow, by class name of the logger; stored in checkpoints."""
    services = [logger for logger in loggers if isinstance(logger, WandbLogger | MLFlowLogger)]
    return {type(logger).__name__: logger.version for logger in services}


def resume_loggers(config: DictConfig, step: int, runs: Mapping[str, str]) -> DictConfig:
    """The loggers' config, changed to keep what was logged before a step and replace what was logged later.

    Args:
        config: of the loggers; it is copied.
        runs: from ``service_runs``; W&B and MLflow continue these.
    """
    options = {"TensorBoard": {"purge_step": step}, "CSV": {"resume_step": step}}
    options |= {
        name: {"id": run, "resume": "allow"} if name == "WandbLogger" else {"run_id": run} for name, run in runs.items()
    }
    config = copy.deepcopy(config)
    for node in filter(None, config.values()):
        with open_dict(node):
            if str(node.get("_target_")).endswith(".CSVLogger") and node.get("version") == "":
                node._target_ = "callbacks.loggers.CSV"  # an older run used Lightning's
                del node["name"], node["version"]
            node.update(options.get(str(node.get("_target_")).rpartition(".")[2], {}))
    return config


def log_start(
    loggers: Iterable[Logger], config: Mapping[str, Any], overrides: Iterable[str], continued: Iterable[str] = ()
) -> None:
    """Log the composed config, except the loggers' part: addresses may contain passwords.

    Args:
        config: as plain dicts.
        continued: class names of loggers that continue a run, and have logged the config already.

    Raises: OSError: a logger has no account or no connection.
    """
    config = {key: value for key, value in config.items() if key != "logger"}
    for logger in loggers:
        if isinstance(logger, TensorBoard):
            logger.log_start(config, overrides)
        elif type(logger).__name__ not in continued:
            try:
                logger.log_hyperparams(config)
            except Exception as error:  # each service raises different classes
                raise OSError(f"{type(logger).__name__} does not work: {error}") from error


def log_result(
    loggers: Iterable[Logger],
    config: Mapping[str, Any],
    overrides: Collection[str],
    metrics: Mapping[str, float | None],
    step: int,
    swept: Collection[str],
) -> None:
    """Log the result to TensorBoard at the last step; end W&B's run, which Lightning leaves open."""
    for logger in loggers:
        if isinstance(logger, TensorBoard):
            logger.log_result(config, overrides, metrics, step, swept)
        elif isinstance(logger, WandbLogger):
            logger.experiment.finish()
