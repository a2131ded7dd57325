"""Checks that the augmentations of a config return images of the type and shape that they get."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from results.record import one_line


class TransformError(ValueError):
    """A transform fails or has a wrong output; no image file is to blame."""


def try_transforms(group: str, transforms: Mapping[str, Callable], images: Tensor, *arguments: Any) -> None:
    """Apply transforms one after another.

    Args:
        group: the config key that they are in.
        images: what the first one gets.
        arguments: further ones of each transform.

    Raises:
        TransformError: names the first that fails or changes the type or shape.
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

    Raises: TransformError: ``describe(output)`` is not what is expected.
    """
    if describe(output) != expected:
        hint = "; torchvision's transforms belong in datamodules.PerImage" if isinstance(output, tuple) else ""
        raise TransformError(f"{title(key, transform)} returns {describe(output)}; expected {expected}{hint}")
    return output.as_subclass(Tensor)


def title(key: str, transform: Callable) -> str:
    return f"{key} ({type(transform).__name__})"


def describe(images: Any) -> str:
    """The type and shape of images, as text."""
    if not isinstance(images, Tensor):
        return f"a {type(images).__name__}"
    return f"{images.dtype} of {tuple(images.shape)}".removeprefix("torch.")
