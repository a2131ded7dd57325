"""TensorBoard events straight into the run's folder."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.tensorboard.summary import hparams

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# What TensorBoard's HParams tab shows of every run; of a part, the name of its class.
MAIN = (
    "model model.depth model.groups model.norm datamodule datamodule.batch_size optimizer optimizer.lr "
    "optimizer.weight_decay trainer.max_epochs seed"
).split()
UNSHOWN = ("name", "run_dir", "data_dir", "ckpt_path", "impossible")
# Charts of the CUSTOM SCALARS tab: training and validation in one.
CHARTS = {"curves": {name: ["Multiline", [f"train/{name}", f"val/{name}"]] for name in ("loss", "top1")}}


class TensorBoard(TensorBoardLogger):
    """Lightning's logger without sub-folders and without its ``hparams.yaml``: Hydra keeps the run's config.

    Args:
        save_dir: the run's folder.
        options: as in Lightning's ``TensorBoardLogger``.
    """

    def __init__(self, save_dir: str, **options):
        # Each start is noted in the file with a step, that of resume_at or 0: TensorBoard forgets that and later steps.
        super().__init__(save_dir, name="", version="", default_hp_metric=False, **({"purge_step": 0} | options))
        self.is_new = True  # nothing of this run is there yet that would be kept

    def save(self) -> None:
        if self._experiment is not None:
            self.experiment.flush()

    def finalize(self, status: str) -> None:
        """Called after training and after the test; the file stays open between the two."""
        self.save()
        if status != "success":
            self.close()

    def resume_at(self, step: int) -> None:
        """Forget what an earlier process wrote of this and later steps; they come again."""
        self._kwargs["purge_step"] = step
        self.is_new = step == 0 or not any(Path(self.log_dir).glob("events.out.tfevents.*"))

    @rank_zero_only
    def log_start(self, config: Mapping[str, Any], typed: Iterable[str]) -> None:
        """What the run is: ``config`` and ``overrides`` in the TEXT tab, and the charts of CUSTOM SCALARS.

        Args:
            config: the composed config, as plain dicts.
            typed: overrides.
        """
        if self.is_new:
            text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
            self.experiment.add_text("config", f"```yaml\n{text}```", 0)
            self.experiment.add_text("overrides", "```\n{}\n```".format("\n".join(typed)), 0)
            self.experiment.add_custom_scalars(CHARTS)

    @rank_zero_only
    def log_result(
        self, config: Mapping[str, Any], typed: Iterable[str], metrics: Mapping[str, float | None], step: int
    ) -> None:
        """The run's line in the HParams tab, its best validation scores and its test scores; then close.

        Args:
            config: the composed config, as plain dicts.
            typed: overrides, say ``model.depth=34``; their keys are shown beside the main ones.
            metrics: of the record.
            step: the last one; a run that is killed here and resumes replaces what belongs to it.
        """
        scores = {}
        for name, value in metrics.items():
            kind, _, metric = name.partition("/")
            if kind == "val" and value is not None:  # val/… is a curve, of which the tab would show the last point
                scores[f"best/{metric}"] = value
                self.experiment.add_scalar(f"best/{metric}", value, step)
            elif kind == "test" and "/" not in metric:  # not those of single classes
                scores[name] = value
        for summary in hparams(hyperparameters(config, typed), scores):
            self.experiment._get_file_writer().add_summary(summary, step)
        self.close()

    def close(self) -> None:
        if self._experiment is not None:
            self.experiment.close()


def writers(trainer: Trainer) -> list["SummaryWriter"]:
    """TensorBoard's writers; none in processes other than the first."""
    loggers = trainer.loggers if trainer.is_global_zero else ()
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoard)]


def show(trainer: Trainer, tag: str, pixels: np.ndarray) -> None:
    """Draw a picture, ``(H, W, 3)`` uint8, in TensorBoard."""
    for writer in writers(trainer):
        writer.add_image(tag, pixels, trainer.global_step, dataformats="HWC")


def hyperparameters(config: Mapping[str, Any], typed: Iterable[str]) -> dict[str, bool | int | float | str]:
    """The main settings of a run, and those that were typed."""
    keys = [override.partition("=")[0].lstrip("+~") for override in typed]
    found = {}
    for key in dict.fromkeys([*MAIN, *(key for key in keys if key not in UNSHOWN)]):
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, Mapping):
            value = value.get("_target_", "").rpartition(".")[2]
        if value is None and key in keys and config.get(key.partition(".")[0]) is not None:
            value = "null"  # it was typed
        if value not in (None, ""):
            found[key] = value if isinstance(value, bool | int | float | str) else str(value)
    return found
