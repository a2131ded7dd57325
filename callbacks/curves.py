"""A run's learning curves as a picture."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from callbacks.drawing import save
from callbacks.measure import Measure
from studies.figures import new_figure

COLORS = {"train": "#0072B2", "val": "#D55E00"}


class CurvesPlot(Callback):
    """After training, writes ``curves.png``: loss and top-1 accuracy of each epoch, and which was the best.

    What it draws is what ``Measure`` remembers, so that a run that goes on has all its epochs.

    Args:
        dirpath: the folder to write to.
    """

    def __init__(self, dirpath: str):
        self.dirpath = Path(dirpath)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        measure = next((callback for callback in trainer.callbacks if isinstance(callback, Measure)), None)
        if measure is None or not measure.history or not trainer.is_global_zero:
            return
        figure = new_figure(10, 3.8, layout=None)  # places that are known need not be found
        figure.subplots_adjust(left=0.06, right=0.98, bottom=0.13, top=0.97)
        for axes, name in zip(figure.subplots(1, 2), ("loss", "top1"), strict=True):
            for split, color in COLORS.items():
                if points := measure.history.get(f"{split}/{name}"):
                    style = {"marker": "o", "markersize": 3} if len(points) <= 50 else {}
                    axes.plot(*zip(*points, strict=True), color=color, label=split, **style)
            if measure.best_epoch is not None:
                score = f"{measure.monitor} {measure.best[measure.monitor]:.4f}"
                label = f"best: epoch {measure.best_epoch + 1}, {score}"
                axes.axvline(measure.best_epoch + 1, color="0.5", linestyle="--", linewidth=1, label=label)
            axes.set(xlabel="epoch", ylabel=name)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
        save(figure, self.dirpath / "curves.png")
