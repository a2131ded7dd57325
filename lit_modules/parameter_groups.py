"""The parameters of a backbone as an optimizer takes them: what decays and what does not, body and head."""

from typing import Any

from torch import nn


def parameter_groups(backbone: nn.Module, lr_ratio: float = 1.0) -> list[dict[str, Any]]:
    """Weights, and gains and biases, which take no decay.

    Those of body and head are apart where their rates differ or the body is frozen. What is frozen is among them,
    untouched while it has no gradient; fused SGD takes no group where only some have a momentum.

    Args:
        lr_ratio: learning rate of all but the ``head``, as a share of the optimizer's.
    """
    parameters = list(backbone.parameters())
    frozen = not all(p.requires_grad for p in parameters) and getattr(backbone, "head", None) is not None
    if lr_ratio == 1 and not frozen:
        return _with_and_without_decay(parameters)
    of_head = set(backbone.head.parameters())
    body, head = ([p for p in parameters if (p in of_head) == wanted] for wanted in (False, True))
    return _with_and_without_decay(body, "backbone") + _with_and_without_decay(head, "head")


def _with_and_without_decay(parameters: list[nn.Parameter], name: str | None = None) -> list[dict[str, Any]]:
    """Two parameter groups: weights, and gains and biases. With a name the learning rates are logged by it."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if name:
        groups[0]["name"], groups[1]["name"] = name, f"{name}_gains"
    return groups
