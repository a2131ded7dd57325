"""Temperature scaling: logits are divided by one number, fitted on validation images (Guo et al. 2017, section 4.2).

The temperature of ``best.ckpt`` is stored in ``best.temperature.json``, with a hash of the checkpoint: after the
checkpoint is replaced, it is ignored. The checkpoint itself does not change.
"""

import json
import logging
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor, nn

from results.record import write_json

log = logging.getLogger(__name__)
LOWEST, HIGHEST = 0.05, 20.0
SUFFIX = ".temperature.json"


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature with the lowest cross-entropy.

    The cross-entropy is convex in the inverse temperature, so bisection of the derivative finds the minimum.

    Args:
        logits: ``(N, num_classes)``.
        labels: ``(N,)`` int64.

    Raises: ValueError: it is not between ``LOWEST`` and ``HIGHEST``, for example if there are no mistakes.
    """
    logits = logits.double()
    target = logits.gather(1, labels[:, None]).mean()
    low, high = LOWEST, HIGHEST
    for _ in range(60):
        middle = (low * high) ** 0.5
        expected = ((logits / middle).softmax(1) * logits).sum(1).mean()
        low, high = (middle, high) if expected > target else (low, middle)  # too confident: a higher temperature
    if not LOWEST * 1.001 < middle < HIGHEST / 1.001:
        right = (logits.argmax(1) == labels).sum().item()
        raise ValueError(
            f"calibrate=true: no temperature from {LOWEST} to {HIGHEST:.0f} is best for the {len(labels):,} validation "
            f"images, of which {right:,} are classified correctly; expected more images, some of them mistakes"
        )
    return middle


def divide_logits(backbone: nn.Module, temperature: float) -> None:
    """Divide a network's logits, by dividing the weights and the bias of the ``head``.

    Raises: ValueError: the network has no attribute ``head``.
    """
    if getattr(backbone, "head", None) is None:
        raise ValueError(f"{type(backbone).__name__} has no attribute head, the layer to scale by the temperature")
    with torch.no_grad():
        for parameter in backbone.head.parameters():
            parameter /= temperature


def store_temperature(checkpoint: Path, temperature: float) -> None:
    content = {"temperature": temperature, "checkpoint": _digest(checkpoint)}
    write_json(checkpoint.with_suffix(SUFFIX), content)


def stored_temperature(checkpoint: Path) -> float | None:
    """The temperature stored for a checkpoint file, or None.

    Raises: ValueError: the file with the temperature is damaged.
    """
    file = checkpoint.with_suffix(SUFFIX)
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        temperature, digest = float(content["temperature"]), content["checkpoint"]
        valid = LOWEST <= temperature <= HIGHEST
    except (ValueError, TypeError, KeyError, RecursionError):
        valid = False
    if not valid:
        raise ValueError(f"{file} holds no temperature from {LOWEST} to {HIGHEST:.0f}; delete it, or calibrate again")
    if digest != _digest(checkpoint):
        log.warning(f"{file} belongs to an earlier {checkpoint.name}; the temperature is not applied")
        return None
    log.info(f"{'calibrated':<12} temperature {temperature:.3f} ({file.name})")
    return temperature


def _digest(file: Path) -> str:
    return blake2b(file.read_bytes(), digest_size=16).hexdigest()
