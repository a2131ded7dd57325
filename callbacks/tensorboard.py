"""Write TensorBoard events directly to the run's folder."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard.summary import hparams

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from torch.utils.tensorboard import SummaryWriter

# Shown in TensorBoard's HPARAMS tab for every run; a config group such as model is shown by class name.
MAIN = (
    "model model.depth model.groups model.norm datamodule datamodule.batch_size optimizer optimizer.lr "
    "optimizer.weight_decay trainer.max_epochs seed"
).split()
HIDDEN = ("name", "run_dir", "data_dir", "ckpt_path", "impossible", "verbose")
# The CUSTOM SCALARS tab: training and validation in one chart.
CHARTS = {"curves": {name: ["Multiline", [f"train/{name}", f"val/{name}"]] for name in ("loss", "top1")}}


# TIME SERIES sorts tags by name and unfolds the first two groups, so all remaining tags are in a third.
UNFOLDED, REST = ("train/", "val/"), "watch/"


class TensorBoard(TensorBoardLogger):
    """Lightning's logger without subfolders and without ``hparams.yaml``: Hydra stores the run's config.

    Args:
        save_dir: the run's folder.
        purge_step: hide what an earlier process logged for this and later steps.
        options: as in Lightning's ``TensorBoardLogger``.
    """

    def __init__(self, save_dir: str, purge_step: int = 0, **options: Any):
        super().__init__(save_dir, name="", version="", default_hp_metric=False, purge_step=purge_step, **options)
        self.is_new = purge_step == 0 or not any(Path(save_dir).glob("events.out.tfevents.*"))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log metrics except test scores, of which there is one per class; ``log_result`` logs the overall ones."""
        shown = {tag_of(name): value for name, value in metrics.items() if not name.startswith("test/")}
        super().log_metrics(shown, step)

    @rank_zero_only
    def save(self) -> None:
        self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Called after training and after the test; the file stays open in between."""
        self.save()
        if status != "success":
            self.experiment.close()

    @rank_zero_only
    def log_start(self, config: Mapping[str, Any], overrides: Iterable[str]) -> None:
        """Log ``config`` and ``overrides`` to the TEXT tab, and the charts of CUSTOM SCALARS.

        Args:
            config: the composed config, as plain dicts.
        """
        if self.is_new:
            text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
            self.experiment.add_text("config", f"```yaml\n{text}```", 0)
            self.experiment.add_text("overrides", "```\n{}\n```".format("\n".join(overrides)), 0)
            self.experiment.add_custom_scalars(CHARTS)

    @rank_zero_only
    def log_result(
        self,
        config: Mapping[str, Any],
        overrides: Collection[str],
        metrics: Mapping[str, float | None],
        step: int,
        swept: Collection[str] = (),
    ) -> None:
        """Log the run's line of the HPARAMS tab: best validation scores and test scores; then close the file.

        Args:
            config: the composed config, as plain dicts.
            overrides: such as ``model.depth=34``; the keys are shown next to the main ones.
            metrics: of the record.
            step: the last one; if the run is killed here, a resumed run replaces the entries of this step.
            swept: the keys to show first; by default those of ``overrides``.
        """
        scores = {}
        for name, value in metrics.items():
            split, _, metric = name.partition("/")
            if split == "val" and value is not None:  # the tab would show the last point of the curve val/…
                scores[tag_of(f"best/{metric}")] = value
            elif split == "test" and "/" not in metric and value is not None:  # no scores of individual classes
                scores[tag_of(name)] = value
        for tag, value in scores.items():
            self.experiment.add_scalar(tag, value, step)
        scores = dict(sorted(scores.items(), key=lambda score: not score[0].endswith("/top1")))
        # Not self.log_hyperparams: it would log each score a second time.
        experiment, *session = hparams(hyperparameters(config, overrides), scores)
        arrange(experiment, swept or [key_of(override) for override in overrides])
        for summary in (experiment, *session):
            self.experiment.file_writer.add_summary(summary, step)
        self.close()

    def close(self) -> None:
        self.experiment.close()


def tag_of(name: str) -> str:
    """The tag of a metric."""
    return name if name.startswith(UNFOLDED) else f"{REST}{name}"


def arrange(experiment: "Summary", first: Collection[str]) -> None:
    """Put settings first in HPARAMS, which selects five of them and five scores; show scores without a group's name.

    Args:
        experiment: from torch's ``hparams``; changed in place.
    """
    data = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(data.content)
    for setting in content.experiment.hparam_infos:
        setting.differs = setting.name in first
    for score in content.experiment.metric_infos:
        score.display_name = score.name.tag.removeprefix(REST)
    data.content = content.SerializeToString()


def key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def writers(trainer: Trainer) -> list["SummaryWriter"]:
    """TensorBoard's writers; none in processes other than the first."""
    loggers = trainer.loggers if trainer.is_global_zero else ()
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoard)]


def show(trainer: Trainer, name: str, pixels: np.ndarray) -> None:
    """Show a picture, ``(H, W, 3)`` uint8, in TensorBoard, after the curves."""
    for writer in writers(trainer):
        writer.add_image(f"{REST}{name}", pixels, trainer.global_step, dataformats="HWC")


def hyperparameters(config: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, bool | int | float | str]:
    """The main settings and the overridden settings of a run."""
    keys = list(map(key_of, overrides))
    found = {}
    for key in dict.fromkeys([*MAIN, *(key for key in keys if key not in HIDDEN)]):
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, Mapping):
            value = value.get("_target_", "").rpartition(".")[2]
        if value is None and key in keys and config.get(key.partition(".")[0]) is not None:
            value = "null"  # an override
        if value not in (None, ""):
            found[key] = value if isinstance(value, bool | int | float | str) else str(value)
    return found
