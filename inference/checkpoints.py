"""Open a checkpoint: its network, its data, its preprocessing.

Checkpoints are untrusted input: they are opened as plain values, and ``safe_build`` instantiates what they name from an
allow-list. Torch is imported when a file is opened.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.safe_build import DATAMODULES, MODELS, build
from results.errors import building
from results.record import one_line
from results.run_folder import FOLDER, LAST, find_checkpoint, nearest

if TYPE_CHECKING:
    from lightning import LightningDataModule
    from omegaconf import DictConfig
    from torch import Tensor, nn

log = logging.getLogger(__name__)
# What train.py puts into a checkpoint, and of what kind it is.
PARTS = {"model": dict, "datamodule": dict, "class_names": list, "preprocessing": dict, "state_dict": dict}
# What Lightning adds, for a training to go on.
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
# How a network is computed where the checkpoint does not say it.
PLAIN = {"precision": "32-true", "memory_format": "contiguous_format"}


class TrainedClassifier:
    """A trained network from images to probabilities, with its preprocessing inside.

    Args:
        backbone: from preprocessed images to logits; in evaluation mode.
        class_names: of the outputs, in order.
        preprocessing: ``in_channels``, ``image_size``, ``mean``, ``std``; ``resize_ratio`` where the centre is cropped.
    """

    def __init__(self, backbone: "nn.Module", class_names: list[str], preprocessing: dict[str, Any]):
        import datamodules

        self.backbone, self.class_names, self.preprocessing = backbone.eval(), class_names, preprocessing
        self.preprocess = datamodules.Preprocessing(**preprocessing)

    def __call__(self, images: "Tensor | str | Path | Sequence[str | Path]") -> "Tensor":
        """Images → probabilities ``(N, num_classes)`` float32.

        Args:
            images: ``(N, 1 or 3, h, w)`` uint8 of any size and on any device, or the path of an image file, or several.

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


def opened(path: str | Path, trust: Iterable[str] = ()) -> tuple[Path, dict[str, Any], "nn.Module"]:
    """(the checkpoint file that a path means, what it holds, its network), on the CPU."""
    file, remark = find_checkpoint(path)
    if remark:
        log.warning(remark)
    log.info(f"{'checkpoint':<12} {file}")
    checkpoint = read(file)
    return file, checkpoint, backbone(checkpoint, trust)


def as_trained(cfg: "DictConfig", checkpoint: dict[str, Any], network: "nn.Module") -> None:
    """Put the training's own values where a script's config says ``trained``; settle what is ``auto``."""
    from lit_modules import numerics

    for place, name in ((cfg.trainer, "precision"), (cfg.lit_module, "memory_format")):
        if place[name] == "trained":
            place[name] = checkpoint["numerics"][name]
            if str(place[name]).startswith("16") and numerics.device_type(cfg.trainer.accelerator) == "cpu":
                place[name] = "32-true"  # there is no float16 on a CPU
    numerics.settle(cfg, network)


def load(path: str | Path, trust: Iterable[str] = ()) -> TrainedClassifier:
    """The network of a checkpoint file, or of the best checkpoint in a run's folder, on the CPU.

    Args:
        trust: networks beyond this project's own that a checkpoint may have built, say ``["models.tiny.Tiny"]``.
    """
    _, checkpoint, network = opened(path, trust)
    return TrainedClassifier(network, checkpoint["class_names"], checkpoint["preprocessing"])


def read(file: Path) -> dict[str, Any]:
    """What a checkpoint of ours holds: plain values and tensors, on the CPU.

    Raises: ValueError: it is something else, or could run code when opened.
    """
    import torch

    from models.pretrained import read as read_plain

    content = read_plain(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, not a checkpoint of train.py")
    if content and all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(f"{file} holds bare weights and does not say of which network; expected one of train.py's")
    if missing := [part for part, kind in PARTS.items() if not isinstance(content.get(part), kind)]:
        raise ValueError(f"{file} is no checkpoint of train.py: it does not say {', '.join(missing)}")
    try:
        import datamodules

        datamodules.Preprocessing(**content["preprocessing"])
    except Exception as error:
        raise ValueError(f"{file} does not say how images were prepared: {one_line(error)}") from error
    numerics = content.get("numerics")
    content["numerics"] = PLAIN | (numerics if isinstance(numerics, dict) else {})
    return content


def file_to_go_on_from(path: str) -> Path:
    """The file that ``ckpt_path`` means. Raises: ValueError, OSError: an address, or no file."""
    if "://" in path:
        raise ValueError(f"ckpt_path={path} is an address; a checkpoint is opened from this machine's files only")
    file = Path(path).expanduser()
    if file.is_dir():
        raise IsADirectoryError(f"ckpt_path={path} is a folder; expected a file, say {file / FOLDER / LAST}")
    if not file.is_file():
        raise FileNotFoundError(f"ckpt_path={path}: no such file{nearest(file)}; expected a checkpoint to go on from")
    return file


def to_go_on_from(path: str, run_dir: str) -> tuple[Path, dict[str, Any]]:
    """A checkpoint file and what it holds; if that is this run's own and damaged, the newest sound one beside it.

    Raises: ValueError, OSError: there is none.
    """
    file = file_to_go_on_from(path)
    files = [file]
    if file.parent.absolute() == Path(run_dir, FOLDER).absolute():
        files += sorted(set(file.parent.glob("*.ckpt")) - {file}, key=lambda f: f.stat().st_mtime, reverse=True)
    for number, candidate in enumerate(files, 1):
        try:
            found = read(candidate)
            check_progress(found, candidate)
            break
        except ValueError as error:
            if number == len(files):
                raise
            log.warning(f"{one_line(error)}; taking {files[number].name}")
    log.info(f"{'going on':<12} from step {found.get('global_step')} of {candidate.name}")
    return candidate, found


def check_progress(checkpoint: dict[str, Any], file: Path) -> None:
    """Raise a ValueError if a training cannot go on from a checkpoint.

    Lightning deletes the checkpoint that was the best when a better one comes, by the path that it finds here: that
    must be one in the folder of the run's checkpoints. Only the best's may be another's, of a run that this one went on
    from.
    """
    if missing := [part for part, kind in PROGRESS.items() if not isinstance(checkpoint.get(part), kind)]:
        raise ValueError(f"{file} does not say how far its training was: it has no {', '.join(missing)}")
    optimizers = checkpoint["optimizer_states"]
    if not optimizers or not all(isinstance(state, dict) and "param_groups" in state for state in optimizers):
        raise ValueError(f"{file} has no state of an optimizer in its optimizer_states")
    if not isinstance(checkpoint.get("trained_by", {}), dict):
        raise ValueError(f"{file} does not say by which optimizer it was trained")
    if not isinstance(checkpoint["loops"].get("fit_loop"), dict):
        raise ValueError(f"{file} has no fit_loop in its loops")
    if not isinstance(checkpoint.get("folder", ""), str):
        raise ValueError(f"{file} does not say in which folder it was written")
    runs = checkpoint.get("logger_runs", {})
    if not isinstance(runs, dict) or not all(isinstance(text, str) for text in (*runs, *runs.values())):
        raise ValueError(f"{file} does not say which runs its loggers wrote to")
    for state in filter(lambda state: isinstance(state, dict), checkpoint["callbacks"].values()):
        best, *others = (state.get(key) for key in PATHS)
        others += state.get("best_k_models") or ()
        for path in filter(None, [best, *others]):
            sound = isinstance(path, str) and "://" not in path and ".." not in Path(path).parts
            if not sound or path in others and not Path(path).is_relative_to(str(state.get("dirpath"))):
                raise ValueError(f"{file} names {path} as a checkpoint of its run; it was not made by train.py")


def backbone(checkpoint: dict[str, Any], trust: Iterable[str] = ()) -> "nn.Module":
    """The network of a checkpoint with its weights.

    Raises:
        ValueError: it is not to be built, or its weights, classes or images are not those of its config.
    """
    config, preprocessing = checkpoint["model"], checkpoint["preprocessing"]
    for fact, value in {"num_classes": len(checkpoint["class_names"]), **preprocessing}.items():
        if config.get(fact, value) != value:
            raise ValueError(f"the checkpoint's model has {fact}={config[fact]}, its data {fact}={value}")
    config = {name: value for name, value in config.items() if name != "weights"}  # it has its own
    network = build(config, "model", MODELS, trust)
    network.load_state_dict(weights_for(network, checkpoint, f"that its config names, {config['_target_']}"))
    return network


def weights_for(network: "nn.Module", checkpoint: dict[str, Any], which: str, hint: str = "") -> dict[str, "Tensor"]:
    """A checkpoint's weights. Raises: ValueError: they are not of this network, which ``which`` says in words."""
    from models.pretrained import shape

    prefix, expected = "backbone.", network.state_dict()
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if str(k).startswith(prefix)}
    for name in [*expected, *weights]:
        found, wanted = (shape(part, name) for part in (weights, expected))
        if found != wanted:
            raise ValueError(
                f"the checkpoint's weights are not of the network {which}: {name} is {found}, expected {wanted}{hint}"
            )
    return weights


def datamodule(checkpoint: dict[str, Any], config: "DictConfig", trust: Iterable[str] = ()) -> "LightningDataModule":
    """The data that a checkpoint's network was trained on, or other data as this network sees it.

    Args:
        config: of other data, with a ``_target_``; without one, changes to the arguments of the checkpoint's data. A
            ``data_dir`` of None is no change.
    """
    from hydra.utils import instantiate
    from omegaconf import OmegaConf, open_dict

    config = config.copy()
    if config.get("data_dir", "") is None:
        with open_dict(config):
            del config["data_dir"]
    if "_target_" not in config:
        changed = checkpoint["datamodule"] | OmegaConf.to_container(config, resolve=True)
        data = build(changed, "datamodule", DATAMODULES, trust)
    else:
        # A network that saw whole images is shown whole ones.
        seen = {"resize_ratio": None} | checkpoint["preprocessing"]
        with building("datamodule", config):
            data = instantiate(config, **{fact: value for fact, value in seen.items() if fact in config})
    data.order_classes(checkpoint["class_names"])
    return data


def trained_on(checkpoint: dict[str, Any]) -> dict[str, Any] | None:
    """Fingerprints of the splits that a checkpoint's network was trained on.

    Returns:
        {} for a checkpoint on image files that is too old to have them, None for one whose data need none.
    """
    from datamodules.fingerprints import valid

    name = str(checkpoint["datamodule"].get("_target_")).rpartition(".")[2]
    state = checkpoint.get(name)
    found = valid(state.get("splits")) if isinstance(state, dict) else {}
    return found or ({} if name in ("ImageFolder", "ImageNet", "CatsVsDogs") else None)
