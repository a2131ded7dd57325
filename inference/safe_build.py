"""What a checkpoint's config names, built anew; only what is on a list, for the checkpoint may come from anyone."""

from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

from results.record import one_line

# All that a checkpoint may have built: a network, a data module, and what their arguments may hold.
MODELS = ("models.LeNet", "models.ResNet")
DATAMODULES = tuple(
    f"datamodules.{n}" for n in "CIFAR10 CIFAR100 CatsVsDogs Digits FashionMNIST ImageFolder ImageNet Synthetic".split()
)
OWN = "AlternatingFlip PerImage RandomCrop RandomErasing RandomHorizontalFlip".split()
TORCHVISIONS = (
    "AugMix AutoAugment ColorJitter GaussianBlur RandAugment RandomAffine RandomErasing RandomGrayscale "
    "RandomHorizontalFlip RandomRotation RandomVerticalFlip TrivialAugmentWide"
).split()
TRANSFORMS = (*(f"datamodules.{n}" for n in OWN), *(f"torchvision.transforms.v2.{n}" for n in TORCHVISIONS))
# Where a user's own classes are, which an explicit option may add.
PACKAGES = ("models", "datamodules")


def build(config: dict[str, Any], part: str, allowed: Iterable[str], trust: Iterable[str] = ()) -> Any:
    """The object that a config describes. Not by Hydra's ``instantiate``, which would build, and run, anything.

    Args:
        config: with ``_target_``, as plain values.
        part: what it is of the checkpoint, for messages.
        allowed: targets of the whole; of what it holds they are ``TRANSFORMS``.
        trust: targets allowed besides.

    Raises:
        ValueError: it names, at any depth, what it may not (then nothing was imported), or it cannot be built.
    """
    trust = tuple(trust)
    for name in trust:
        if not _is_ours(name):
            raise ValueError(
                f"trust={name}: only a class of {' or '.join(PACKAGES)} can be trusted, say models.tiny.Tiny"
            )
    for depth, target in _targets(config):
        if target not in (*trust, *(TRANSFORMS if depth else allowed)):
            ours = _is_ours(target) and target not in (*MODELS, *DATAMODULES, *TRANSFORMS)
            hint = f"if you know what it is, allow it with 'trust=[{target}]'" if ours else "refused"
            raise ValueError(f"the checkpoint's {part} names {target}, which is not among what it may build; {hint}")
    if "_target_" not in config:
        raise ValueError(f"the checkpoint's {part} does not name its class (_target_)")
    try:
        return _build(config)
    except (ValueError, OSError):  # they say what is wrong
        raise
    except Exception as error:
        raise ValueError(f"the checkpoint's {part} cannot be built: {one_line(error)}") from error


def _is_ours(target: Any) -> bool:
    return isinstance(target, str) and target.startswith(tuple(f"{package}." for package in PACKAGES))


def _targets(node: Any, depth: int = 0) -> Iterator[tuple[int, Any]]:
    """(depth, target) of everything that a config names."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield depth, node["_target_"]
        node = node.values()
    elif not isinstance(node, list | tuple):
        return
    for value in node:
        yield from _targets(value, depth + 1)


def _build(node: Any) -> Any:
    """As ``instantiate`` does, for a config whose targets were checked."""
    if isinstance(node, list | tuple):
        return [_build(value) for value in node]
    if not isinstance(node, dict):
        return node
    arguments = {key: _build(value) for key, value in node.items() if key not in ("_target_", "_convert_")}
    return _class(node["_target_"])(**arguments) if "_target_" in node else arguments


def _class(target: str) -> type:
    """A class by its name; one of this project's own is not what one of its modules has imported."""
    module, _, name = target.rpartition(".")
    found = getattr(import_module(module), name, None)
    packages = ("torchvision",) if target in TRANSFORMS and not _is_ours(target) else PACKAGES
    if not isinstance(found, type) or found.__module__.partition(".")[0] not in packages:
        raise ValueError(f"{target} is no class of this project")
    return found
