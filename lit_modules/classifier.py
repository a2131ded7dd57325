"""Image classification: one label an image."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
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

from lit_modules.going_on import check_place, check_trained_by, restored_options, trained_by
from lit_modules.mean import Mean
from lit_modules.nonfinite import Losses
from lit_modules.parameter_groups import parameter_groups
from lit_modules.schedules import check_takes_total_steps, total_steps
from lit_modules.train_metrics import TrainingScores

COMPILE = (False, True, "reduce-overhead", "max-autotune")


def check_numerics(memory_format: str, compile: bool | str) -> None:
    """Raise a ValueError for what a backbone cannot be computed by."""
    if memory_format not in ("contiguous_format", "channels_last"):
        raise ValueError(f"memory_format={memory_format} is neither contiguous_format nor channels_last")
    if compile not in COMPILE:
        raise ValueError(f"compile={compile} is none of {', '.join(map(str, COMPILE)).lower()}")


class Classifier(LightningModule):
    """Trains any backbone that maps ``(N, C, H, W)`` float images to ``(N, num_classes)`` logits.

    Labels are ``(N,)`` int64 or, in training, shares of the classes, ``(N, num_classes)`` float32.

    Logs, an epoch: ``train/loss``, ``train/top1`` (of mixed labels the larger share counts); ``val/`` and ``test/``
    ``loss``, ``top1``, ``f1_macro`` and, with more than five classes, ``top5``; at test also
    ``test/accuracy/<class>``, of classes with test images. All but the losses are fractions.

    Args:
        backbone: the network.
        num_classes: length of the logits.
        optimizer: from parameter groups to an optimizer. Parameters of one dimension (gains and biases) come
            in a group without weight decay.
        scheduler: from ``(optimizer, total_steps=…)`` to a scheduler that steps after every optimizer step, or None.
        label_smoothing: share of the target spread over all classes (Szegedy et al. 2016, section 7), in
            training only.
        backbone_lr_ratio: learning rate of all but the backbone's ``head``, as a share of the optimizer's ``lr``.
        memory_format: ``contiguous_format`` or ``channels_last``, of the backbone and its input.
        compile: compile the backbone: False, True, or a mode of torch.compile, say ``reduce-overhead`` (CUDA graphs).
            State-dict keys stay as they are.
        nonfinite: what a training loss that is infinite or no number does. ``stop``: it ends the run; on a GPU, and
            with several processes, up to 50 batches later, but before a checkpoint is written. ``skip``: it leaves
            that optimizer step out, with all batches accumulated for it: weights, optimizer state and batch norm's
            statistics stay as they were, while the schedule and ``global_step`` go on; so each step waits for the
            device. An epoch of nothing else is an error.
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
        nonfinite: str = "stop",
        class_names: Sequence[str] | None = None,
    ):
        super().__init__()
        check_numerics(memory_format, compile)
        if nonfinite not in ("stop", "skip"):
            raise ValueError(f"nonfinite={nonfinite} is neither stop nor skip")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} is no share; expected 0 to below 1, say 0.1")
        if not backbone_lr_ratio > 0:
            raise ValueError(f"backbone_lr_ratio={backbone_lr_ratio}; expected above 0 (callbacks=finetune can freeze)")
        if backbone_lr_ratio != 1 and getattr(backbone, "head", None) is None:
            raise ValueError(f"backbone_lr_ratio={backbone_lr_ratio} needs a backbone that says what its head is")
        if scheduler is not None:
            check_takes_total_steps(scheduler)
        self.num_classes, self.memory_format = num_classes, getattr(torch, memory_format)
        self.backbone = backbone.to(memory_format=self.memory_format)
        self.optimizer, self.scheduler = optimizer, scheduler
        self.label_smoothing, self.compile_backbone = label_smoothing, compile
        self.backbone_lr_ratio = backbone_lr_ratio
        self.class_names = class_names or tuple(map(str, range(num_classes)))
        self.description: dict[str, Any] = {}
        self.restored_options: dict[str, Any] = {}  # of optimizer and schedule, those in effect
        self._trained_by: dict[str, Any] = {}  # what a checkpoint says that is gone on from
        self.nonfinite, self.losses = nonfinite, Losses(self)

        def accuracy(**options) -> Metric:  # arguments are not validated: that would wait for the device
            return MulticlassAccuracy(num_classes, validate_args=False, **options)

        scores = {"loss": Mean(), "top1": accuracy(average="micro")}
        if num_classes > 5:
            scores["top5"] = accuracy(average="micro", top_k=5)
        scores["f1_macro"] = MulticlassF1Score(num_classes, average="macro", validate_args=False)
        self.train_scores = TrainingScores(only_finite=nonfinite == "skip")
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
    def on_train_epoch_start(self, batches: int = 0) -> None:
        self.losses.begin(batches)
        self.train_scores.begin(self.device)
        self.log_dict({f"train/{name}": mean for name, mean in self.train_scores.named_children()})

    def on_fit_start(self) -> None:
        self.restored_options = restored_options(self)
        if self._trained_by:
            self.restored_options = check_trained_by(self._trained_by, self)

    def on_train_start(self) -> None:
        if self._trained_by:
            check_place(self._trained_by, self._batches(), self)
        if self._within_an_epoch():  # where a run goes on; this epoch's start was before
            self.on_train_epoch_start(self._batches())

    def _batches(self) -> int:
        """Of this epoch, so far."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.processed

    def _within_an_epoch(self) -> bool:
        return 0 < self._batches() < self.trainer.num_training_batches

    def on_validation_epoch_start(self) -> None:
        self.log_dict(self.val_metrics)

    def training_step(self, batch, batch_idx: int) -> Tensor:
        if self.nonfinite == "skip":
            self.losses.remember(batch_idx)
        loss, logits, labels = self._step(batch, self.label_smoothing)
        if labels.ndim == 2:  # mixed
            labels = labels.argmax(1)
        self.train_scores.add(loss, logits, labels)
        self.losses.look_at(loss, batch_idx)
        return loss

    training_step.__signature__ = inspect.signature(training_step)  # which Lightning otherwise makes anew in each step

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        if gradient_clip_val:  # else Lightning looks in each step whether the algorithm is one
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer, optimizer_closure=None) -> None:
        if self.nonfinite == "stop":
            return super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        loss = optimizer_closure()  # forward and backward first, for the decision; then the step, without them
        if self.losses.step_is_sound():
            optimizer.step(closure=lambda: loss)
        else:
            optimizer.zero_grad()

    def on_train_epoch_end(self) -> None:
        self.losses.read(self._batches())
        loss = self.trainer.callback_metrics.get("train/loss")
        if loss is not None and not loss.isfinite():
            raise self.losses.error(f"train/loss is {loss.item()}, the mean up to", self._batches())

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
        of_classes = zip(self.class_names, counts.diag() / counts.sum(1), counts.sum(1).tolist(), strict=True)
        self.log_dict({f"test/accuracy/{name}": a for name, a, images in of_classes if images}, sync_dist=True)

    def configure_optimizers(self):
        optimizer = self.optimizer(parameter_groups(self.backbone, self.backbone_lr_ratio))
        for group in optimizer.param_groups:
            if group.get("name", "").startswith("backbone"):
                group["lr"] *= self.backbone_lr_ratio
        if self.scheduler is None:
            return optimizer
        scheduler = self.scheduler(optimizer, total_steps=total_steps(self.trainer))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step", "name": "lr"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.losses.read(self._batches())  # a network of NaNs never takes a good one's place
        self.losses.check_weights(self._batches())
        checkpoint.update(self.description, trained_by=trained_by(self))
        if self.losses.left_out:
            checkpoint["steps_left_out"] = self.losses.left_out
        if self._within_an_epoch():
            reduce = partial(self.trainer.strategy.reduce, reduce_op="sum")
            scores = self.train_scores.so_far().items()
            checkpoint["epoch_so_far"] = {name: tuple(reduce(part.clone()) for part in parts) for name, parts in scores}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.losses.left_out = checkpoint.get("steps_left_out", 0)
        self._trained_by = checkpoint.get("trained_by", {})
        so_far = checkpoint.get("epoch_so_far", {})
        if so_far and self.trainer.is_global_zero:  # the first process goes on with what all had
            self.train_scores.go_on(so_far)
