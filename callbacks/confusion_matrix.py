"""The confusion matrix, and each class's accuracy, as pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning import Callback
from torch import Tensor

from callbacks.drawing import encoded, new_figure, save, shortened
from callbacks.tensorboard import TensorBoard, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ConfusionMatrixPlot(Callback):
    """After testing, writes ``confusion_matrix.png`` and shows it in TensorBoard as ``test/confusion_matrix``.

    Beside it there is ``test/accuracy_per_class``, the matrix's diagonal as bars.

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
        names = [shortened(name) for name in pl_module.class_names]
        side, left, below = (
            max(2, 0.45 * len(counts)),
            *(0.55 + 0.09 * max(map(len, names)) * share for share in (1, 0.72)),
        )
        width, height = left + side + 1.2, below + side + 0.2  # inches
        figure = new_figure(width, height, layout=None)  # places that are known need not be found
        axes = figure.add_axes((left / width, below / height, side / width, side / height))
        shares = (counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
        picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        bar = figure.add_axes(((left + side + 0.2) / width, below / height, 0.15 / width, side / height))
        figure.colorbar(picture, cax=bar, label="share of the true class")
        ticks = range(len(counts))
        axes.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(ticks, names, parse_math=False)
        axes.set(xlabel="predicted", ylabel="true")
        for true in ticks:
            for predicted in ticks:
                if counts[true, predicted]:
                    color = "white" if shares[true, predicted] > 0.5 else "black"
                    number = int(counts[true, predicted])
                    axes.text(predicted, true, number, ha="center", va="center", color=color)
        png = save(figure, self.dirpath / "confusion_matrix.png")
        show(trainer.loggers, "test/confusion_matrix", png, trainer.global_step)
        if any(isinstance(logger, TensorBoard) for logger in trainer.loggers):
            figure = accuracy_bars(counts, pl_module.class_names)
            show(trainer.loggers, "test/accuracy_per_class", encoded(figure), trainer.global_step)


def accuracy_bars(counts: Tensor, class_names: Sequence[str]) -> "Figure":
    """A bar a class with its accuracy, and the number of its images beside its name.

    Args:
        counts: ``(true class, predicted class)``.
    """
    images, count = counts.sum(1), len(counts)
    accuracies = (counts.diag() / images.clamp(min=1)).tolist()
    names = [f"{shortened(name)} ({n})" for name, n in zip(class_names, images.tolist(), strict=True)]
    width, height, left = 6.5, 0.8 + 0.3 * count, 0.2 + 0.09 * max(map(len, names))  # inches
    figure = new_figure(width, height, layout=None)  # places that are known need not be found
    axes = figure.add_axes((left / width, 0.6 / height, (width - left - 0.2) / width, 0.3 * count / height))
    axes.barh(range(count), accuracies, color="#56B4E9")
    for place, accuracy in enumerate(accuracies):
        axes.text(0.02, place, f"{accuracy:.1%}", va="center", fontsize=8)
    mean = (counts.diag().sum() / images.sum().clamp(min=1)).item()
    axes.axvline(mean, color="0.3", linestyle="--", linewidth=1)
    axes.set_yticks(range(count), names, fontsize=9, parse_math=False)
    axes.set(xlim=(0, 1), ylim=(count - 0.5, -0.5), xlabel=f"accuracy; of all images {mean:.1%}")
    return figure
