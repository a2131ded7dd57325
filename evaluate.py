"""Score a trained network.

python evaluate.py ckpt=runs/digits_lenet/2026-11-25_10-00-00            the run's best checkpoint, on the test images
python evaluate.py ckpt=best.ckpt split=val tta=flip
python evaluate.py ckpt=[runs/a,runs/b]                                         an ensemble: mean probabilities
python evaluate.py ckpt=best.ckpt calibrate=true                                fit a temperature
python evaluate.py ckpt=best.ckpt explain=8                                     what the network looks at
python evaluate.py ckpt=best.ckpt datamodule=image_folder datamodule.data_dir=$HOME/pets
"""

import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference import checkpoints
from launch.main import imports_without_gc, quiet_lightning, run
from launch.validation import check_choices, check_minimum
from results import summary
from results.errors import ConfigError, build, build_all
from results.record import redact, write_json
from results.run_folder import find_checkpoints

if TYPE_CHECKING:
    from lightning import Callback
    from omegaconf import DictConfig
    from torch import nn

    from datamodules.base import ImageDataModule
    from lit_modules import Evaluator

log = logging.getLogger(__name__)


def check(cfg: "DictConfig") -> None:
    """Check what can be checked without torch."""
    choices = {"split": ("test", "val", "train"), "tta": (None, "flip"), "explain_by": ("occlusion", "gradcam")}
    check_choices(cfg, choices)
    check_minimum(cfg, {"explain": 0})
    if cfg.explain and not find_spec("captum"):
        raise ConfigError(f"explain={cfg.explain} needs captum, not installed: pip install -e '.[explain]'")
    if len(find_checkpoints(cfg.ckpt)) > 1 and cfg.calibrate:
        raise ConfigError("calibrate=true is for one checkpoint; calibrate each member of an ensemble first")


def evaluate(cfg: "DictConfig") -> float:
    """Score the network of ``cfg.ckpt`` and write metrics, tables and pictures to ``cfg.run_dir``.

    Returns:
        The top-1 accuracy.
    """
    check(cfg)
    with imports_without_gc():  # torch is imported here, after the config has been checked
        from lightning import Callback

        from datamodules.fingerprints import compare_test_set
        from inference.evaluation_files import write_tables

    quiet_lightning()
    members, backbone = checkpoints.open_checkpoints(cfg.ckpt, cfg.trust, calibrated=not cfg.calibrate)
    first = members[0]
    data = checkpoints.build_datamodule(first.checkpoint, cfg.datamodule, cfg.trust)
    facts = {"checkpoint": [str(member.file) for member in members] if len(members) > 1 else str(first.file)}
    if cfg.calibrate:
        facts["calibration"] = calibrate(cfg, first, data)
    elif len(members) > 1:
        facts["members"] = [
            {"checkpoint": str(member.file), "metrics": score(cfg, member, member.backbone, data, cfg.split)[1]}
            for member in members
        ]
    callbacks = build_all("callbacks", cfg.callbacks, Callback)
    evaluator, metrics = score(cfg, first, backbone, data, cfg.split, callbacks)
    is_other = "_target_" in cfg.datamodule
    found = [compare_test_set(data, checkpoints.trained_on(member.checkpoint), is_other) for member in members]
    folder = getattr(data, "source_folder", None)
    facts |= {
        "data": type(data).__name__,
        "split": cfg.split,
        "images": len(evaluator.labels),
        "folder": redact(os.path.abspath(folder)) if folder else None,
        "preprocessing": first.checkpoint["preprocessing"],
        "changes_since_training": {split: change for changes, _ in found for split, change in changes.items()},
        "seen_in_training": max((seen for _, seen in found if seen is not None), default=None),
        "precision": evaluator.trainer.precision,
        "memory_format": str(evaluator.memory_format).removeprefix("torch."),
        "tta": cfg.tta,
    }
    write_json(Path(cfg.run_dir) / "metrics.json", facts | {"metrics": metrics})
    write_tables(Path(cfg.run_dir), evaluator, data)
    classes = first.checkpoint["class_names"]
    counts = dict(zip(classes, evaluator.labels.bincount(minlength=len(classes)).tolist(), strict=True))
    log.info(summary.scores(facts, metrics, counts, cfg.run_dir))
    return metrics[f"{cfg.split}/top1"]


def score(
    cfg: "DictConfig",
    member: checkpoints.Member,
    backbone: "nn.Module",
    data: "ImageDataModule",
    split: str,
    callbacks: Sequence["Callback"] = (),
) -> tuple["Evaluator", dict[str, float]]:
    """Test a backbone on a split, with a member's classes. Returns (the evaluator, the metrics by name)."""
    from lightning import Trainer

    classes = member.checkpoint["class_names"]
    data.as_test_set(split, member.checkpoint["preprocessing"], classes)
    cfg = checkpoints.apply_training_numerics(cfg, member.checkpoint, backbone)
    arguments = {"num_classes": len(classes), "class_names": classes, "tta": cfg.tta}
    evaluator = build("lit_module", cfg.lit_module, backbone=backbone, **arguments)
    options = {"callbacks": list(callbacks), "logger": False, "enable_checkpointing": False}
    trainer = build("trainer", cfg.trainer, Trainer, **options)
    if trainer.world_size > 1:
        raise ValueError(f"evaluation runs in one process, not {trainer.world_size}; use trainer.devices=1")
    trainer.test(evaluator, datamodule=data, weights_only=True, verbose=False)
    values = {name: value.item() for name, value in trainer.callback_metrics.items()}
    return evaluator, {name.replace("test", split, 1): value for name, value in values.items()}


def calibrate(cfg: "DictConfig", member: checkpoints.Member, data: "ImageDataModule") -> dict[str, Any]:
    """Fit a network's temperature on the validation images, store it next to the checkpoint and apply it.

    Returns:
        The temperature, the number of validation images, and the metrics before.
    """
    from inference import calibration

    evaluator, _ = score(cfg, member, member.backbone, data, "val")
    temperature = calibration.fit_temperature(evaluator.logits, evaluator.labels)
    _, before = score(cfg, member, member.backbone, data, cfg.split)
    calibration.divide_logits(member.backbone, temperature)
    calibration.store_temperature(member.file, temperature)
    return {"temperature": temperature, "images": len(evaluator.labels), "before": before}


if __name__ == "__main__":
    run(evaluate, "evaluate", check)
