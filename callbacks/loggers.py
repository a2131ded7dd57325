"""Loggers beside TensorBoard's (CSV, MLflow for several jobs), and what all loggers do when a run starts or resumes."""

import csv
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from callbacks.tensorboard import TensorBoard
from results.record import replacing


class CSV(Logger):
    """Writes ``metrics.csv``, a row each time that metrics are logged, and the config as ``hparams.yaml``.

    Lightning's ``CSVLogger`` deletes the file of a run that resumes, and keeps up to a hundred steps in memory. Here,
    rows of steps before the checkpoint stay, later ones are replaced, and each row is written at once.

    Args:
        save_dir: the run's folder.
    """

    def __init__(self, save_dir: str):
        super().__init__()
        self.folder = Path(save_dir)
        self.file = self.folder / "metrics.csv"
        self._resume_step = 0
        self._columns: list[str] | None = None  # of the file, once it is this run's

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    def resume_at(self, step: int) -> None:
        """Keep the rows of earlier steps. The file changes with the first row that is logged."""
        self._resume_step = step

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        row = {"step": step} | {name: float(value) for name, value in metrics.items()}
        if self._columns is None:
            kept = read_rows(self.file, self._resume_step)
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
    """The rows of a ``metrics.csv``, or those of earlier steps; a last line that a kill has cut is left out."""
    if not file.is_file():
        return []
    with open(file, newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if None not in row.values()]
    return rows if before is None else [row for row in rows if int(row["step"]) < before]


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


def service_runs(loggers: Iterable[Logger]) -> dict[str, str]:
    """For the checkpoint: by the names of their classes, which runs W&B's and MLflow's loggers write to."""
    return {
        type(logger).__name__: logger.version for logger in loggers if isinstance(logger, WandbLogger | MLFlowLogger)
    }


def continue_service_runs(config: DictConfig | None, runs: Mapping[str, str]) -> None:
    """Have W&B's and MLflow's loggers continue runs, not begin new ones.

    Args:
        config: of the loggers; changed in place.
        runs: as ``service_runs`` returned them.
    """
    for node in filter(None, (config or {}).values()):
        kind = str(node.get("_target_")).rpartition(".")[2]
        if kind in runs:
            ids = {"id": runs[kind], "resume": "allow"} if kind == "WandbLogger" else {"run_id": runs[kind]}
            for name, value in ids.items():
                OmegaConf.update(node, name, value, force_add=True)


def resume_at(loggers: Iterable[Logger], step: int) -> None:
    """Have loggers keep what was logged of earlier steps, and replace what an earlier process logged of later ones."""
    for logger in loggers:
        if isinstance(logger, TensorBoard | CSV):
            logger.resume_at(step)
        elif isinstance(logger, CSVLogger):  # in the config of a run of before this project's own
            rows = read_rows(Path(logger.log_dir, "metrics.csv"), step)
            for row in rows:
                metrics = {name: float(value) for name, value in row.items() if value and name != "step"}
                logger.log_metrics(metrics, int(row["step"]))
            logger.save()


def log_start(
    loggers: Iterable[Logger], config: Mapping[str, Any], typed: Iterable[str], continued: Iterable[str] = ()
) -> None:
    """What a run is: the composed config, without what it says of the loggers, whose addresses may hold passwords.

    Args:
        config: as plain dicts.
        typed: overrides.
        continued: the names of the classes of loggers that continue a run, which has its config.

    Raises: OSError: a logger has no account or no way to it.
    """
    config = {key: value for key, value in config.items() if key != "logger"}
    for logger in loggers:
        if isinstance(logger, TensorBoard):
            logger.log_start(config, typed)
            continue
        if type(logger).__name__ in continued:
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
