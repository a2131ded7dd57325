"""Train an image classifier.

python train.py                                             LeNet on handwritten digits
python train.py model=resnext50 datamodule=fashion_mnist
python train.py -m model=resnet model.depth=50,101 model.groups=1,32
tensorboard --logdir runs
"""

import logging
import os
from typing import TYPE_CHECKING

from inference import checkpoints
from launch.jobs import cli_overrides, forbid_in_sweep
from launch.main import imports_without_gc, quiet_lightning, run
from results import summary
from results.errors import build, build_all, building
from results.record import OutOfTime, recording, redact

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


def check(cfg: "DictConfig") -> None:
    """Check what can be checked without torch."""
    if cfg.ckpt_path:
        checkpoints.file_to_go_on_from(cfg.ckpt_path)


def train(cfg: "DictConfig") -> float | None:
    """Train, test the best checkpoint, and leave the run's record in ``cfg.run_dir``.

    Returns:
        The best value of ``cfg.monitor``, for sweepers to optimise.
    """
    with recording(cfg.run_dir, overrides=cli_overrides(), seed=cfg.seed) as record:
        with imports_without_gc():  # from here on torch is there
            from lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
            from lightning.pytorch.callbacks import Checkpoint
            from lightning.pytorch.loggers import Logger
            from lightning.pytorch.utilities.exceptions import SIGTERMException
            from omegaconf import OmegaConf
            from torch import nn
            from torch.optim import Optimizer
            from torch.optim.lr_scheduler import LRScheduler

            from callbacks.diagnosis import Diagnosis
            from callbacks.loggers import log_result, log_start, resume_loggers
            from callbacks.run_metrics import RunMetrics
            from lit_modules import numerics

        quiet_lightning()
        seed_everything(cfg.seed, verbose=False)
        datamodule = build("datamodule", cfg.datamodule, LightningDataModule)
        with building("datamodule"):  # it may know what its config left open
            facts = {fact: getattr(datamodule, fact) for fact in ("num_classes", "in_channels", "image_size")}
        for fact, value in facts.items():
            cfg.datamodule[fact] = value
            for part in ("model", "lit_module"):
                if cfg[part].get(fact, value) != value:
                    raise ValueError(f"{part}.{fact}={cfg[part][fact]}, but the data has {fact}={value}")
        going_on = None
        if cfg.ckpt_path:
            file, going_on = checkpoints.to_go_on_from(cfg.ckpt_path, cfg.run_dir)
            cfg.ckpt_path = str(file)
            datamodule.order_classes(going_on["class_names"])
            if "weights" in cfg.model:
                cfg.model.weights = None  # its own come in their place
        backbone = build("model", cfg.model, nn.Module)
        numerics.settle(cfg, backbone)
        if going_on:
            other = "; a ResNet begins with those of other classes by model.weights=…"
            checkpoints.weights_for(backbone, going_on, "to be trained", other)
        classifier = build(
            "lit_module",
            cfg.lit_module,
            LightningModule,
            backbone=backbone,
            optimizer=build("optimizer", cfg.optimizer, Optimizer),
            scheduler=build("scheduler", cfg.scheduler, LRScheduler),
            class_names=datamodule.class_names,
        )
        config = OmegaConf.to_container(cfg, resolve=True)
        classifier.description = {
            "model": config["model"],
            "datamodule": config["datamodule"],
            "class_names": list(datamodule.class_names),
            "preprocessing": datamodule.preprocessing,
            "numerics": {
                "precision": str(config["trainer"]["precision"]),
                "memory_format": config["lit_module"]["memory_format"],
            },
        }
        config = redact(config)  # from here on for loggers and the console
        measure = RunMetrics(cfg.monitor, cfg.mode)
        findings = Diagnosis()
        # Findings last: at the end it asks the network that was validated, which EMA has put in place by then.
        callbacks = [measure, *build_all("callbacks", cfg.callbacks, Callback), findings]
        here = going_on and file.absolute().is_relative_to(os.path.abspath(cfg.run_dir))
        logger_runs = going_on.get("logger_runs", {}) if here else {}
        logger_config = cfg.logger
        if going_on and logger_config:
            logger_config = resume_loggers(logger_config, going_on["global_step"], logger_runs)
        loggers = build_all("logger", logger_config, Logger)
        trainer = build(
            "trainer",
            cfg.trainer,
            Trainer,
            callbacks=callbacks,
            logger=loggers,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        )
        if trainer.strategy.root_device.type == "cpu" and trainer.num_devices > 4 * (os.cpu_count() or 1):
            raise ValueError(f"trainer.devices={trainer.num_devices}: this machine has {os.cpu_count()} cores")
        if trainer.world_size > 1:
            forbid_in_sweep(f"a job of {trainer.world_size} processes")
        log.info(summary.summary(config))
        log_start(trainer.loggers, config, record["overrides"], logger_runs)

        trainer.fit(classifier, datamodule=datamodule, ckpt_path=cfg.ckpt_path, weights_only=True)
        record.update(measure.facts(trainer), findings=findings.found)
        best = measure.best_checkpoint(trainer)
        record["best_checkpoint"] = os.path.relpath(best, cfg.run_dir) if best else None
        missing = measure.out_of_time(trainer)  # asked before the test, which loads the state of the best epoch

        trainer.test(classifier, datamodule=datamodule, ckpt_path=best, weights_only=True, verbose=False)
        if trainer.received_sigterm:  # in the last batch or later, where Lightning does not raise it
            raise SIGTERMException
        record["metrics"] |= {name: value.item() for name, value in trainer.callback_metrics.items()}
        log.info(summary.result(record, cfg.monitor, measure.best_epoch, cfg.run_dir))
        log_result(trainer.loggers, config, record["overrides"], record["metrics"], record["steps"])
        if missing:
            raise OutOfTime(missing)
    return measure.best.get(cfg.monitor)


if __name__ == "__main__":
    run(train, "train", check)
