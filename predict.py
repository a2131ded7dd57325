"""Classify image files.

python predict.py ckpt=runs/digits_lenet/2026-11-25_10-00-00 images=photos output=predictions.csv
python predict.py ckpt=best.ckpt images='photos/*.png' format=full output=predictions.json grid=predictions.png
python predict.py ckpt=best.ckpt images=photos format=probability        for contests scored by log loss
python predict.py ckpt=best.ckpt images=photos format=features output=features.npz
"""

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from datamodules import image_paths
from inference import checkpoints, prediction_files
from launch.main import imports_without_gc, quiet_lightning, run
from launch.validation import check_choices, check_minimum
from results import summary
from results.errors import build
from results.run_folder import find_checkpoints

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import nn

    from datamodules import PredictImages
    from lit_modules.predictor import Predictions

log = logging.getLogger(__name__)


def check(cfg: "DictConfig") -> tuple[list[str], list[str], list[str]]:
    """Check what can be checked without torch.

    Returns:
        (the images' paths, their names in the output, messages about folders that cannot be read).
    """
    choices = {"format": tuple(prediction_files.SUFFIXES), "labels": ("number", "name")}
    check_choices(cfg, choices | {"tta": (None, "flip"), "broken": ("skip", "fail")})
    check_minimum(cfg, {"top_k": 1, "grid_count": 1, "batch_size": 1, "num_workers": 0})
    find_checkpoints(cfg.ckpt)
    prediction_files.check(cfg)
    unreadable: list[str] = []
    folder, files = image_paths.find_images(str(cfg.images), unreadable)
    if unreadable and cfg.broken == "fail":
        raise OSError(f"{unreadable[0]} (broken=skip leaves it out)")
    names = image_paths.identify(files) if cfg.format in prediction_files.BY_ID else {file: file for file in files}
    return [str(folder / file) for file in names.values()], list(names), unreadable


def predict(cfg: "DictConfig") -> None:
    """Classify ``cfg.images`` and write the predictions to ``cfg.output``."""
    paths, names, unreadable = check(cfg)
    if unreadable:
        log.warning(f"{'left out':<12} {'; '.join(unreadable)}")
    with imports_without_gc():  # torch is imported here, after the config has been checked
        import lightning  # noqa: F401

    quiet_lightning()
    members, backbone = checkpoints.open_checkpoints(cfg.ckpt, cfg.trust)
    checkpoint = members[0].checkpoint
    cfg = checkpoints.apply_training_numerics(cfg, checkpoint, backbone)
    class_names = checkpoint["class_names"]
    prediction_files.check_columns(cfg.format, class_names)
    started = time.perf_counter()
    data, predictions = classify(cfg, paths, checkpoint["preprocessing"], backbone, len(class_names))
    seconds = time.perf_counter() - started
    output = prediction_files.write(cfg, names, predictions, class_names, data)
    broken = [message for _, message in predictions.broken]
    log.info(summary.predictions(seconds, len(names) - len(broken), predictions.counts(class_names), broken, output))


def classify(
    cfg: "DictConfig", paths: Sequence[str], preprocessing: dict[str, Any], backbone: "nn.Module", num_classes: int
) -> tuple["PredictImages", "Predictions"]:
    """(the images as a data module, the predictions for them)."""
    from lightning import Callback, Trainer

    from datamodules import PredictImages
    from lit_modules.predictor import collect

    on_error = {"skip": "skip", "fail": "raise"}[cfg.broken]
    data = PredictImages(paths, preprocessing, cfg.batch_size, cfg.num_workers, on_error)
    outputs = "features" if cfg.format == "features" else "classes"
    top_k = num_classes if cfg.format == "probability" else cfg.top_k
    arguments = {"outputs": outputs, "top_k": top_k, "tta": cfg.tta}
    predictor = build("lit_module", cfg.lit_module, backbone=backbone, **arguments)
    callbacks = list(filter(None, [build("progress", cfg.progress, Callback)]))
    trainer = build("trainer", cfg.trainer, Trainer, callbacks=callbacks, logger=False, enable_checkpointing=False)
    if trainer.world_size > 1:
        raise ValueError(f"prediction runs in one process, not {trainer.world_size}; use trainer.devices=1")
    return data, collect(trainer.predict(predictor, data, weights_only=True))


if __name__ == "__main__":
    run(predict, "predict", check)
