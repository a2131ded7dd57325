"""Image classification: one label an image."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)

COMPILE = (False, True, "reduce-overhead", "max-autotune")


def check_numerics(memory_format: str, compile: bool | str) -> None:
    """Raise a ValueError for what a backbone cannot be computed by."""
    if memory_format not in ("contiguous_format", "channels_last"):
        raise ValueError(f"memory_format={memory_format} is neither contiguous_format nor channels_last")
    if compile not in COMPILE:
        raise ValueError(f"compile={compile} is none of {', '.join(map(str, COMPILE)).lower()}")


class Mean(Metric):
    """A mean over images, of batches that may differ in size.

    torchmetrics' ``MeanMetric`` looks at each value, which waits for the device; told not to, it forgets the weights.
    """

    full_state_update = False

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.zeros(()), "sum")
        self.add_state("images", torch.zeros((), dtype=torch.long), "sum")

    def update(self, total: Tensor, images: int) -> None:
        """Args: total: the sum over a batch's images, a scalar; images: how many they are."""
        self.total += total
        self.images += images

    def compute(self) -> Tensor:
        return self.total / self.images

    def so_far(self) -> tuple[Tensor, Tensor, int]:
        """Sum, images and updates, for ``go_on`` in another process."""
        return self.total, self.images, self._update_count

    def go_on(self, total: Tensor, images: Tensor, updates: int) -> None:
        self.total, self.images, self._update_count = total, images, updates


class Classifier(LightningModule):
    """Trains any backbone that maps ``(N, C, H, W)`` float images to ``(N, num_classes)`` logits.

    Labels are ``(N,)`` int64 or, in training, shares of the classes, ``(N, num_classes)`` float32.

    Logs, an epoch: ``train/loss``, ``train/top1`` (of mixed labels the larger share counts); ``val/`` and ``test/``
    ``loss``, ``top1``, ``f1_macro`` and, with more than five classes, ``top5``; at test also
    ``test/accuracy/<class>``. All but the losses are fractions.

    Args:
        backbone: the network.
        num_classes: length of the logits.
        optimizer: from parameter groups to an optimizer. Parameters of one dimension (gains and biases) come
            in a group without weight decay.
        scheduler: from ``(optimizer, total_steps=…)`` to a scheduler that steps every batch, or None.
        label_smoothing: share of the target spread over all classes (Szegedy et al. 2016, section 7), in
            training only.
        backbone_lr_ratio: learning rate of all but the backbone's ``head``, as a share of the optimizer's ``lr``.
        memory_format: ``contiguous_format`` or ``channels_last``, of the backbone and its input.
        compile: compile the backbone: False, True, or a mode of torch.compile, say ``reduce-overhead`` (CUDA graphs).
            State-dict keys stay as they are.
        class_names: of the outputs in order; only for reports.

    Attributes:
        description: plain values that go into every checkpoint beside the weights, so that it says what it is.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        optimizer: Callable[[list[dict]], Optimizer],
        scheduler: Callable[..., Any] | None = None,
        label_smoothing: float = 0.0,
        backbone_lr_ratio: float = 1.0,
        memory_format: str = "contiguous_format",
        compile: bool | str = False,
        class_names: Sequence[str] | None = None,
    ):
        super().__init__()
        check_numerics(memory_format, compile)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} is no share; expected 0 to below 1, say 0.1")
        if not backbone_lr_ratio > 0:
            raise ValueError(f"backbone_lr_ratio={backbone_lr_ratio}; expected above 0 (callbacks=finetune can freeze)")
        if backbone_lr_ratio != 1 and getattr(backbone, "head", None) is None:
            raise ValueError(f"backbone_lr_ratio={backbone_lr_ratio} needs a backbone that says what its head is")
        self.num_classes, self.memory_format = num_classes, getattr(torch, memory_format)
        self.backbone = backbone.to(memory_format=self.memory_format)
        self.optimizer, self.scheduler = optimizer, scheduler
        self.label_smoothing, self.compile_backbone = label_smoothing, compile
        self.backbone_lr_ratio = backbone_lr_ratio
        self.class_names = class_names or tuple(map(str, range(num_classes)))
        self.description: dict[str, Any] = {}

        def accuracy(**options) -> Metric:  # arguments are not validated: that would wait for the device
            return MulticlassAccuracy(num_classes, validate_args=False, **options)

        scores = {"loss": Mean(), "top1": accuracy(average="micro")}
        if num_classes > 5:
            scores["top5"] = accuracy(average="micro", top_k=5)
        scores["f1_macro"] = MulticlassF1Score(num_classes, average="macro", validate_args=False)
        self.train_loss, self.train_top1 = Mean(), Mean()  # updated in every step, so they do as little as can be
        # No compute groups: they merge metrics that agree on the first batch, as top1 and top5 may.
        self.val_metrics = MetricCollection(scores, prefix="val/", compute_groups=False)
        self.test_metrics = self.val_metrics.clone(prefix="test/")
        self.confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes each hook here, some twenty times a step; nn.Module would ask each time what it is.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.compile_backbone:
            self.backbone.compile(mode=self.compile_backbone if isinstance(self.compile_backbone, str) else None)

    def forward(self, images: Tensor) -> Tensor:
        """``(N, C, H, W)`` float, normalised → logits ``(N, num_classes)``."""
        return self.backbone(images.contiguous(memory_format=self.memory_format))

    def _step(self, batch: tuple[Tensor, Tensor], smoothing: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, logits and labels of one batch; nothing in a step waits for the device."""
        images, labels = batch
        logits = self(images)
        if logits.shape != (len(labels), self.num_classes):
            raise ValueError(
                f"the backbone gives {tuple(logits.shape)} where (N, num_classes) is ({len(labels)}, "
                f"{self.num_classes}); it needs a classifier's head of that size (include_top=true)"
            )
        return F.cross_entropy(logits, labels, label_smoothing=smoothing), logits, labels

    def _evaluate(self, batch: tuple[Tensor, Tensor], metrics: MetricCollection) -> tuple[Tensor, Tensor]:
        loss, logits, labels = self._step(batch)
        metrics.update(preds=logits, target=labels, total=loss * len(labels), images=len(labels))
        return logits, labels

    # The metrics are named to Lightning once an epoch, for it to compute and reset; each step only updates them.
    def on_train_epoch_start(self) -> None:
        self.log_dict({f"train/{name}": metric for name, metric in self._train_metrics().items()})

    def on_train_start(self) -> None:
        if self._within_an_epoch():  # where a run goes on; this epoch's start was before
            self.on_train_epoch_start()

    def _within_an_epoch(self) -> bool:
        return 0 < self.trainer.fit_loop.epoch_loop.batch_progress.current.processed < self.trainer.num_training_batches

    def on_validation_epoch_start(self) -> None:
        self.log_dict(self.val_metrics)

    def training_step(self, batch, batch_idx: int) -> Tensor:
        loss, logits, labels = self._step(batch, self.label_smoothing)
        self.train_loss.update(loss.detach() * len(labels), len(labels))
        if labels.ndim == 2:  # mixed
            labels = labels.argmax(1)
        self.train_top1.update((logits.argmax(1) == labels).sum(), len(labels))
        return loss

    def on_train_epoch_end(self) -> None:
        loss = self.trainer.callback_metrics.get("train/loss")
        if loss is not None and not loss.isfinite():
            raise ValueError(
                f"train/loss is {loss.item()} after epoch {self.current_epoch + 1}: the training has diverged; "
                "try a lower optimizer.lr, or +trainer.gradient_clip_val=1.0"
            )

    def validation_step(self, batch, batch_idx: int) -> None:
        self._evaluate(batch, self.val_metrics)

    def test_step(self, batch, batch_idx: int) -> Tensor:
        logits, labels = self._evaluate(batch, self.test_metrics)
        self.confusion.update(logits, labels)
        return logits  # for callbacks

    def on_test_epoch_start(self) -> None:
        self.log_dict(self.test_metrics)
        self.confusion.reset()

    def on_test_epoch_end(self) -> None:
        counts = self.confusion.compute()  # (true class, predicted class)
        accuracies = counts.diag() / counts.sum(1).clamp(min=1)
        named = {f"test/accuracy/{n}": a for n, a in zip(self.class_names, accuracies, strict=True)}
        self.log_dict(named, sync_dist=True)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Weights, and gains and biases, which take no decay.

        Those of backbone and head are apart where their rates differ or the backbone is frozen. What is frozen is among
        them, untouched while it has no gradient; fused SGD takes no group where only some have a momentum.
        """
        parameters = list(self.backbone.parameters())
        frozen = not all(p.requires_grad for p in parameters) and getattr(self.backbone, "head", None) is not None
        if self.backbone_lr_ratio == 1 and not frozen:
            return _with_and_without_decay(parameters)
        of_head = set(self.backbone.head.parameters())
        body, head = ([p for p in parameters if (p in of_head) == wanted] for wanted in (False, True))
        return _with_and_without_decay(body, "backbone") + _with_and_without_decay(head, "head")

    def configure_optimizers(self):
        optimizer = self.optimizer(self._parameter_groups())
        for group in optimizer.param_groups:
            if group.get("name", "").startswith("backbone"):
                group["lr"] *= self.backbone_lr_ratio
        if self.scheduler is None:
            return optimizer
        total_steps = self.trainer.estimated_stepping_batches
        if total_steps == float("inf"):
            raise ValueError("a schedule needs to know its end: set trainer.max_epochs or scheduler=none")
        scheduler = self.scheduler(optimizer, total_steps=int(total_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(self.description)
        if self._within_an_epoch():
            checkpoint["epoch_so_far"] = {name: metric.so_far() for name, metric in self._train_metrics().items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name, state in checkpoint.get("epoch_so_far", {}).items():
            self._train_metrics()[name].go_on(*state)

    def _train_metrics(self) -> dict[str, Mean]:
        return {"loss": self.train_loss, "top1": self.train_top1}


def _with_and_without_decay(parameters: list[nn.Parameter], name: str | None = None) -> list[dict[str, Any]]:
    """Two parameter groups: weights, and gains and biases. With a name the learning rates are logged by it."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if name:
        groups[0]["name"], groups[1]["name"] = name, f"{name}_gains"
    return groups
