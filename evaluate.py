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
    with imports_without_gc():  # torch is imported here, after the config has been checked
        from lightning import Callback, Trainer

        from datamodules.fingerprints import compare_test_set

    quiet_lightning()
    file, checkpoint, backbone = checkpoints.open_checkpoint(cfg.ckpt, cfg.trust)
    cfg = checkpoints.apply_training_numerics(cfg, checkpoint, backbone)
    classes, preprocessing = checkpoint["class_names"], checkpoint["preprocessing"]
    data = checkpoints.build_datamodule(checkpoint, cfg.datamodule, cfg.trust)
    data.as_test_set(cfg.split, preprocessing, classes)
    arguments = {"num_classes": len(classes), "class_names": classes, "tta": cfg.tta}
    evaluator = build("lit_module", cfg.lit_module, backbone=backbone, **arguments)
    callbacks = build_all("callbacks", cfg.callbacks, Callback)
    trainer = build("trainer", cfg.trainer, Trainer, callbacks=callbacks, logger=False, enable_checkpointing=False)
    if trainer.world_size > 1:
        raise ValueError(f"an evaluation is one process, not {trainer.world_size}; use trainer.devices=1")
    trainer.test(evaluator, datamodule=data, weights_only=True, verbose=False)
    changes, seen = compare_test_set(data, checkpoints.trained_on(checkpoint), is_other="_target_" in cfg.datamodule)

    metrics = {name.replace("test", cfg.split, 1): value.item() for name, value in trainer.callback_metrics.items()}
    folder = getattr(data, "source_folder", None)
    facts = {
        "checkpoint": str(file),
        "data": type(data).__name__,
        "split": cfg.split,
        "images": len(evaluator.labels),
        "folder": redact(os.path.abspath(folder)) if folder else None,
        "preprocessing": preprocessing,
        "changes_since_training": changes,
        "seen_in_training": seen,
        "precision": cfg.trainer.precision,
        "memory_format": cfg.lit_module.memory_format,
        "tta": cfg.tta,
    }
    write_json(Path(cfg.run_dir) / "metrics.json", facts | {"metrics": metrics})
    counts = dict(zip(classes, evaluator.labels.bincount(minlength=len(classes)).tolist(), strict=True))
    log.info(summary.scores(facts, metrics, counts, cfg.run_dir))
    return metrics[f"{cfg.split}/top1"]


if __name__ == "__main__":
    run(evaluate, "evaluate", check)
