"""Weights of the classes in the training loss."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Protocol

import torch
from torch import Tensor

BALANCED = "balanced"


class CountedData(Protocol):
    """The part of a data module that class weights need."""

    def class_counts(self) -> Tensor:
        """Number of training images per class, ``(num_classes,)`` int64; after ``setup``."""


def check_class_weights(weights: str | Mapping[str, float] | None, class_names: Sequence[str]) -> None:
    """Raise a ValueError for anything but None, ``balanced`` or positive numbers by class name."""
    if weights is None or weights == BALANCED:
        return
    if not isinstance(weights, Mapping):
        raise ValueError(f"class_weights={weights}; expected balanced, or numbers by class such as {{cat: 1}}")
    for name, weight in weights.items():
        if str(name) not in class_names:
            near = get_close_matches(str(name), class_names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the first of {len(class_names)} is {class_names[0]}"
            raise ValueError(f"class_weights has {name}, which is not a class; {hint}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise ValueError(f"class_weights has {name}: {weight}; expected a number above 0")


def class_weights(weights: str | Mapping[str, float], class_names: Sequence[str], counts: Tensor) -> Tensor:
    """The weight of each class, scaled to a mean of 1 over all n training images, so that learning rates stay
    comparable.

    ``balanced`` gives n / (k · count) with k classes, as scikit-learn's ``compute_class_weight``; given numbers w
    become w · n / Σ(count · w).

    Args:
        weights: ``balanced``, or a number per class; the default is 1.
        counts: training images per class, ``(num_classes,)`` int64. A class without images gets weight 0.

    Returns:
        ``(num_classes,)`` float32.
    """
    counts = counts.double()
    if isinstance(weights, Mapping):
        given = {str(name): weight for name, weight in weights.items()}
        values = torch.tensor([given.get(name, 1.0) for name in class_names], dtype=torch.float64)
    else:
        values = 1 / counts.clamp(min=1)
    values = values * (counts > 0)
    return (values * counts.sum() / (values * counts).sum()).float()
