"""Open a checkpoint: network, data and preprocessing.

Checkpoints are untrusted input: they are opened as plain values, and ``safe_build`` instantiates only classes on an
allow-list. Torch is imported when a file is opened.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from inference.safe_build import DATAMODULES, MODELS, safe_build
from results.errors import building
from results.record import one_line
from results.run_folder import FOLDER, LAST, find_checkpoint, find_checkpoints, nearest

if TYPE_CHECKING:
    from lightning import LightningDataModule
    from omegaconf import DictConfig
    from torch import Tensor, nn

log = logging.getLogger(__name__)
# The entries that ``describe`` adds to a checkpoint, and their types.
PARTS = {"model": dict, "datamodule": dict, "class_names": list, "preprocessing": dict, "state_dict": dict}
# The entries that Lightning adds, for resuming, and their types.
PROGRESS = {
    "pytorch-lightning_version": str,
    "epoch": int,
    "global_step": int,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
}
PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
# Assumed for older checkpoints, which lack ``numerics``.
PLAIN = {"precision": "32-true", "memory_format": "contiguous_format"}


class TrainedClassifier:
    """A trained network with preprocessing: maps images to probabilities.

    Args:
        backbone: maps preprocessed images to logits.
        class_names: of the outputs, in order.
        preprocessing: ``in_channels``, ``image_size``, ``mean``, ``std``; ``resize_ratio`` if the centre is cropped.
    """

    def __init__(self, backbone: "nn.Module", class_names: list[str], preprocessing: dict[str, Any]):
        import datamodules

        self.backbone, self.class_names, self.preprocessing = backbone.eval(), class_names, preprocessing
        self.preprocess = datamodules.Preprocessing(**preprocessing)

    def __call__(self, images: "Tensor | str | Path | Sequence[str | Path]") -> "Tensor":
        """Images → probabilities ``(N, num_classes)`` float32.

        Args:
            images: ``(N, 1 or 3, h, w)`` uint8 of any size and on any device, or the path of one or more image files.

        Raises:
            ValueError: a file, which is named, cannot be read as an image.
        """
        import torch

        device = next(self.backbone.parameters()).device
        if isinstance(images, torch.Tensor):
            images = self.preprocess(images.to(device))
        else:
            files = [images] if isinstance(images, str | Path) else images
            images = self.preprocess.normalize(self.read(files).to(device))
        with torch.no_grad():
            return self.backbone(images).float().softmax(1)  # (N, num_classes)

    def read(self, files: "Sequence[str | Path]") -> "Tensor":
        """Image files of any size → ``(N, in_channels, image_size, image_size)`` uint8, as the network sees them."""
        import torch

        from datamodules.decoding import read_and_transform

        if not files:
            raise ValueError("there are no files to classify; expected a path, or a list of them")
        channels = self.preprocess.in_channels
        paths = [str(Path(file).expanduser()) for file in files]
        return torch.stack([read_and_transform(path, channels, self.preprocess.fit) for path in paths])

    def to(self, device: str) -> "TrainedClassifier":
        self.backbone.to(device)
        return self


def describe(config: dict[str, Any], datamodule: "LightningDataModule") -> dict[str, Any]:
    """The entries that a run adds to checkpoints: how to build network and data, and the numerics.

    Args:
        config: the run's resolved config, as plain values.
    """
    return {
        "model": config["model"],
        "datamodule": config["datamodule"],
        "class_names": list(datamodule.class_names),
        "preprocessing": datamodule.preprocessing,
        "numerics": {
            "precision": str(config["trainer"]["precision"]),
            "memory_format": config["lit_module"]["memory_format"],
        },
    }


class Member(NamedTuple):
    """A trained network on the CPU, and the checkpoint file that it is from."""

    file: Path
    checkpoint: dict[str, Any]
    backbone: "nn.Module"


def open_checkpoint(path: str | Path, trust: Iterable[str] = ()) -> Member:
    """The trained network at ``path``, calibrated if a temperature is stored."""
    return _open(*find_checkpoint(path), trust)


def open_checkpoints(
    ckpt: str | Path | Sequence[str], trust: Iterable[str] = (), calibrated: bool = True
) -> tuple[list[Member], "nn.Module"]:
    """(the networks that ``ckpt`` names, one or several; the ensemble that averages their probabilities).

    Args:
        ckpt: as in ``find_checkpoints``.
        calibrated: apply the stored temperatures.

    Raises: ValueError: the networks differ in classes or preprocessing.
    """
    from inference.ensemble import Ensemble

    members = [_open(*found, trust, calibrated) for found in find_checkpoints(ckpt)]
    first, *rest = members
    for member in rest:
        for part in ("class_names", "preprocessing"):
            has, expected = member.checkpoint[part], first.checkpoint[part]
            if has != expected:
                raise ValueError(f"{member.file} has {part} {has}, {first.file} {expected}; expected the same")
    return members, Ensemble(member.backbone for member in members) if rest else first.backbone


def _open(file: Path, remark: str | None, trust: Iterable[str], calibrated: bool = True) -> Member:
    from inference.calibration import divide_logits, stored_temperature

    if remark:
        log.info(remark)
    log.info(f"{'checkpoint':<12} {file}")
    checkpoint = read_checkpoint(file)
    backbone = build_backbone(checkpoint, trust)
    if calibrated and (temperature := stored_temperature(file)):
        divide_logits(backbone, temperature)
    return Member(file, checkpoint, backbone)


def apply_training_numerics(cfg: "DictConfig", checkpoint: dict[str, Any], backbone: "nn.Module") -> "DictConfig":
    """A copy of a script's config with ``trained`` and ``auto`` replaced by values."""
    from lit_modules import numerics

    cfg = cfg.copy()
    for part, name in ((cfg.trainer, "precision"), (cfg.lit_module, "memory_format")):
        if part[name] == "trained":
            part[name] = checkpoint["numerics"][name]
            if str(part[name]).startswith("16") and numerics.device_type(cfg.trainer.accelerator) == "cpu":
                part[name] = "32-true"  # float16 needs a GPU
    return numerics.resolve_auto(cfg, backbone)


def load(path: str | Path, trust: Iterable[str] = ()) -> TrainedClassifier:
    """The network of a checkpoint file, or of the best checkpoint in a run's folder, on the CPU.

    Args:
        trust: further networks that a checkpoint may build, such as ``["models.tiny.Tiny"]``.
    """
    _, checkpoint, network = open_checkpoint(path, trust)
    return TrainedClassifier(network, checkpoint["class_names"], checkpoint["preprocessing"])


def read_checkpoint(file: Path) -> dict[str, Any]:
    """The content of a checkpoint of this project: plain values and tensors, on the CPU.

    Raises: ValueError: the file is not such a checkpoint, or contains code.
    """
    import torch

    from models.pretrained import read_plain

    content = read_plain(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, not a checkpoint of train.py")
    if content and all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(f"{file} holds only weights, without the network's config; expected a checkpoint of train.py")
    if missing := [part for part, kind in PARTS.items() if not isinstance(content.get(part), kind)]:
        raise ValueError(f"{file} is not a checkpoint of train.py: it lacks {', '.join(missing)}")
    try:
        import datamodules

        datamodules.Preprocessing(**content["preprocessing"])
    except Exception as error:
        raise ValueError(f"{file} has an invalid preprocessing: {one_line(error)}") from error
    numerics = content.get("numerics")
    content["numerics"] = PLAIN | (numerics if isinstance(numerics, dict) else {})
    return content


def check_resume_path(path: str) -> Path:
    """The file that ``ckpt_path`` names. Raises: ValueError, OSError: an address, or no such file."""
    if "://" in path:
        raise ValueError(f"ckpt_path={path} is a URL; expected a file on this machine")
    file = Path(path).expanduser()
    if file.is_dir():
        raise IsADirectoryError(f"ckpt_path={path} is a folder; expected a file such as {file / FOLDER / LAST}")
    if not file.is_file():
        raise FileNotFoundError(f"ckpt_path={path}: no such file{nearest(file)}; expected a checkpoint to resume from")
    return file


def load_for_resume(path: str, run_dir: str) -> tuple[Path, dict[str, Any]]:
    """(checkpoint file, content). If the file is of this run and damaged, the newest valid one next to it is used.

    Raises: ValueError, OSError: no checkpoint is valid.
    """
    file = check_resume_path(path)
    files = [file]
    if file.parent.absolute() == Path(run_dir, FOLDER).absolute():
        files += sorted(set(file.parent.glob("*.ckpt")) - {file}, key=lambda f: f.stat().st_mtime, reverse=True)
    for number, candidate in enumerate(files, 1):
        try:
            checkpoint = read_checkpoint(candidate)
            check_progress(checkpoint, candidate)
            break
        except ValueError as error:
            if number == len(files):
                raise
            log.warning(f"{one_line(error)}; taking {files[number].name}")
    log.info(f"{'resuming':<12} from step {checkpoint.get('global_step')} of {candidate.name}")
    return candidate, checkpoint


def check_progress(checkpoint: dict[str, Any], file: Path) -> None:
    """Raise a ValueError if a training cannot resume from a checkpoint.

    Lightning deletes the previous best checkpoint by the path stored in this one, so paths outside the run's folder of
    checkpoints are rejected; except the best one's, which may be in the run from which this one was resumed.
    """
    if missing := [part for part, kind in PROGRESS.items() if not isinstance(checkpoint.get(part), kind)]:
        raise ValueError(f"{file} cannot be resumed from: it has no {', '.join(missing)}")
    optimizers = checkpoint["optimizer_states"]
    if not optimizers or not all(isinstance(state, dict) and "param_groups" in state for state in optimizers):
        raise ValueError(f"{file} has no optimizer state in optimizer_states")
    if not isinstance(checkpoint.get("trained_by", {}), dict):
        raise ValueError(f"{file} has an invalid trained_by; expected a dict")
    if not isinstance(checkpoint["loops"].get("fit_loop"), dict):
        raise ValueError(f"{file} has no fit_loop in loops")
    if not isinstance(checkpoint.get("folder", ""), str):
        raise ValueError(f"{file} has an invalid folder; expected a path")
    runs = checkpoint.get("logger_runs", {})
    if not isinstance(runs, dict) or not all(isinstance(text, str) for text in (*runs, *runs.values())):
        raise ValueError(f"{file} has invalid logger_runs; expected text by name")
    for state in filter(lambda state: isinstance(state, dict), checkpoint["callbacks"].values()):
        best, *rest = (state.get(key) for key in PATHS)
        rest += state.get("best_k_models") or ()
        for path in filter(None, [best, *rest]):
            valid = isinstance(path, str) and "://" not in path and ".." not in Path(path).parts
            if not valid or path in rest and not Path(path).is_relative_to(str(state.get("dirpath"))):
                raise ValueError(f"{file} names {path} as a checkpoint of the run; expected a file in the run's folder")


def build_backbone(checkpoint: dict[str, Any], trust: Iterable[str] = ()) -> "nn.Module":
    """The network of a checkpoint, with the trained weights.

    Raises:
        ValueError: the class is not on the allow-list, or the weights, classes or images do not fit the config.
    """
    config, preprocessing = checkpoint["model"], checkpoint["preprocessing"]
    for name, value in {"num_classes": len(checkpoint["class_names"]), **preprocessing}.items():
        if config.get(name, value) != value:
            raise ValueError(f"the checkpoint's model has {name}={config[name]}, but the data has {name}={value}")
    config = {name: value for name, value in config.items() if name != "weights"}  # the checkpoint has the weights
    network = safe_build(config, "model", MODELS, trust)
    network.load_state_dict(matching_weights(network, checkpoint, f"in the config, {config['_target_']}"))
    return network


def matching_weights(
    network: "nn.Module", checkpoint: dict[str, Any], description: str, hint: str = ""
) -> dict[str, "Tensor"]:
    """A checkpoint's weights for a network.

    Args:
        description: of the network, for the error message.
        hint: appended to the message.

    Raises: ValueError: names or shapes differ.
    """
    from models.pretrained import shape

    prefix, expected = "backbone.", network.state_dict()
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if str(k).startswith(prefix)}
    for name in [*expected, *weights]:
        actual, wanted = (shape(tensors, name) for tensors in (weights, expected))
        if actual != wanted:
            raise ValueError(
                f"the checkpoint's weights do not fit the network {description}: {name} is {actual}, "
                f"expected {wanted}{hint}"
            )
    return weights


def build_datamodule(
    checkpoint: dict[str, Any], config: "DictConfig", trust: Iterable[str] = ()
) -> "LightningDataModule":
    """The data that a checkpoint's network was trained on, or other data, preprocessed for this network.

    Args:
        config: a data module with a ``_target_``; without one, changes to the arguments of the checkpoint's data. A
            ``data_dir`` of None changes nothing.
    """
    from hydra.utils import instantiate
    from omegaconf import OmegaConf, open_dict

    config = config.copy()
    if config.get("data_dir", "") is None:
        with open_dict(config):
            del config["data_dir"]
    if "_target_" not in config:
        changed = checkpoint["datamodule"] | OmegaConf.to_container(config, resolve=True)
        data = safe_build(changed, "datamodule", DATAMODULES, trust)
    else:
        # Without a resize_ratio, the network was trained on whole images.
        trained = {"resize_ratio": None} | checkpoint["preprocessing"]
        with building("datamodule", config):
            data = instantiate(config, **{name: value for name, value in trained.items() if name in config})
    if config.get("data_dir") is not None and getattr(data, "source_folder", None) is None:
        raise ValueError(f"datamodule.data_dir={config.data_dir}: {type(data).__name__} does not read a folder")
    data.order_classes(checkpoint["class_names"])
    return data


def trained_on(checkpoint: dict[str, Any]) -> dict[str, Any] | None:
    """Fingerprints of the splits that a checkpoint's network was trained on.

    Returns:
        {} for image files if the checkpoint is older than fingerprints; None for data without fingerprints.
    """
    from datamodules.fingerprints import valid

    name = str(checkpoint["datamodule"].get("_target_")).rpartition(".")[2]
    state = checkpoint.get(name)
    splits = valid(state.get("splits")) if isinstance(state, dict) else {}
    return splits or ({} if name in ("ImageFolder", "ImageNet", "CatsVsDogs") else None)
