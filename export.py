"""Write a trained network as one file for other programs, once that file is seen to compute the same.

python export.py ckpt=runs/digits_lenet/2026-11-25_10-00-00.000000                     ONNX, normalised images in
python export.py ckpt=best.ckpt preprocessing=true output=digits.onnx                  uint8 pixels in
python export.py ckpt=best.ckpt format=torch_export images=$HOME/pets                  compared on these images
"""

import logging
import os
import sys
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import checkpoints
import cli
import console
from mistakes import Mistake
from models.form import check_choice
from plan import run_of
from studies.runs import find_checkpoint

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)
# By format: the ending of its files, and the packages it takes beside torch.
FORMATS = {"onnx": (".onnx", ("onnx", "onnxscript", "onnxruntime")), "torch_export": (".pt2", ())}
IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def check(cfg: "DictConfig") -> None:
    """Find the mistakes that need no torch."""
    check_choice("format", cfg.format, FORMATS)
    ending, packages = FORMATS[cfg.format]
    if missing := [package for package in packages if not find_spec(package)]:
        raise Mistake(f"format={cfg.format} needs {', '.join(missing)}, not installed: pip install -e '.[export]'")
    if cfg.output and Path(cfg.output).suffix != ending:
        raise Mistake(f"output={cfg.output}: expected a file that ends in {ending}, for format={cfg.format}")
    if cfg.tolerance is None or not cfg.tolerance >= 0:
        raise Mistake(f"tolerance={cfg.tolerance}: expected 0 or more")
    if cfg.images:
        image_files(cfg.images)
    find_checkpoint(cfg.ckpt)


def image_files(path: str) -> list[str]:
    """The image files that a path means: one, all in a folder and below, or those of a pattern."""
    place = Path(path).expanduser()
    if place.is_file():
        return [str(place)]
    found = place.rglob("*") if place.is_dir() else map(Path, glob(str(place), recursive=True))
    files = sorted(str(file) for file in found if file.suffix.lower() in IMAGES)
    if not files:
        raise Mistake(f"images={path}: no image files there")
    return files


def export(cfg: "DictConfig") -> float:
    """Write the network of ``cfg.ckpt`` to ``cfg.output``; a file that computes something else is not left there.

    Returns:
        The largest difference between its logits and the checkpoint's.
    """
    check(cfg)
    with cli.importing():  # from here on torch is there
        import exported

    console.quiet_lightning()
    file, remark = find_checkpoint(cfg.ckpt)
    if remark:
        log.warning(remark)
    log.info(f"{'checkpoint':<12} {file}")
    checkpoint = checkpoints.read(file)
    backbone = checkpoints.backbone(checkpoint, cfg.trust)
    pixels, whose = exported.real_images(checkpoint, image_files(cfg.images) if cfg.images else (), cfg.trust)
    facts = {"class_names": checkpoint["class_names"], "preprocessing": checkpoint["preprocessing"]}
    facts |= {"preprocessing_inside": cfg.preprocessing, "checkpoint": str(file)}
    path = Path(cfg.output or f"{cfg.run_dir}/{run_of(cfg.ckpt)}{FORMATS[cfg.format][0]}").expanduser()
    try:
        difference, said = exported.save(path, cfg.format, backbone, pixels, facts, cfg.tolerance)
    except exported.Disagreement as error:
        sys.exit(f"error: {error}")  # code 1, for it is no mistake of the user's
    log.info(f"{'compared':<12} {whose}, at a batch of 1, of 7 and of all: {said}")
    shown = str(path).removeprefix(os.getcwd() + os.sep)
    log.info(f"{'exported':<12} {shown} ({path.stat().st_size / 1e6:.1f} MB)")
    return difference


if __name__ == "__main__":
    cli.run(export, "export", check)
