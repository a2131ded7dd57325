"""Say what images show.

python predict.py ckpt=runs/digits_lenet/2026-11-25_10-00-00.000000 images=photos output=predictions.csv
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
from results.run_folder import find_checkpoint

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import nn

    from datamodules import PredictImages
    from lit_modules.predictor import Predictions

log = logging.getLogger(__name__)


def check(cfg: "DictConfig") -> tuple[list[str], list[str], list[str]]:
    """Check what can be checked without torch.

    Returns:
        (the images' paths, what the output calls them, messages about folders that cannot be read).
    """
    choices = {"format": tuple(prediction_files.SUFFIXES), "labels": ("number", "name")}
    check_choices(cfg, choices | {"tta": (None, "flip"), "broken": ("skip", "fail")})
    check_minimum(cfg, {"top_k": 1, "grid_count": 1, "batch_size": 1, "num_workers": 0})
    find_checkpoint(cfg.ckpt)
    prediction_files.check(cfg)
    unreadable: list[str] = []
    folder, names = image_paths.find_images(str(cfg.images), unreadable)
    if unreadable and cfg.broken == "fail":
        raise OSError(f"{unreadable[0]} (broken=skip leaves it out)")
    called = image_paths.identify(names) if cfg.format in prediction_files.BY_ID else {name: name for name in names}
    return [str(folder / name) for name in called.values()], list(called), unreadable


def predict(cfg: "DictConfig") -> None:
    """Write what ``cfg.images`` show to ``cfg.output``."""
    paths, names, unreadable = check(cfg)
    if unreadable:
        log.warning(f"{'left out':<12} {'; '.join(unreadable)}")
    with imports_without_gc():  # from here on torch is there
        import lightning  # noqa: F401

    quiet_lightning()
    _, checkpoint, backbone = checkpoints.open_checkpoint(cfg.ckpt, cfg.trust)
    cfg = checkpoints.apply_training_numerics(cfg, checkpoint, backbone)
    prediction_files.check_columns(cfg.format, checkpoint["class_names"])
    if cfg.format == "probability":
        cfg.top_k = len(checkpoint["class_names"])
    began = time.perf_counter()
    data, found = predicted(cfg, paths, checkpoint["preprocessing"], backbone)
    seconds = time.perf_counter() - began
    output = prediction_files.write(cfg, names, found, checkpoint["class_names"], data)
    log.info(summary.predicted(seconds, found, checkpoint["class_names"], output))


def predicted(
    cfg: "DictConfig", paths: Sequence[str], preprocessing: dict[str, Any], backbone: "nn.Module"
) -> tuple["PredictImages", "Predictions"]:
    """The images as data, and what the network says of them."""
    from lightning import Callback, Trainer

    from datamodules import PredictImages
    from lit_modules.predictor import collect

    on_error = {"skip": "skip", "fail": "raise"}[cfg.broken]
    data = PredictImages(paths, preprocessing, cfg.batch_size, cfg.num_workers, on_error)
    wanted = {"outputs": "features" if cfg.format == "features" else "classes", "top_k": cfg.top_k, "tta": cfg.tta}
    predictor = build("lit_module", cfg.lit_module, backbone=backbone, **wanted)
    callbacks = list(filter(None, [build("progress", cfg.progress, Callback)]))
    trainer = build("trainer", cfg.trainer, Trainer, callbacks=callbacks, logger=False, enable_checkpointing=False)
    if trainer.world_size > 1:
        raise ValueError(f"a prediction is one process, not {trainer.world_size}; say trainer.devices=1")
    return data, collect(trainer.predict(predictor, data, weights_only=True))


if __name__ == "__main__":
    run(predict, "predict", check)
