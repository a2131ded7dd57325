"""The learning-rate range test."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from lightning import Callback, LightningModule, Trainer

from results.pictures import new_figure, save_png, to_pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
SMOOTHING = 0.9  # of the exponential moving average of the losses
STOP = 2.0  # a multiple of the first loss


class LRRange(Callback):
    """Train with a rising learning rate; plot the losses, and report where they fall fastest and where they diverge.

    Source: Smith 2017, "Cyclical learning rates for training neural networks", section 3.3. The training ends early if
    the smoothed loss exceeds ``STOP`` times the first one.

    Args:
        dirpath: the folder for ``lr_range.png``.
    """

    def __init__(self, dirpath: str):
        self.dirpath = Path(dirpath)
        self.rates: list[float] = []
        self.losses: list[float] = []  # smoothed

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs, batch, batch_idx: int) -> None:
        loss = outputs["loss"].item()  # waits for the device, which a debugging run of 200 steps can afford
        average = loss if not self.losses else SMOOTHING * self.losses[-1] + (1 - SMOOTHING) * loss
        if math.isfinite(average):
            self.rates.append(trainer.optimizers[0].param_groups[-1]["lr"])
            self.losses.append(average)
        if not math.isfinite(average) or average > STOP * self.losses[0]:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if len(self.losses) < 3 or not trainer.is_global_zero:
            return
        steepest, diverged = steepest_rate(self.rates, self.losses), diverging_rate(self.rates, self.losses)
        end = f"diverges at lr={diverged:.2g}" if diverged else "does not diverge"
        log.info(f"lr range     the loss falls fastest at lr={steepest:.2g} and {end}; try optimizer.lr={steepest:.2g}")
        save_png(to_pixels(lr_figure(self.rates, self.losses, steepest)), self.dirpath / "lr_range.png")


def steepest_rate(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate before the minimum at which the loss falls fastest over the logarithm of the rate."""
    end = max(3, int(np.argmin(losses)) + 1)
    slopes = np.gradient(losses[:end], np.log(rates[:end]))
    return rates[int(np.argmin(slopes))]


def diverging_rate(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The first rate after the minimum at which the loss exceeds the first loss; None if it never does."""
    lowest = int(np.argmin(losses))
    return next((rate for rate, loss in zip(rates[lowest:], losses[lowest:], strict=True) if loss > losses[0]), None)


def lr_figure(rates: Sequence[float], losses: Sequence[float], steepest: float) -> "Figure":
    figure = new_figure(6.4, 4)
    axes = figure.add_subplot(xscale="log", xlabel="learning rate", ylabel="train/loss, smoothed")
    axes.plot(rates, losses, color="#0072B2")
    axes.axvline(steepest, color="#D55E00", linestyle="--", label=f"falls fastest: lr={steepest:.2g}")
    low, high = min(losses), losses[0]
    axes.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
