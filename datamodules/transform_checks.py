"""Check that transforms return images with the type and shape of the input."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from results.record import one_line


class TransformError(ValueError):
    """A transform fails or has a wrong output, for any image file."""


def try_transforms(group: str, transforms: Mapping[str, Callable], images: Tensor, *arguments: Any) -> None:
    """Apply transforms one after another.

    Args:
        group: the config key of the transforms.
        images: input of the first transform.
        arguments: further arguments of each transform.

    Raises:
        TransformError: names the first transform that fails or changes type or shape.
    """
    for name, transform in transforms.items():
        key = f"{group}.{name}"
        try:
            output = transform(images, *arguments)
        except Exception as error:
            raise TransformError(f"{title(key, transform)} fails for {describe(images)}: {one_line(error)}") from error
        images = check_output(key, transform, output, describe(images))


def check_output(key: str, transform: Callable, output: Any, expected: str) -> Tensor:
    """The output of a transform as a plain tensor.

    Raises: TransformError: ``describe(output)`` differs from ``expected``.
    """
    if describe(output) != expected:
        hint = "; wrap torchvision's transforms in datamodules.PerImage" if isinstance(output, tuple) else ""
        raise TransformError(f"{title(key, transform)} returns {describe(output)}; expected {expected}{hint}")
    return output.as_subclass(Tensor)


def title(key: str, transform: Callable) -> str:
    return f"{key} ({type(transform).__name__})"


def describe(images: Any) -> str:
    """The type and shape of images, as text."""
    if not isinstance(images, Tensor):
        return f"a {type(images).__name__}"
    return f"{images.dtype} of {tuple(images.shape)}".removeprefix("torch.")
