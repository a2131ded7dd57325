"""A trained network, used: the likeliest classes of images, or their features."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from lightning import LightningModule
from torch import Tensor, nn

from lit_modules.classifier import check_numerics
from lit_modules.evaluator import TTA

OUTPUTS = ("classes", "features")
# Of a batch: the indices of its images, what came out for them, and (index, message) of the files that it lacks.
Part = tuple[Tensor, tuple[Tensor, ...] | None, list[tuple[int, str]]]


@dataclass
class Predictions:
    """What came out for N images, on the CPU.

    Args:
        indices: ``(N,)`` int64, of the images among the files, ascending.
        outputs: probabilities ``(N, k)`` float32, the highest first, and their classes ``(N, k)`` int64;
            or features ``(N, F)`` float32 alone.
        broken: (index, message) of each file that could not be read.
    """

    indices: Tensor
    outputs: tuple[Tensor, ...]
    broken: list[tuple[int, str]]


class Predictor(LightningModule):
    """A backbone that is only asked what it says.

    Args:
        backbone: from ``(N, C, H, W)`` float images to logits; for features it needs a ``head``, the module whose
            input they are, which is taken from it.
        outputs: ``classes`` (the ``top_k`` likeliest and their probabilities) or ``features``.
        top_k: at most as many classes as there are.
        tta: test-time augmentation: None, or ``flip`` for the mean over an image and its mirror image.
        memory_format, compile: as in ``Classifier``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        outputs: str = "classes",
        top_k: int = 5,
        tta: str | None = None,
        memory_format: str = "contiguous_format",
        compile: bool | str = False,
    ):
        super().__init__()
        if outputs not in OUTPUTS:
            raise ValueError(f"outputs={outputs} is neither {' nor '.join(OUTPUTS)}")
        if tta not in TTA:
            raise ValueError(f"tta={tta} is neither null nor flip")
        if top_k < 1:
            raise ValueError(f"top_k={top_k}; expected at least 1")
        check_numerics(memory_format, compile)
        self.memory_format = getattr(torch, memory_format)
        self.backbone = backbone.to(memory_format=self.memory_format)
        self.outputs, self.top_k, self.tta = outputs, top_k, tta
        if outputs == "features":
            remove_head(backbone)
        if compile:
            backbone.compile(mode=compile if isinstance(compile, str) else None)

    def forward(self, images: Tensor) -> Tensor:
        """``(N, C, H, W)`` float, normalised → probabilities ``(N, num_classes)`` or features ``(N, F)``, float32."""
        found = self.backbone(images.contiguous(memory_format=self.memory_format)).float()
        return found if self.outputs == "features" else found.softmax(1)

    def predict_step(self, batch: tuple[Tensor, Tensor, list], batch_idx: int) -> Part:
        images, indices, broken = batch
        indices = indices.clone()  # a worker's own would each keep a file open until the end
        if len(images) == 0:
            return indices, None, broken
        found = self(images)
        if self.tta:
            found = (found + self(images.flip(3))) / 2
        if self.outputs == "features":
            return indices, (found,), broken
        return indices, tuple(found.topk(min(self.top_k, found.shape[1]))), broken


def remove_head(backbone: nn.Module) -> None:
    """Have a network return its head's input.

    Raises:
        ValueError: it does not say which module that is.
    """
    head = getattr(backbone, "head", None)
    name = next((name for name, module in backbone.named_modules() if module is head), None)
    if not name:
        raise ValueError(f"{type(backbone).__name__} has no head, whose input would be the features")
    backbone.set_submodule(name, nn.Identity())


def collect(parts: Iterable[Part]) -> Predictions:
    """The batches' predictions as one.

    Raises:
        ValueError: no image could be read, or the network's output is no number.
    """
    parts = list(parts)
    broken = [entry for part in parts for entry in part[2]]
    found = [outputs for _, outputs, _ in parts if outputs is not None]
    if not found:
        raise ValueError(f"none of the {len(broken)} files could be read; the first: {broken[0][1]}")
    indices = torch.cat([indices for indices, _, _ in parts])
    outputs = tuple(torch.cat(values) for values in zip(*found, strict=True))
    if not outputs[0].isfinite().all():
        raise ValueError("the network's output is not finite: its training diverged, or its precision does not suffice")
    return Predictions(indices, outputs, broken)
