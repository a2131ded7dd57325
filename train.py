"""Train an image classifier.

python train.py                                             LeNet on handwritten digits
python train.py model=resnext50 datamodule=fashion_mnist
python train.py -m model=resnet model.depth=50,101 model.groups=1,32
tensorboard --logdir runs
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference import checkpoints
from launch.jobs import cli_overrides, forbid_in_sweep, swept_keys
from launch.main import imports_without_gc, quiet_lightning, run
from results import errors, summary
from results.record import OutOfTime, recording, redact

if TYPE_CHECKING:
    from lightning import LightningDataModule, Trainer
    from omegaconf import DictConfig

    from callbacks.diagnosis import Diagnosis
    from callbacks.run_metrics import RunMetrics
    from lit_modules import Classifier

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """The parts of a training.

    Args:
        config: resolved, as plain values; ``auto`` and facts about the data have been filled in.
        resume_from: the checkpoint to resume from.
        logger_runs: the W&B and MLflow runs that this run continues, by logger class.
    """

    datamodule: "LightningDataModule"
    classifier: "Classifier"
    trainer: "Trainer"
    metrics: "RunMetrics"
    diagnosis: "Diagnosis"
    config: dict[str, Any]
    resume_from: str | None
    logger_runs: dict[str, str]


def check(cfg: "DictConfig") -> None:
    """Check what can be checked without torch."""
    if cfg.ckpt_path:
        checkpoints.check_resume_path(cfg.ckpt_path)


def train(cfg: "DictConfig") -> float | None:
    """Train, test the best checkpoint, and leave the run's record in ``cfg.run_dir``.

    Returns:
        The best value of ``cfg.monitor``, for sweepers to optimise.
    """
    with recording(cfg.run_dir, overrides=cli_overrides(), seed=cfg.seed) as record:
        with imports_without_gc():  # torch is imported here, after the config has been checked
            from lightning import seed_everything
            from lightning.pytorch.utilities.exceptions import SIGTERMException

            from callbacks.loggers import log_result, log_start

        quiet_lightning()
        seed_everything(cfg.seed, verbose=False)
        parts = build(cfg)
        trainer, metrics, config = parts.trainer, parts.metrics, redact(parts.config)
        log.info(summary.summary(config))
        log_start(trainer.loggers, config, record["overrides"], parts.logger_runs)

        trainer.fit(parts.classifier, datamodule=parts.datamodule, ckpt_path=parts.resume_from, weights_only=True)
        record.update(metrics.facts(trainer), findings=parts.diagnosis.found)
        best = metrics.best_checkpoint(trainer)
        record["best_checkpoint"] = os.path.relpath(best, cfg.run_dir) if best else None
        missing = metrics.out_of_time(trainer)  # before the test, which loads the state of the best epoch

        trainer.test(parts.classifier, datamodule=parts.datamodule, ckpt_path=best, weights_only=True, verbose=False)
        if trainer.received_sigterm:  # Lightning does not raise it after the last batch
            raise SIGTERMException
        record["metrics"] |= {name: value.item() for name, value in trainer.callback_metrics.items()}
        log.info(summary.result(record, cfg.monitor, metrics.best_epoch, cfg.run_dir))
        log_result(trainer.loggers, config, record["overrides"], record["metrics"], record["steps"], swept_keys())
        if missing:
            raise OutOfTime(missing)
    return metrics.best.get(cfg.monitor)


def build(cfg: "DictConfig") -> Run:
    """Build the parts of a run. ``cfg`` is not changed: values that are resolved here go into a copy."""
    from lightning import Callback, LightningDataModule, LightningModule, Trainer
    from lightning.pytorch.callbacks import Checkpoint
    from omegaconf import OmegaConf
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from callbacks.diagnosis import Diagnosis
    from callbacks.run_metrics import RunMetrics
    from lit_modules import numerics

    datamodule = errors.build("datamodule", cfg.datamodule, LightningDataModule)
    cfg, checkpoint = with_data_facts(cfg, datamodule), None
    if cfg.ckpt_path:
        file, checkpoint = checkpoints.load_for_resume(cfg.ckpt_path, cfg.run_dir)
        cfg.ckpt_path = str(file)
        datamodule.order_classes(checkpoint["class_names"])
        if "weights" in cfg.model:
            cfg.model.weights = None  # the checkpoint's weights replace them
    backbone = errors.build("model", cfg.model, nn.Module)
    cfg = numerics.resolve_auto(cfg, backbone)
    if cfg.model.get("weights") == "auto":
        cfg.model.weights = backbone.weights
    if checkpoint:
        hint = "; a ResNet can start from weights for other classes: model.weights=…"
        checkpoints.matching_weights(backbone, checkpoint, "to be trained", hint)
    optimizer = errors.build("optimizer", cfg.optimizer, Optimizer)
    scheduler = errors.build("scheduler", cfg.scheduler, LRScheduler)
    arguments = {"optimizer": optimizer, "scheduler": scheduler, "class_names": datamodule.class_names}
    classifier = errors.build("lit_module", cfg.lit_module, LightningModule, backbone=backbone, **arguments)
    config = OmegaConf.to_container(cfg, resolve=True)
    classifier.description = checkpoints.describe(config, datamodule)
    metrics, diagnosis = RunMetrics(cfg.monitor, cfg.mode), Diagnosis()
    # Diagnosis last: when training ends, it looks at the validated network, which EMA has put in place by then.
    callbacks = [metrics, *errors.build_all("callbacks", cfg.callbacks, Callback), diagnosis]
    loggers, logger_runs = build_loggers(cfg, checkpoint)
    saves = any(isinstance(callback, Checkpoint) for callback in callbacks)
    arguments = {"callbacks": callbacks, "logger": loggers, "enable_checkpointing": saves}
    trainer = errors.build("trainer", cfg.trainer, Trainer, **arguments)
    check_processes(trainer)
    return Run(datamodule, classifier, trainer, metrics, diagnosis, config, cfg.ckpt_path, logger_runs)


def with_data_facts(cfg: "DictConfig", datamodule: "LightningDataModule") -> "DictConfig":
    """A copy of ``cfg`` with facts that a data module may know only once it is built."""
    cfg = cfg.copy()
    for fact in ("num_classes", "in_channels", "image_size"):
        with errors.building("datamodule"):
            value = getattr(datamodule, fact)
        cfg.datamodule[fact] = value
        for part in ("model", "lit_module"):
            if cfg[part].get(fact, value) != value:
                raise ValueError(f"{part}.{fact}={cfg[part][fact]}, but the data has {fact}={value}")
    return cfg


def build_loggers(cfg: "DictConfig", checkpoint: dict[str, Any] | None) -> tuple[list[Any], dict[str, str]]:
    """(the loggers, the W&B and MLflow runs that they continue)."""
    from lightning.pytorch.loggers import Logger

    from callbacks.loggers import resume_loggers

    config, logger_runs = cfg.logger, {}
    if checkpoint:
        if Path(cfg.ckpt_path).absolute().is_relative_to(Path(cfg.run_dir).absolute()):
            logger_runs = checkpoint.get("logger_runs", {})
        config = resume_loggers(config, checkpoint["global_step"], logger_runs) if config else config
    return errors.build_all("logger", config, Logger), logger_runs


def check_processes(trainer: "Trainer") -> None:
    """Raise a ValueError for more processes than this machine can run, or several in a job of a sweep."""
    if trainer.strategy.root_device.type == "cpu" and trainer.num_devices > 4 * (os.cpu_count() or 1):
        raise ValueError(f"trainer.devices={trainer.num_devices}: this machine has {os.cpu_count()} cores")
    if trainer.world_size > 1:
        forbid_in_sweep(f"a job of {trainer.world_size} processes")


if __name__ == "__main__":
    run(train, "train", check)
