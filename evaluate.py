"""Score a trained network.

python evaluate.py ckpt=runs/digits_lenet/2026-11-25_10-00-00.000000            its best checkpoint on its test images
python evaluate.py ckpt=best.ckpt split=val tta=flip
python evaluate.py ckpt=best.ckpt explain=8                                     what it looks at
python evaluate.py ckpt=best.ckpt datamodule=image_folder datamodule.data_dir=$HOME/pets
"""

import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from inference import checkpoints
from launch.main import imports_without_gc, quiet_lightning, run
from launch.validation import check_choices, check_minimum
from results import summary
from results.errors import ConfigError, build, build_all
from results.record import redact, write_json
from results.run_folder import find_checkpoint

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


def check(cfg: "DictConfig") -> None:
    """Check what can be checked without torch."""
    choices = {"split": ("test", "val", "train"), "tta": (None, "flip"), "explain_by": ("occlusion", "gradcam")}
    check_choices(cfg, choices)
    check_minimum(cfg, {"explain": 0})
    if cfg.explain and not find_spec("captum"):
        raise ConfigError(f"explain={cfg.explain} needs captum, not installed: pip install -e '.[explain]'")
    find_checkpoint(cfg.ckpt)


def evaluate(cfg: "DictConfig") -> float:
    """Score the network of ``cfg.ckpt`` and write metrics and pictures to ``cfg.run_dir``.

    Returns:
        The top-1 accuracy.
    """
    check(cfg)
    with imports_without_gc():  # from here on torch is there
        from lightning import Callback, Trainer

        from datamodules.fingerprints import compare_test_set

    quiet_lightning()
    file, checkpoint, backbone = checkpoints.open_checkpoint(cfg.ckpt, cfg.trust)
    cfg = checkpoints.apply_training_numerics(cfg, checkpoint, backbone)
    names = checkpoint["class_names"]
    data = checkpoints.build_datamodule(checkpoint, cfg.datamodule, cfg.trust)
    if cfg.datamodule.get("data_dir") is not None and getattr(data, "source_folder", None) is None:
        raise ValueError(f"datamodule.data_dir={cfg.datamodule.data_dir}: {type(data).__name__} reads no folder")
    data.as_test_set(cfg.split, checkpoint["preprocessing"], names)
    facts = {"num_classes": len(names), "class_names": names, "tta": cfg.tta}
    evaluator = build("lit_module", cfg.lit_module, backbone=backbone, **facts)
    callbacks = build_all("callbacks", cfg.callbacks, Callback)
    trainer = build("trainer", cfg.trainer, Trainer, callbacks=callbacks, logger=False, enable_checkpointing=False)
    if trainer.world_size > 1:
        raise ValueError(f"an evaluation is one process, not {trainer.world_size}; say trainer.devices=1")
    trainer.test(evaluator, datamodule=data, weights_only=True, verbose=False)
    changes, seen = compare_test_set(data, checkpoints.trained_on(checkpoint), is_other="_target_" in cfg.datamodule)

    metrics = {name.replace("test", cfg.split, 1): value.item() for name, value in trainer.callback_metrics.items()}
    facts = {"checkpoint": str(file), "data": type(data).__name__, "split": cfg.split, "images": len(evaluator.labels)}
    settings = {"precision": cfg.trainer.precision, "memory_format": cfg.lit_module.memory_format, "tta": cfg.tta}
    facts["folder"] = redact(os.path.abspath(folder)) if (folder := getattr(data, "source_folder", None)) else None
    facts["preprocessing"] = checkpoint["preprocessing"]
    facts |= {"changes_since_training": changes, "seen_in_training": seen}
    write_json(Path(cfg.run_dir) / "metrics.json", {**facts, **settings, "metrics": metrics})
    counts = evaluator.labels.bincount(minlength=len(names)).tolist()
    log.info(summary.scores(facts, metrics, dict(zip(names, counts, strict=True)), cfg.run_dir))
    return metrics[f"{cfg.split}/top1"]


if __name__ == "__main__":
    run(evaluate, "evaluate", check)
