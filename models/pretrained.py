"""Load weights: torchvision's published ones, or those of a file."""

import argparse
import logging
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from models.resnet_config import VERSIONS

log = logging.getLogger(__name__)
# Keys under which training scripts keep the weights in a checkpoint; the first one present is used.
CONTAINERS = "state_dict model_state_dict model network net weights state_dict_ema model_ema ema".split()


def load_weights(network: nn.Module, weights: str, published: str | None = None) -> None:
    """Load the weights of a file into a network, which may have other classes or input channels.

    A head for a different number of classes stays random. A first convolution for a different number of channels is
    adapted: for grey images, the weights are summed over the channels, as if each channel had the grey image; for more
    channels, they are repeated in turn and scaled to the same sum.

    Args:
        network: with ``conv1`` and ``head``; changed in place.
        weights: a file with a state dict (``.safetensors`` too, such as timm's), or a checkpoint with one under any of
            ``CONTAINERS``; all names may share a prefix. Or ``DEFAULT`` or another of torchvision's names of published
            weights, which are downloaded once.
        published: torchvision's name of this network.

    Raises:
        ValueError, OSError: the file cannot be downloaded or read, or is for another network.
    """
    if published and weights in VERSIONS and not Path(weights).exists():
        name, content = download(published, weights)
    else:
        name, content = Path(weights).name, read_plain(Path(weights).expanduser())
    expected = network.state_dict()
    tensors, notes = state_dict(content, expected, weights)
    tensors, changes = fit_tensors(tensors, network)
    for key in [*expected, *tensors]:
        actual, wanted = shape(tensors, key), shape(expected, key)
        if actual != wanted:
            raise ValueError(
                f"weights={weights} is for another network{described(tensors)}: {key} is {actual}, expected {wanted}"
            )
    network.load_state_dict(tensors)
    log.info(f"{'weights':<12} {name}: {'; '.join([f'{len(tensors)} tensors', *notes, *changes])}")


def published_or_none(published: str | None) -> str | None:
    """``DEFAULT`` if torchvision's weights of a network are in the cache or can be downloaded; otherwise None, logged.

    Args:
        published: torchvision's name of the network.
    """
    reason = "torchvision publishes none for this network"
    if published:
        try:
            download(published, "DEFAULT")
            return "DEFAULT"
        except OSError as error:
            reason = str(error)
    log.info(f"{'weights':<12} random: {reason}")
    return None


def fit_tensors(tensors: dict[str, Tensor], network: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """(the weights, with head and first convolution adapted to a network; the changes, for the log)."""
    expected, changes = network.state_dict(), []
    head = next((name for name, module in network.named_modules() if module is network.head), None)
    if network.head is None:
        tensors = {name: value for name, value in tensors.items() if not name.startswith("fc.")}
        changes.append("no head")
    elif f"{head}.weight" in tensors and (classes := len(tensors[f"{head}.weight"])) != network.head.out_features:
        tensors = tensors | {f"{head}.{name}": value for name, value in network.head.state_dict().items()}
        changes.append(f"{head} is new, for {network.head.out_features} classes instead of {classes}")
    first, wanted = tensors.get("conv1.weight"), expected["conv1.weight"]
    if first is not None and first.shape[1] != wanted.shape[1] and first[:, 0].shape == wanted[:, 0].shape:
        tensors = tensors | {"conv1.weight": other_channels(first, wanted.shape[1])}
        changes.append(f"conv1 is adapted from {first.shape[1]} to {wanted.shape[1]} channels")
    # Files from before 2019 lack the unused counts of batches.
    counts = {k: v for k, v in expected.items() if k.endswith("num_batches_tracked") and k not in tensors}
    return tensors | counts, changes


def read_plain(file: Path) -> Any:
    """The content of a file by ``torch.save``, or of a ``.safetensors``, on the CPU, without running code in it.

    Raises: ValueError, OSError: it is not such a file, is truncated, or contains code.
    """
    if file.suffix == ".safetensors" and file.is_file():
        try:
            return safetensors.torch.load(file.read_bytes())
        except safetensors.SafetensorError as error:
            raise ValueError(f"{file} is not a complete safetensors file: {error}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # weights_only, explicitly: an environment variable can change the default.
            # torchvision's training script stores arguments as a Namespace, which only holds values.
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(file, map_location="cpu", weights_only=True)
    except (PermissionError, FileNotFoundError, IsADirectoryError):
        raise
    except Exception as error:  # torch raises many kinds for damaged files
        problem = "is not a complete checkpoint: torch cannot read it" if file.stat().st_size else "is empty"
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            problem = f"holds code ({code[1]}), not only plain values; it was not run"
        raise ValueError(f"{file} {problem}") from None


def state_dict(content: Any, expected: Iterable[str], file: str) -> tuple[dict[str, Tensor], list[str]]:
    """(the weights in a file's content, under the names that a network expects; notes for the log).

    Raises: ValueError: there are no weights, or weights of several networks.
    """
    notes = []
    for _ in range(2):  # {"model": {"state_dict": …}} too
        inner = (key for key in CONTAINERS if isinstance(content, dict) and isinstance(content.get(key), dict))
        if key := next(inner, ""):
            content, notes = content[key], [f"under {key}"]
    names = [name for name in content if isinstance(name, str)] if isinstance(content, dict) else []
    prefix = shared_prefix(names, expected, file)
    tensors = {name.removeprefix(prefix): content[name] for name in names if name.startswith(prefix)}
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        content_is = f"it has {', '.join(names[:10])}" if names else f"it is a {type(content).__name__}"
        raise ValueError(
            f"{file} holds no weights; expected a state dict, or one under {', '.join(CONTAINERS)}; {content_is}"
        )
    return tensors, notes + [f"without the prefix {prefix}"] * bool(prefix)


def shared_prefix(names: Iterable[str], expected: Iterable[str], file: str) -> str:
    """The prefix of a network's names in a state dict: ``module.`` (DDP), ``_orig_mod.`` (torch.compile), ...

    Raises: ValueError: there are weights of several such networks.
    """
    expected, counts = set(expected), Counter()
    longest = max(name.count(".") for name in expected)
    for name in names:
        parts = name.rsplit(".", longest + 1)
        for start in range(len(parts)):
            rest = ".".join(parts[start:])
            if rest in expected:
                counts[name.removesuffix(rest)] += 1
    most = max(counts.values(), default=0)
    best = [prefix for prefix, count in counts.items() if count == most]
    if len(best) == 1:
        return best[0]
    if "" not in best and most > len(expected) / 2:  # otherwise these are parts of another network
        raise ValueError(f"{file} holds {len(best)} networks, under {' and '.join(best)}; save one of them separately")
    return ""


def shape(weights: dict[str, Tensor], name: str) -> str:
    """A tensor's shape, for messages."""
    return str(tuple(getattr(weights[name], "shape", ()))) if name in weights else "absent"


def other_channels(weight: Tensor, channels: int) -> Tensor:
    """``(out, in, k, k)`` → ``(out, channels, k, k)`` with the same output if all channels are equal."""
    has = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % has] * (has / channels)


def described(weights: dict[str, Tensor]) -> str:
    """The ResNet's arguments, inferred from the weights, for a message; empty if unknown."""
    if "layer1.0.conv2.weight" not in weights:
        return ""
    blocks = len({name.rpartition(".conv1")[0] for name in weights if re.fullmatch(r"layer\d+\.\d+\.conv1.\w+", name)})
    convolutions = 3 if "layer1.0.conv3.weight" in weights else 2
    inner, per_group = weights["layer1.0.conv2.weight"].shape[:2]
    return f", depth={blocks * convolutions + 2} groups={inner // per_group} width_per_group={per_group}"


def download(network: str, weights: str) -> tuple[str, dict[str, Tensor]]:
    """(file name, state dict) of torchvision's weights, cached or downloaded, with the hash checked.

    Raises: ValueError, OSError: the file is damaged, or cannot be downloaded.
    """
    from torchvision.models import get_model_weights

    entry = get_model_weights(network)[weights]
    file = Path(torch.hub.get_dir(), "checkpoints", Path(entry.url).name)
    cached = file.exists()
    if not cached:
        log.info(f"{'downloading':<12} {file.name} to {file.parent}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {"map_location": "cpu", "weights_only": True, "check_hash": True}
            return file.name, entry.get_state_dict(progress=sys.stderr.isatty(), **options)
    except Exception as error:  # torch raises many kinds for damaged files
        if cached:
            raise ValueError(f"{file} is damaged: torch cannot read it; delete it") from None
        raise OSError(
            f"weights={weights} needs {file.name}, which could not be downloaded ({error}); "
            f"put it into {file.parent}, or use weights=PATH"
        ) from error
