"""The confusion matrix as a picture."""

from pathlib import Path

from lightning import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.drawing import new_figure, save


class ConfusionMatrixPlot(Callback):
    """After testing, writes ``confusion_matrix.png`` and shows it in TensorBoard as ``test/confusion_matrix``.

    Args:
        dirpath: the folder to write to.
        max_classes: no plot with more classes than this; nobody could read it.
    """

    def __init__(self, dirpath: str, max_classes: int = 50):
        self.dirpath, self.max_classes = Path(dirpath), max_classes

    def on_test_epoch_end(self, trainer, pl_module) -> None:
        counts = pl_module.confusion.compute().cpu()  # in every process: it gathers
        if not trainer.is_global_zero or len(counts) > self.max_classes:
            return
        size = 2.5 + 0.45 * len(counts)
        figure = new_figure(size + 1, size)
        axes = figure.add_subplot()
        shares = (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
        picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(picture, label="share of the true class")
        ticks = range(len(counts))
        axes.set_xticks(ticks, pl_module.class_names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(ticks, pl_module.class_names)
        axes.set(xlabel="predicted", ylabel="true")
        for true in ticks:
            for predicted in ticks:
                if counts[true, predicted]:
                    color = "white" if shares[true, predicted] > 0.5 else "black"
                    text = axes.text(
                        predicted, true, int(counts[true, predicted]), ha="center", va="center", color=color
                    )
                    text.set_in_layout(False)  # it lies within the axes; measuring a hundred of them takes time
        pixels = save(figure, self.dirpath / "confusion_matrix.png")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("test/confusion_matrix", pixels, trainer.global_step, dataformats="HWC")
