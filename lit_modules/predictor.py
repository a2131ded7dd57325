"""Predict with a trained network: the most probable classes of each image, or features."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from lightning import LightningModule
from torch import Tensor, nn

from lit_modules.classifier import check_numerics
from lit_modules.evaluator import TTA

OUTPUTS = ("classes", "features")
# The results of a batch: indices of images, outputs, and (index, message) of unreadable files.
BatchPredictions = tuple[Tensor, tuple[Tensor, ...] | None, list[tuple[int, str]]]


@dataclass
class Predictions:
    """The outputs for N images, on the CPU.

    Args:
        indices: ``(N,)`` int64, of the files, ascending.
        outputs: probabilities ``(N, k)`` float32, highest first, and classes ``(N, k)`` int64;
            or only features ``(N, F)`` float32.
        broken: (index, message) of each file that could not be read.
    """

    indices: Tensor
    outputs: tuple[Tensor, ...]
    broken: list[tuple[int, str]]

    def counts(self, class_names: Sequence[str]) -> dict[str, int]:
        """The number of images of each predicted class; empty for features."""
        if len(self.outputs) == 1:
            return {}
        counts = self.outputs[1][:, 0].bincount(minlength=len(class_names)).tolist()
        return dict(zip(class_names, counts, strict=True))


class Predictor(LightningModule):
    """Runs a backbone for prediction.

    Args:
        backbone: maps ``(N, C, H, W)`` float images to logits. For features it needs a ``head``, the last layer,
            which is removed.
        outputs: ``classes`` (the ``top_k`` most probable ones, with probabilities) or ``features``.
        top_k: number of classes; capped at ``num_classes``.
        tta: test-time augmentation: None, or ``flip`` for the mean over each image and the mirrored image.
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
        outputs = self.backbone(images.contiguous(memory_format=self.memory_format)).float()
        return outputs if self.outputs == "features" else outputs.softmax(1)

    def predict_step(self, batch: tuple[Tensor, Tensor, list], batch_idx: int) -> BatchPredictions:
        images, indices, broken = batch
        indices = indices.clone()  # a worker's tensor would keep a file open until the end
        if len(images) == 0:
            return indices, None, broken
        outputs = self(images)
        if self.tta:
            outputs = (outputs + self(images.flip(3))) / 2
        if self.outputs == "features":
            return indices, (outputs,), broken
        return indices, tuple(outputs.topk(min(self.top_k, outputs.shape[1]))), broken


def remove_head(backbone: nn.Module) -> None:
    """Make a network return the input of the head.

    Raises:
        ValueError: the network has no attribute ``head``.
    """
    head = getattr(backbone, "head", None)
    name = next((name for name, module in backbone.named_modules() if module is head), None)
    if not name:
        raise ValueError(f"{type(backbone).__name__} has no attribute head; features are the input of the head")
    backbone.set_submodule(name, nn.Identity())


def collect(parts: Iterable[BatchPredictions]) -> Predictions:
    """Concatenate the predictions of batches.

    Raises:
        ValueError: no image could be read, or an output is NaN or infinite.
    """
    parts = list(parts)
    broken = [entry for part in parts for entry in part[2]]
    outputs_of_batches = [outputs for _, outputs, _ in parts if outputs is not None]
    if not outputs_of_batches:
        raise ValueError(f"none of the {len(broken)} files could be read; the first: {broken[0][1]}")
    indices = torch.cat([indices for indices, _, _ in parts])
    outputs = tuple(torch.cat(values) for values in zip(*outputs_of_batches, strict=True))
    if not outputs[0].isfinite().all():
        raise ValueError("the network's output is NaN or infinite: the training diverged, or the precision is too low")
    return Predictions(indices, outputs, broken)
