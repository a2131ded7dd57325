"""Pictures of a test: how well confidence and accuracy agree, and where the network is wrong but sure."""

from pathlib import Path

import numpy as np
import torch
from lightning import Callback
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from callbacks.drawing import class_labels, picture_grid, save
from callbacks.tensorboard import TensorBoard, show
from results.figures import new_figure


class ReliabilityPlot(Callback):
    """After an Evaluator's test, writes ``reliability.png`` (Guo et al. 2017, figure 1).

    Args:
        dirpath: the folder to write to.
    """

    def __init__(self, dirpath: str):
        self.dirpath = Path(dirpath)

    def on_test_end(self, trainer, pl_module) -> None:
        if not trainer.is_global_zero:
            return
        found = reliability(pl_module.probabilities, pl_module.labels, pl_module.bins)
        accuracy, confidence, share = (values.numpy() for values in found)
        error = trainer.callback_metrics["test/ece"].item()
        left = np.arange(pl_module.bins) / pl_module.bins
        figure = new_figure(5.2, 5.8)
        axes, below = figure.subplots(2, sharex=True, height_ratios=(4, 1))
        filled = share > 0
        bars = {"width": 1 / pl_module.bins, "align": "edge", "edgecolor": "white"}
        axes.bar(left[filled], accuracy[filled], color="#56B4E9", label="accuracy of the bin", **bars)
        axes.plot([0, 1], [0, 1], "--", color="0.3", label="perfect calibration")
        mean = {"color": "#D55E00", "markersize": 4, "clip_on": False, "label": "at its mean confidence"}
        axes.plot(confidence[filled], accuracy[filled], "o", **mean)
        axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=f"expected calibration error {error:.4f}")
        figure.legend(loc="outside lower center", ncols=3, fontsize=8)
        below.bar(left, share, color="0.6", **bars)
        below.set(xlabel="confidence (probability of the predicted class)", ylabel="share")
        save(figure, self.dirpath / "reliability.png")


def reliability(probabilities: Tensor, labels: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Accuracy, mean confidence and share of the images in each bin, ``(bins,)`` each; 0 where a bin is empty.

    Bins are of equal width in confidence, closed on the left, as in torchmetrics' calibration error.
    """
    confidence, predicted = probabilities.max(1)
    edges = torch.linspace(0, 1, bins + 1)[1:-1]
    places = torch.bucketize(confidence, edges, right=True)  # (N,), a confidence of 1 in the last bin
    count = torch.bincount(places, minlength=bins)
    sums = (torch.bincount(places, value, minlength=bins) for value in ((predicted == labels).float(), confidence))
    accuracy, mean_confidence = (total / count.clamp(min=1) for total in sums)
    return accuracy, mean_confidence, count / count.sum()


class MistakesPlot(Callback):
    """After a test, writes ``mistakes.png``: the wrong answers with the highest confidence, as the network sees them.

    In TensorBoard it is ``test/mistakes``. Of the test set no more is kept than these.

    Args:
        dirpath: the folder to write to; nothing is written if there is no mistake.
        count: images at most.
    """

    def __init__(self, dirpath: str, count: int = 25):
        if count < 1:
            raise ValueError(f"count={count}; expected at least one image")
        self.dirpath, self.count = Path(dirpath), count
        self._found: list[Tensor] = []  # of the wrong answers so far: confidence, predicted, labels, images

    def on_test_epoch_start(self, trainer, pl_module) -> None:
        self._found = []

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        images, labels = batch
        found = surest_mistakes(*outputs.float().softmax(1).max(1), labels, images, count=self.count)
        if self._found:
            both = (torch.cat(parts) for parts in zip(self._found, found, strict=True))
            found = surest_mistakes(*both, count=self.count)
        self._found = found

    def on_test_epoch_end(self, trainer, pl_module) -> None:
        found = [gathered(part) for part in self._found]  # in every process
        self._found = []
        if not found or not trainer.is_global_zero:
            return
        confidence, predicted, labels, images = (part.cpu() for part in surest_mistakes(*found, count=self.count))
        wrong = predicted != labels  # right answers follow where there are too few
        names, titles = class_labels(pl_module.class_names, 16), []
        for index in wrong.nonzero()[:, 0].tolist():
            said = f"{names[predicted[index]]} ({confidence[index]:.1%})"
            titles.append(f"true: {names[labels[index]]}\nsaid: {said}")
        if not titles:
            return
        grid = picture_grid(trainer.datamodule.unnormalize(images[wrong]), titles)
        png = save(grid, self.dirpath / "mistakes.png")
        show(trainer.loggers, "test/mistakes", png, trainer.global_step)


def surest_mistakes(confidence: Tensor, predicted: Tensor, labels: Tensor, images: Tensor, count: int) -> list[Tensor]:
    """The same four of the wrong answers, the surest first; of equally sure ones the earlier first.

    There are always ``count``, or all: where fewer are wrong, right ones follow. So nothing waits for the device.

    Args:
        confidence, predicted, labels: ``(N,)``.
        images: ``(N, C, h, w)``.
    """
    wrong = torch.where(predicted == labels, -1.0, confidence)
    order = wrong.argsort(descending=True, stable=True)[:count]
    return [part[order] for part in (confidence, predicted, labels, images)]


def gathered(part: Tensor) -> Tensor:
    """What all processes have, one after another; they may have different numbers of rows."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.cat(gather_all_tensors(part))
    return part


class PrecisionRecall(Callback):
    """After a test, the precision-recall curve of each class against all others in TensorBoard's PR CURVES.

    Args:
        max_classes: no curves with more classes than this; their probabilities are not kept either.
    """

    def __init__(self, max_classes: int = 20):
        self.max_classes = max_classes
        self._seen: list[tuple[Tensor, Tensor]] = []

    def on_test_epoch_start(self, trainer, pl_module) -> None:
        self._seen = []

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        drawn = any(isinstance(logger, TensorBoard) for logger in trainer.loggers)
        if drawn and outputs.shape[1] <= self.max_classes:
            self._seen.append((outputs.float().softmax(1), batch[1]))

    def on_test_epoch_end(self, trainer, pl_module) -> None:
        if not self._seen:
            return
        probabilities, labels = (gathered(torch.cat(parts)).cpu() for parts in zip(*self._seen, strict=True))
        self._seen = []
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoard) and trainer.is_global_zero:
                for number, name in enumerate(pl_module.class_names):
                    curve = (labels == number, probabilities[:, number], trainer.global_step)
                    logger.experiment.add_pr_curve(f"test/precision_recall/{name}", *curve)
