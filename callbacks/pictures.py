"""What goes into a network, and what it is, in TensorBoard."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks.drawing import class_labels, encoded, filter_grid, picture_grid
from callbacks.tensorboard import TensorBoard, show


class NetworkPictures(Callback):
    """``train/batch``, images of the first batch as the network sees them, and after the test ``filters/first_layer``.

    Args:
        count: images of the batch at most.
        graph: also the network as a graph, in the GRAPHS tab, as it is in evaluation. Tracing it takes some passes of
            one image before the first step.
    """

    def __init__(self, count: int = 25, graph: bool = False):
        if count < 1:
            raise ValueError(f"count={count}; expected at least one image")
        self.count, self.graph = count, graph
        self._drawn = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch, batch_idx: int) -> None:
        if self._drawn:
            return
        self._drawn = True
        writers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoard)]
        if not writers or not trainer.is_global_zero:
            return
        images, labels = (part[: self.count] for part in batch)
        titles = [title(label, pl_module.class_names) for label in labels.cpu()]
        grid = picture_grid(trainer.datamodule.unnormalize(images).cpu(), titles)
        show(writers, "train/batch", encoded(grid), trainer.global_step)
        if self.graph:
            draw_graph(writers, pl_module.backbone, images[:1])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        convolution = next((m for m in pl_module.backbone.modules() if isinstance(m, nn.Conv2d)), None)
        if convolution is None or convolution.weight.shape[1] not in (1, 3) or not trainer.is_global_zero:
            return
        if any(isinstance(logger, TensorBoard) for logger in trainer.loggers):
            grid = filter_grid(convolution.weight.detach().cpu())
            show(trainer.loggers, "filters/first_layer", encoded(grid), trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self._drawn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._drawn = state_dict["drawn"]


def title(label: Tensor, class_names: Sequence[str]) -> str:
    """The name of a class, or of mixed images the shares ``(num_classes,)`` of theirs, a line each."""
    if label.ndim == 0:
        return class_labels(class_names)[int(label)]
    shares = [(s, name) for s, name in zip(label.tolist(), class_labels(class_names, 14), strict=True) if s > 0]
    return "\n".join(f"{share:.0%} {name}" for share, name in sorted(shares, reverse=True)[:2])


def draw_graph(loggers: list[TensorBoard], backbone: nn.Module, image: Tensor) -> None:
    """Of a copy in 32 bits on the CPU: tracing knows neither mixed precision nor what is compiled."""
    network = copy.deepcopy(backbone).cpu().float().eval().requires_grad_(False)
    with warnings.catch_warnings(), torch.autocast(image.device.type, enabled=False):
        warnings.simplefilter("ignore")  # the tracing that TensorBoard's writer uses is deprecated
        for logger in loggers:
            logger.experiment.add_graph(network, image.cpu().float())
