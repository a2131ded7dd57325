"""Plots and pictures of a run, as PNG files and in TensorBoard."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchmetrics.utilities.distributed import gather_all_tensors
from torchvision.utils import make_grid

from callbacks.run_metrics import RunMetrics
from callbacks.tensorboard import TensorBoard, show, writers
from results.pictures import class_labels, literal_text, new_figure, picture_grid, save_png, shorten, to_pixels

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

COLORS = {"train": "#0072B2", "val": "#D55E00"}
LABELS = {"train": "training", "val": "validation"}


class CurvesPlot(Callback):
    """After training, write ``curves.png``: loss and top-1 accuracy of each epoch, and which epoch was the best.

    The values are from ``RunMetrics``, so a resumed run has complete curves.

    Args:
        dirpath: the folder to write to.
    """

    def __init__(self, dirpath: str):
        self.dirpath = Path(dirpath)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = next((callback for callback in trainer.callbacks if isinstance(callback, RunMetrics)), None)
        if metrics is None or not metrics.history or not trainer.is_global_zero:
            return
        best = metrics.best_epoch, metrics.best.get(metrics.monitor)
        save_png(to_pixels(curves_figure(metrics.history, metrics.monitor, *best)), self.dirpath / "curves.png")


def curves_figure(
    history: Mapping[str, Sequence[Sequence[float]]], monitor: str, best_epoch: int | None, best: float | None
) -> "Figure":
    """Loss and top-1 accuracy of each epoch, and which epoch was the best.

    Args:
        history: metric → (epochs so far, value) pairs.
        monitor, best: the metric that decides which epoch is the best, and the best value.
        best_epoch: counted from 0; None without a validation.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(10, 4.2)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    ends = [epochs for points in history.values() for epochs, _ in points]
    for axes, (name, title) in zip(
        figure.subplots(1, 2), {"loss": "loss", "top1": "top-1 accuracy"}.items(), strict=True
    ):
        for split, color in COLORS.items():
            if points := history.get(f"{split}/{name}"):
                style = {"marker": "o", "markersize": 3} if len(points) <= 50 else {}
                axes.plot(*zip(*points, strict=True), color=color, label=LABELS[split], **style)
        if best_epoch is not None:
            label = f"best epoch: {best_epoch + 1} ({monitor} {best:.4f})"
            axes.axvline(best_epoch + 1, color="0.5", linestyle="--", linewidth=1, label=label)
        axes.set(xlabel="epoch", ylabel=title, xlim=(min(0.5, *ends), max(ends) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


class ConfusionMatrixPlot(Callback):
    """After a test, write ``confusion_matrix.png``, and show it in TensorBoard.

    Args:
        dirpath: the folder to write to.
        max_classes: for more classes, a matrix would be illegible: the most common confusions are drawn as bars.
    """

    def __init__(self, dirpath: str, max_classes: int = 50):
        self.dirpath, self.max_classes = Path(dirpath), max_classes

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        counts = pl_module.confusion.compute().cpu()  # in every process, because compute gathers
        if trainer.is_global_zero:
            draw = confusion_matrix if len(counts) <= self.max_classes else confusion_bars
            pixels = draw(counts, pl_module.class_names)
            save_png(pixels, self.dirpath / "confusion_matrix.png")
            show(trainer, "test/confusion_matrix", pixels)


def confusion_matrix(counts: Tensor, class_names: Sequence[str]) -> "np.ndarray":
    """Image counts, one row per true class, coloured by the share of the row: ``(H, W, 3)`` uint8.

    Args:
        counts: ``(true class, predicted class)``.
    """
    labels, places = class_labels(class_names), range(len(counts))
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    with literal_text(labels):
        side = max(4.5, 2.5 + 0.48 * len(counts))
        size = min(16, max(8, 48 // len(counts)))  # font size of the counts
        figure = new_figure(side, side)
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
        axes = figure.add_subplot(xlabel="predicted", ylabel="true")
        axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(places, labels, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(places, labels)
        for true, predicted in counts.nonzero().tolist():
            color = "white" if shares[true, predicted] > 0.6 else "black"
            count = str(counts[true, predicted].item())
            axes.text(predicted, true, count, color=color, ha="center", va="center", fontsize=size, in_layout=False)
        return to_pixels(figure)


def confusion_bars(counts: Tensor, class_names: Sequence[str], shown: int = 25) -> "np.ndarray":
    """The most common confusions, pairs of true and predicted class, as bars: ``(H, W, 3)`` uint8.

    Args:
        counts: ``(true class, predicted class)``.
        shown: maximum number of pairs.
    """
    wrong = counts.clone().fill_diagonal_(0)
    pairs = wrong.flatten().sort(descending=True, stable=True).indices[:shown].tolist()
    pairs = [divmod(pair, len(counts)) for pair in pairs if wrong.flatten()[pair] > 0]
    labels = class_labels(class_names)
    with literal_text(labels):
        figure = new_figure(7, 1.6 + 0.26 * len(pairs))
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
        title = f"{wrong.sum():,} of {counts.sum():,} images misclassified\nmost common confusions (true → predicted)"
        axes = figure.add_subplot(xlabel="images", title=title)
        values = [int(wrong[pair]) for pair in pairs]
        bars = axes.barh(range(len(pairs)), values, color=COLORS["val"])
        axes.bar_label(bars, padding=3, fontsize=8)
        axes.set_yticks(range(len(pairs)), [f"{labels[true]} → {labels[predicted]}" for true, predicted in pairs])
        axes.set(xlim=(0, 1.1 * max(values, default=1)), ylim=(max(1, len(pairs)) - 0.5, -0.5))
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        return to_pixels(figure)


class MistakesPlot(Callback):
    """After a test, write ``mistakes.png``: the most confident errors as the network sees them, with file names.

    TensorBoard shows it too. Only these images of the test set are kept in memory. Images that were not read from files
    have an index in the test set instead; in a test with several processes, neither is known.

    Args:
        dirpath: the folder to write to; nothing is written if no image is misclassified.
        count: maximum number of images.
    """

    def __init__(self, dirpath: str, count: int = 25):
        if count < 1:
            raise ValueError(f"count={count}; expected at least one image")
        self.dirpath, self.count = Path(dirpath), count
        self._errors: list[Tensor] = []  # so far: confidence, predicted, labels, images, indices in the test set
        self._seen = 0

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._errors, self._seen = [], 0

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        images, labels = batch
        numbers = torch.arange(self._seen, self._seen + len(labels), device=labels.device)
        self._seen += len(labels)
        errors = most_confident_errors(*outputs.float().softmax(1).max(1), labels, images, numbers, count=self.count)
        if self._errors:
            both = (torch.cat(parts) for parts in zip(self._errors, errors, strict=True))
            errors = most_confident_errors(*both, count=self.count)
        self._errors = errors

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        errors = [gather(part) for part in self._errors]  # in every process
        self._errors = []
        if not errors or not trainer.is_global_zero:
            return
        parts = most_confident_errors(*errors, count=self.count)
        confidence, predicted, labels, images, numbers = (part.cpu() for part in parts)
        wrong = predicted != labels
        if not wrong.any():
            return
        names, titles = class_labels(pl_module.class_names, 16), []
        for index in wrong.nonzero()[:, 0].tolist():
            answer = f"{names[predicted[index]]} ({confidence[index]:.1%})"
            titles.append(f"true: {names[labels[index]]}\npred: {answer}")
            if trainer.world_size == 1:
                titles[-1] += f"\n{image_name(trainer.datamodule.test_images, int(numbers[index]))}"
        pixels = picture_grid(trainer.datamodule.unnormalize(images[wrong]).numpy(), titles)
        save_png(pixels, self.dirpath / "mistakes.png")
        show(trainer, "test/mistakes", pixels)


def image_name(images: Dataset, number: int) -> str:
    """The image's file name, shortened to fit above the picture, or the index, if it was not read from a file."""
    samples = getattr(images, "samples", None)
    return shorten(Path(samples[number][0]).name, 28) if samples else f"image {number}"


def most_confident_errors(
    confidence: Tensor, predicted: Tensor, labels: Tensor, images: Tensor, numbers: Tensor, count: int
) -> list[Tensor]:
    """The same five tensors for the misclassified images, the most confident first, ties in order.

    Returns ``count`` rows; if there are fewer errors, correct predictions follow, so that nothing waits for the device.

    Args:
        confidence, predicted, labels, numbers: ``(N,)``.
        images: ``(N, C, h, w)``.
    """
    wrong = torch.where(predicted == labels, -1.0, confidence)
    order = wrong.argsort(descending=True, stable=True)[:count]
    return [part[order] for part in (confidence, predicted, labels, images, numbers)]


def gather(part: Tensor) -> Tensor:
    """Concatenate the rows of all processes, which may have different numbers of rows."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.cat(gather_all_tensors(part))
    return part


class PrecisionRecall(Callback):
    """After a test, draw the precision-recall curve of each class against the rest in TensorBoard's PR CURVES.

    Args:
        max_classes: for more classes, no curves are drawn and no probabilities are kept.
    """

    def __init__(self, max_classes: int = 20):
        self.max_classes = max_classes
        self._seen: list[tuple[Tensor, Tensor]] = []

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen = []

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        drawn = any(isinstance(logger, TensorBoard) for logger in trainer.loggers)  # the same in every process
        if drawn and outputs.shape[1] <= self.max_classes:
            self._seen.append((outputs.float().softmax(1), batch[1]))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._seen:
            return
        probabilities, labels = (gather(torch.cat(parts)).cpu() for parts in zip(*self._seen, strict=True))
        self._seen = []
        for writer in writers(trainer):
            for number, name in enumerate(pl_module.class_names):
                curve = (labels == number, probabilities[:, number], trainer.global_step)
                writer.add_pr_curve(f"test/precision_recall/{name}", *curve)


class NetworkPictures(Callback):
    """In TensorBoard: ``watch/train/batch``, images of the first batch; after the test ``watch/filters/first_layer``.

    Args:
        count: maximum number of images of the batch.
        graph: also draw the network in the GRAPHS tab; tracing takes a few forward passes of one image.
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
        if not writers(trainer):
            return
        images, labels = (part[: self.count].cpu() for part in batch)
        titles = [label_title(label, pl_module.class_names) for label in labels]
        show(trainer, "train/batch", picture_grid(trainer.datamodule.unnormalize(images).numpy(), titles))
        if self.graph:
            draw_graph(trainer, pl_module.backbone, images[:1].float())

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        convolution = next((m for m in pl_module.backbone.modules() if isinstance(m, nn.Conv2d)), None)
        if convolution is not None and convolution.weight.shape[1] in (1, 3) and writers(trainer):
            show(trainer, "filters/first_layer", filter_grid(convolution.weight.detach().cpu()).numpy())

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self._drawn}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._drawn = state_dict["drawn"]


def label_title(label: Tensor, class_names: Sequence[str]) -> str:
    """The class name; for a mixed label, ``(num_classes,)``, the two largest shares, one per line."""
    if label.ndim == 0:
        return class_labels(class_names)[int(label)]
    shares = [(s, name) for s, name in zip(label.tolist(), class_labels(class_names, 14), strict=True) if s > 0]
    return "\n".join(f"{share:.0%} {name}" for share, name in sorted(shares, reverse=True)[:2])


def draw_graph(trainer: Trainer, backbone: nn.Module, image: Tensor) -> None:
    """Trace a float32 copy on the CPU, because tracing supports neither mixed precision nor compiled code."""
    network = copy.deepcopy(backbone).cpu().float().eval().requires_grad_(False)
    with warnings.catch_warnings(), torch.autocast(trainer.strategy.root_device.type, enabled=False):
        warnings.simplefilter("ignore")  # the tracing that TensorBoard's writer uses is deprecated
        for writer in writers(trainer):
            writer.add_graph(network, image)


def filter_grid(weights: Tensor, count: int = 64) -> Tensor:
    """Filters as pictures, eight in a row, each scaled by the largest weight; grey is 0.

    Args:
        weights: ``(N, 1 or 3, h, w)``; no more than ``count`` are shown.

    Returns: ``(H, W, 3)`` uint8.
    """
    weights = weights[:count].float()
    largest = weights.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    shown = F.interpolate(0.5 + 0.5 * weights / largest, scale_factor=max(1, -(-48 // weights.shape[-1])))
    grid = make_grid(shown, nrow=8, padding=2, pad_value=1.0)  # (3, H, W)
    return (255 * grid).round().to(torch.uint8).permute(1, 2, 0)
