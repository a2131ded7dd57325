"""Pictures of an evaluation: how well confidence and accuracy agree, and where the network is wrong but sure."""

from pathlib import Path

import numpy as np
import torch
from lightning import Callback
from torch import Tensor

from callbacks.drawing import new_figure, picture_grid, save, shortened


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
    """After an Evaluator's test, writes ``mistakes.png``: the wrong answers with the highest confidence.

    Args:
        dirpath: the folder to write to; nothing is written if there is no mistake.
        count: images at most.
    """

    def __init__(self, dirpath: str, count: int = 25):
        if count < 1:
            raise ValueError(f"count={count}; expected at least one image")
        self.dirpath, self.count = Path(dirpath), count

    def on_test_end(self, trainer, pl_module) -> None:
        indices = most_confident_mistakes(pl_module.probabilities, pl_module.labels, self.count)
        if not trainer.is_global_zero or not len(indices):
            return
        names, titles = [shortened(name) for name in pl_module.class_names], []
        for index in indices.tolist():
            confidence, predicted = pl_module.probabilities[index].max(0)
            titles.append(f"true: {names[pl_module.labels[index]]}\nsaid: {names[predicted]} ({confidence:.1%})")
        picture_grid(trainer.datamodule.pixels(indices), titles, self.dirpath / "mistakes.png")


def most_confident_mistakes(probabilities: Tensor, labels: Tensor, count: int) -> Tensor:
    """Indices of wrong answers, the surest first; of equally sure ones the earlier first."""
    confidence, predicted = probabilities.max(1)
    wrong = (predicted != labels).nonzero().squeeze(1)
    return wrong[confidence[wrong].argsort(descending=True, stable=True)][:count]
