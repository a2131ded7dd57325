"""A run's learning curves as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning import Callback, LightningModule, Trainer

from callbacks.drawing import save
from callbacks.run_metrics import RunMetrics
from results.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {"train": "#0072B2", "val": "#D55E00"}


class CurvesPlot(Callback):
    """After training, writes ``curves.png``: loss and top-1 accuracy of each epoch, and which was the best.

    What it draws is what ``RunMetrics`` remembers, so that a run that goes on has all its epochs.

    Args:
        dirpath: the folder to write to.
    """

    def __init__(self, dirpath: str):
        self.dirpath = Path(dirpath)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        measure = next((callback for callback in trainer.callbacks if isinstance(callback, RunMetrics)), None)
        if measure is None or not measure.history or not trainer.is_global_zero:
            return
        best = measure.best_epoch, measure.best.get(measure.monitor)
        save(curves_figure(measure.history, measure.monitor, *best), self.dirpath / "curves.png")


def curves_figure(
    history: Mapping[str, Sequence[Sequence[float]]], monitor: str, best_epoch: int | None, best: float | None
) -> "Figure":
    """Loss and top-1 accuracy of each epoch, and which epoch was the best.

    Args:
        history: of each metric the (epochs so far, value) pairs.
        monitor, best: the metric that decides what is best, and its best value.
        best_epoch: counted from 0; None without a validation.
    """
    figure = new_figure(10, 3.8, layout=None)  # places that are known need not be found
    figure.subplots_adjust(left=0.06, right=0.98, bottom=0.13, top=0.97)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "top1"), strict=True):
        for split, color in COLORS.items():
            if points := history.get(f"{split}/{name}"):
                style = {"marker": "o", "markersize": 3} if len(points) <= 50 else {}
                axes.plot(*zip(*points, strict=True), color=color, label=split, **style)
        if best_epoch is not None:
            label = f"best: epoch {best_epoch + 1}, {monitor} {best:.4f}"
            axes.axvline(best_epoch + 1, color="0.5", linestyle="--", linewidth=1, label=label)
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure
