"""Parameter groups for an optimizer: with and without weight decay, backbone and head."""

from typing import Any

from torch import nn


def parameter_groups(backbone: nn.Module, lr_ratio: float = 1.0) -> list[dict[str, Any]]:
    """One group for weights, and one without weight decay for biases and norms' weights.

    Body and head get separate groups if their learning rates differ or the body is frozen. Frozen parameters are
    included: without a gradient they do not change, and fused SGD rejects a group in which some have no momentum.

    Args:
        backbone: needs an attribute ``head`` if ``lr_ratio`` is not 1.
        lr_ratio: learning rate of all layers but the ``head``, as a fraction of the optimizer's.
    """
    parameters = list(backbone.parameters())
    frozen = not all(p.requires_grad for p in parameters) and getattr(backbone, "head", None) is not None
    if lr_ratio == 1 and not frozen:
        return _split_weight_decay(parameters)
    of_head = set(backbone.head.parameters())
    body, head = ([p for p in parameters if (p in of_head) == wanted] for wanted in (False, True))
    return _split_weight_decay(body, "backbone") + _split_weight_decay(head, "head")


def _split_weight_decay(parameters: list[nn.Parameter], name: str | None = None) -> list[dict[str, Any]]:
    """Two groups: weights; biases and norms' weights. Learning rates are logged under ``name``."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if name:
        groups[0]["name"], groups[1]["name"] = name, f"{name}_gains"
    return groups


def check_lr_ratio(backbone_lr_ratio: float, backbone: nn.Module) -> None:
    """Raise a ValueError for a ratio that is not above 0, or that needs a ``head`` the backbone lacks."""
    if not backbone_lr_ratio > 0:
        raise ValueError(f"backbone_lr_ratio={backbone_lr_ratio}; expected above 0 (callbacks=finetune can freeze)")
    if backbone_lr_ratio != 1 and getattr(backbone, "head", None) is None:
        raise ValueError(f"backbone_lr_ratio={backbone_lr_ratio} needs a backbone with an attribute head")
