"""Export a trained network to one file for other programs, and check that the file computes the same.

python export.py ckpt=runs/digits_lenet/2026-11-25_10-00-00                     ONNX, normalised images in
python export.py ckpt=best.ckpt preprocessing=true output=digits.onnx                  uint8 pixels in
python export.py ckpt=best.ckpt format=weights                                         for torchvision and timm
python export.py ckpt=best.ckpt format=torch_export images=$HOME/pets                  compared on these images
"""

import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.image_paths import check_writable, find_images
from inference import checkpoints
from launch.main import imports_without_gc, quiet_lightning, run
from launch.run_names import checkpoint_name
from launch.validation import check_choices
from results.errors import ConfigError
from results.run_folder import find_checkpoint, short

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)
# Format → file suffix, required packages.
FORMATS = {
    "onnx": (".onnx", ("onnx", "onnxscript", "onnxruntime")),
    "torch_export": (".pt2", ()),
    "weights": (".safetensors", ()),
}


def check(cfg: "DictConfig") -> None:
    """Check what can be checked without torch."""
    check_choices(cfg, {"format": tuple(FORMATS)})
    suffix, packages = FORMATS[cfg.format]
    if missing := [package for package in packages if not find_spec(package)]:
        raise ConfigError(f"format={cfg.format} needs {', '.join(missing)}, not installed: pip install -e '.[export]'")
    if cfg.output:
        check_writable("output", Path(cfg.output), (suffix,))
    if cfg.preprocessing and cfg.format == "weights":
        raise ConfigError("preprocessing=true: format=weights contains only weights; expected another format")
    if cfg.tolerance is None or not cfg.tolerance >= 0:
        raise ConfigError(f"tolerance={cfg.tolerance}: expected 0 or more")
    if cfg.images:
        find_images(cfg.images)
    find_checkpoint(cfg.ckpt)


def export(cfg: "DictConfig") -> float:
    """Write the network of ``cfg.ckpt`` to ``cfg.output``, if the file computes the same logits.

    Returns:
        The largest difference between the file's logits and the checkpoint's.
    """
    check(cfg)
    with imports_without_gc():  # torch is imported here, after the config has been checked
        from inference import exporters

    quiet_lightning()
    file, checkpoint, backbone = checkpoints.open_checkpoint(cfg.ckpt, cfg.trust)
    folder, names = find_images(cfg.images) if cfg.images else (Path(), [])
    pixels, source = exporters.real_images(checkpoint, [str(folder / name) for name in names], cfg.trust)
    facts = {"class_names": checkpoint["class_names"], "preprocessing": checkpoint["preprocessing"]}
    facts |= {"preprocessing_inside": cfg.preprocessing, "checkpoint": str(file)}
    path = Path(cfg.output or f"{cfg.run_dir}/{checkpoint_name(cfg.ckpt)}{FORMATS[cfg.format][0]}").expanduser()
    try:
        difference, result = exporters.save(path, cfg.format, backbone, pixels, facts, cfg.tolerance)
    except exporters.Disagreement as error:
        sys.exit(f"error: {error}")  # exit code 1: the user cannot fix it
    log.info(f"{'compared':<12} {source}, in batches of 1, 7 and all: {result}")
    log.info(f"{'exported':<12} {short(path)} ({path.stat().st_size / 1e6:.1f} MB)")
    return difference


if __name__ == "__main__":
    run(export, "export", check)
