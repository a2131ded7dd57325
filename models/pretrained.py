"""Weights from a file: torchvision's published ones, or those of a run of this project."""

import argparse
import hashlib
import logging
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.resnet_config import VERSIONS

log = logging.getLogger(__name__)
# Where training scripts keep the weights in their checkpoints; the first that is there is taken.
CONTAINERS = "state_dict model_state_dict model network net weights state_dict_ema model_ema ema".split()


def load_weights(network: nn.Module, weights: str, published: str | None = None) -> None:
    """Give a network the weights of a file, all but what cannot fit: a head for other classes, other colours.

    A head with another number of classes keeps its random start. A first convolution for another number of channels is
    adapted: its weights for the channels are summed for a grey image, as if that were shown in every channel; for more
    channels they are repeated in turn, scaled so that the sum stays.

    Args:
        network: with ``conv1`` and ``head``; changed in place.
        weights: a file with a state dict, or a checkpoint that has one under one of ``CONTAINERS``, in which all names
            may share a prefix; or, of the network that torchvision publishes, ``DEFAULT`` or another of its names:
            then it is downloaded once, and its hash is checked.
        published: torchvision's name of this network.

    Raises:
        ValueError, OSError: it cannot be had or read, or is of another network.
    """
    known = published and weights in VERSIONS and not Path(weights).exists()
    file = download(published, weights) if known else Path(weights).expanduser()
    if not known and not right_hash(file):
        log.warning(f"{file.name} is not the file that its name promises: its SHA-256 begins otherwise")
    expected = network.state_dict()
    found, news = state_dict(read(file), expected, file)
    head = next((name for name, module in network.named_modules() if module is network.head), None)
    if network.head is None:  # without a top there is no place for one
        found = {name: value for name, value in found.items() if not name.startswith("fc.")}
        news.append("no head")
    elif f"{head}.weight" in found and (had := len(found[f"{head}.weight"])) != network.head.out_features:
        found |= {f"{head}.{name}": value for name, value in network.head.state_dict().items()}
        news.append(f"{head} is new, for {network.head.out_features} classes where there were {had}")
    first, wanted = found.get("conv1.weight"), expected["conv1.weight"]
    if first is not None and first.shape[1] != wanted.shape[1] and first[:, 0].shape == wanted[:, 0].shape:
        found["conv1.weight"] = other_channels(first, wanted.shape[1])
        news.append(f"conv1 is adapted from {first.shape[1]} to {wanted.shape[1]} channels")
    # Files of before 2019 do not count the batches, which nothing here needs.
    found |= {k: v for k, v in expected.items() if k.endswith("num_batches_tracked") and k not in found}
    for name in [*expected, *found]:
        its, ours = shape(found, name), shape(expected, name)
        if its != ours:
            raise ValueError(
                f"weights={weights} is of another network{described(found)}: its {name} is {its}, expected {ours}"
            )
    network.load_state_dict(found)
    log.info(f"{'weights':<12} {file.name}: {'; '.join([f'{len(found)} tensors', *news])}")


def read(file: Path) -> Any:
    """What a file of torch's holds, on the CPU; nothing in it is run.

    Raises: ValueError, OSError: it is no such file, not a whole one, or could run code when opened.
    """
    try:
        with warnings.catch_warnings():  # what torch thinks of such a file is said below
            warnings.simplefilter("ignore")
            # weights_only: plain values. Said here, since an environment variable can change what is not said.
            # Torchvision's training script keeps its arguments in a Namespace, which only holds values.
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(file, map_location="cpu", weights_only=True)
    except (PermissionError, FileNotFoundError, IsADirectoryError):
        raise
    except Exception as error:  # torch has a dozen for files that are not what they should be
        what = "is no checkpoint, or not a whole one: torch cannot read it" if file.stat().st_size else "is empty"
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            what = f"holds code ({code[1]}), not only plain values; it was not run"
        raise ValueError(f"{file} {what}") from None


def state_dict(content: Any, expected: Iterable[str], file: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The weights in a file's content by the names that a network expects, and where they were found, in words.

    Raises: ValueError: there are none, or those of several networks.
    """
    news = []
    for _ in range(2):  # {"model": {"state_dict": …}} too
        if key := next(
            (key for key in CONTAINERS if isinstance(content, dict) and isinstance(content.get(key), dict)), ""
        ):
            content, news = content[key], [f"under {key}"]
    names = [name for name in content if isinstance(name, str)] if isinstance(content, dict) else []
    prefix = shared_prefix(names, expected, file)
    found = {name.removeprefix(prefix): content[name] for name in names if name.startswith(prefix)}
    if not found or not all(isinstance(value, Tensor) for value in found.values()):
        there = f"it has {', '.join(names[:10])}" if names else f"it is a {type(content).__name__}"
        raise ValueError(
            f"{file} holds no weights; expected a state dict, or one under {', '.join(CONTAINERS)}; {there}"
        )
    return found, news + [f"without the prefix {prefix}"] * bool(prefix)


def shared_prefix(names: Iterable[str], expected: Iterable[str], file: Path) -> str:
    """What precedes a network's own names in a state dict: ``module.`` of DDP, ``_orig_mod.`` of torch.compile, ...

    Raises: ValueError: there are the weights of several such networks.
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
    if "" not in best and most > len(expected) / 2:  # else these are parts of another network
        raise ValueError(f"{file} holds {len(best)} such networks, under {' and '.join(best)}; save one of them alone")
    return ""


def shape(weights: dict[str, Tensor], name: str) -> str:
    """What to say of a tensor in a comparison."""
    return str(tuple(getattr(weights[name], "shape", ()))) if name in weights else "absent"


def other_channels(weight: Tensor, channels: int) -> Tensor:
    """``(out, in, k, k)`` → ``(out, channels, k, k)`` that answers alike where all channels are the same."""
    has = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % has] * (has / channels)


def described(weights: dict[str, Tensor]) -> str:
    """Of which ResNet weights are, in words; nothing if that cannot be seen."""
    if "layer1.0.conv2.weight" not in weights:
        return ""
    blocks = len({name.rpartition(".conv1")[0] for name in weights if re.fullmatch(r"layer\d+\.\d+\.conv1.\w+", name)})
    convolutions = 3 if "layer1.0.conv3.weight" in weights else 2
    inner, per_group = weights["layer1.0.conv2.weight"].shape[:2]
    return f", depth={blocks * convolutions + 2} groups={inner // per_group} width_per_group={per_group}"


def download(name: str, weights: str) -> Path:
    """torchvision's file of a network's weights, from its cache or downloaded into it.

    Raises: ValueError, OSError: it is damaged, or cannot be downloaded.
    """
    from torchvision.models import get_model_weights

    url = get_model_weights(name)[weights].url
    file = Path(torch.hub.get_dir(), "checkpoints", os.path.basename(url))
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            prefix = re.search("-([0-9a-f]+)", file.name)[1]
            log.info(f"{'downloading':<12} {file.name} to {file.parent}")
            torch.hub.download_url_to_file(url, str(file), hash_prefix=prefix, progress=sys.stderr.isatty())
        except (OSError, RuntimeError) as error:
            raise OSError(
                f"weights={weights} needs {file.name}, which could not be downloaded ({error}); "
                f"put it into {file.parent}, or say weights=PATH"
            ) from error
    elif not right_hash(file):
        raise ValueError(f"{file} is damaged: its SHA-256 does not begin as its name says; delete it")
    return file


def right_hash(file: Path) -> bool:
    """Whether a file's SHA-256 begins as its name says (``resnet34-333f7ec4.pth``); True where a name says nothing."""
    promised = re.search(r"-([0-9a-f]{8,64})\.", file.name)
    if promised is None:
        return True
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest().startswith(promised[1])
