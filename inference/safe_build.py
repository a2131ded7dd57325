"""Instantiate a checkpoint's config from an allow-list, because checkpoints are untrusted input."""

from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

import datamodules
import models
from results.record import one_line

# The allow-list: networks, data modules, and the transforms that their arguments may contain.
MODELS = tuple(f"models.{name}" for name in models.__all__)
DATAMODULES = tuple(f"datamodules.{name}" for name in datamodules.DATA_SETS)
TORCHVISIONS = (
    "AugMix AutoAugment ColorJitter GaussianBlur RandAugment RandomAffine RandomErasing RandomGrayscale "
    "RandomHorizontalFlip RandomRotation RandomVerticalFlip TrivialAugmentWide"
).split()
TRANSFORMS = (
    *(f"datamodules.{n}" for n in datamodules.BATCH_TRANSFORMS),
    *(f"torchvision.transforms.v2.{n}" for n in TORCHVISIONS),
)
# ``trust`` may add classes from these packages.
PACKAGES = ("models", "datamodules")
# For older checkpoints: the former ``_target_`` of a class → the current one. Add a line when a class of the allow-list
# is moved or renamed.
ALIASES: dict[str, str] = {}


def safe_build(config: dict[str, Any], part: str, allowed: Iterable[str], trust: Iterable[str] = ()) -> Any:
    """The object that a config describes. Hydra's ``instantiate`` would run arbitrary code.

    Args:
        config: with ``_target_``, as plain values.
        part: of the checkpoint, for messages.
        allowed: targets at the top; arguments may contain ``TRANSFORMS``.
        trust: further allowed targets.

    Raises:
        ValueError: it names, at any depth, a target that is not allowed (then nothing is imported), or it cannot be
            built.
    """
    trust = tuple(trust)
    for name in trust:
        if not _in_packages(name):
            raise ValueError(
                f"trust={name}: only a class of {' or '.join(PACKAGES)} can be trusted, such as models.tiny.Tiny"
            )
    for depth, target in _targets(config):
        if target not in (*trust, *(TRANSFORMS if depth else allowed)):
            can_trust = _in_packages(target) and target not in (*MODELS, *DATAMODULES, *TRANSFORMS)
            hint = f"if you trust that class, allow it with 'trust=[{target}]'" if can_trust else "refused"
            raise ValueError(f"the checkpoint's {part} names {target}, which is not on the allow-list; {hint}")
    if "_target_" not in config:
        raise ValueError(f"the checkpoint's {part} names no class (_target_)")
    try:
        return _build(config)
    except (ValueError, OSError):  # their messages are clear
        raise
    except Exception as error:
        raise ValueError(f"the checkpoint's {part} cannot be built: {one_line(error)}") from error


def _current(target: Any) -> Any:
    return ALIASES.get(target, target) if isinstance(target, str) else target


def _in_packages(target: Any) -> bool:
    return isinstance(target, str) and target.startswith(tuple(f"{package}." for package in PACKAGES))


def _targets(node: Any, depth: int = 0) -> Iterator[tuple[int, Any]]:
    """(depth, target) of each class in a config, under the current name."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield depth, _current(node["_target_"])
        node = node.values()
    elif not isinstance(node, list | tuple):
        return
    for value in node:
        yield from _targets(value, depth + 1)


def _build(node: Any) -> Any:
    """Instantiate a config with checked targets."""
    if isinstance(node, list | tuple):
        return [_build(value) for value in node]
    if not isinstance(node, dict):
        return node
    arguments = {key: _build(value) for key, value in node.items() if key not in ("_target_", "_convert_")}
    return _class(_current(node["_target_"]))(**arguments) if "_target_" in node else arguments


def _class(target: str) -> type:
    """The class of this name; it must be defined in the package, not only imported there."""
    module, _, name = target.rpartition(".")
    cls = getattr(import_module(module), name, None)
    packages = ("torchvision",) if target in TRANSFORMS and not _in_packages(target) else PACKAGES
    if not isinstance(cls, type) or cls.__module__.partition(".")[0] not in packages:
        raise ValueError(f"{target} is not a class of this project")
    return cls
