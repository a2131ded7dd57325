"""Calibration of a network's confidence: reliability diagram and expected calibration error."""

from pathlib import Path

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from results.pictures import new_figure, save_png, to_pixels

FEW = 10  # bins with fewer images are drawn pale: one more correct image changes the accuracy by over 0.1


class ReliabilityPlot(Callback):
    """After an Evaluator's test, write ``reliability.png`` (Guo et al. 2017, figure 1).

    Args:
        dirpath: the folder to write to.
    """

    def __init__(self, dirpath: str):
        self.dirpath = Path(dirpath)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        bins = pl_module.bins
        parts = reliability(pl_module.probabilities, pl_module.labels, bins)
        accuracy, confidence, share = (part.numpy() for part in parts)
        images = (share * len(pl_module.labels)).round()
        left = np.arange(bins) / bins
        figure = new_figure(5.2, 5.8)
        axes, below = figure.subplots(2, sharex=True, height_ratios=(4, 1))
        filled, few = share > 0, (share > 0) & (images < FEW)
        bars = {"width": 1 / bins, "align": "edge", "edgecolor": "white"}
        axes.bar(left[filled & ~few], accuracy[filled & ~few], color="#56B4E9", label="accuracy of the bin", **bars)
        if few.any():
            pale = bars | {"color": "#DDF0FB", "edgecolor": "#56B4E9", "linestyle": ":"}
            axes.bar(left[few], accuracy[few], label=f"accuracy, fewer than {FEW} images", **pale)
        axes.plot([0, 1], [0, 1], "--", color="0.3", label="perfect calibration")
        dots = {"color": "#D55E00", "markersize": 4, "clip_on": False, "label": "at the mean confidence"}
        axes.plot(confidence[filled], accuracy[filled], "o", **dots)
        error = (abs(accuracy - confidence) * share).sum()
        axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=f"expected calibration error {error:.4f}")
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
        below.bar(left, images, color="0.6", **bars)
        below.set(xlabel="confidence (probability of the predicted class)", ylabel="images")
        save_png(to_pixels(figure), self.dirpath / "reliability.png")


def reliability(probabilities: Tensor, labels: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Accuracy, mean confidence and share of the images in each bin, ``(bins,)`` each; 0 for an empty bin.

    Bins are of equal width in confidence and closed on the left; the last one includes 1.
    """
    confidence, predicted = probabilities.max(1)
    edges = torch.linspace(0, 1, bins + 1)[1:-1]
    indices = torch.bucketize(confidence, edges, right=True)  # (N,)
    count = torch.bincount(indices, minlength=bins)
    sums = (torch.bincount(indices, value, minlength=bins) for value in ((predicted == labels).float(), confidence))
    accuracy, mean_confidence = (total / count.clamp(min=1) for total in sums)
    return accuracy, mean_confidence, count / count.sum()
