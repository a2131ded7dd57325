"""Train and test an image classifier: one label per image."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)

from lit_modules.class_weights import check_class_weights, class_weights
from lit_modules.nonfinite import NonFiniteGuard
from lit_modules.parameter_groups import check_lr_ratio, parameter_groups
from lit_modules.resume_checks import (
    check_epoch_length,
    check_optimization,
    describe_optimization,
    restored_options,
)
from lit_modules.schedules import Schedule, check_takes_total_steps, total_steps
from lit_modules.train_metrics import Mean

COMPILE = (False, True, "reduce-overhead", "max-autotune")


def check_numerics(memory_format: str, compile: bool | str) -> None:
    """Raise a ValueError for an unknown memory format or compile mode."""
    if memory_format not in ("contiguous_format", "channels_last"):
        raise ValueError(f"memory_format={memory_format} is neither contiguous_format nor channels_last")
    if compile not in COMPILE:
        raise ValueError(f"compile={compile}; expected one of {', '.join(map(str, COMPILE)).lower()}")


class Classifier(LightningModule):
    """Trains any backbone that maps ``(N, C, H, W)`` float images to ``(N, num_classes)`` logits.

    Labels are ``(N,)`` int64 or, in training, class probabilities, ``(N, num_classes)`` float32.

    Logs per epoch: ``train/loss`` and ``train/top1`` (the target of a mixed label is the class with the largest share);
    ``val/`` and ``test/`` ``loss``, ``top1``, ``f1_macro`` and, with more than five classes, ``top5``; in a test also
    ``test/accuracy/<class>`` for classes with test images. All but the losses are fractions.
    ``results.metrics.METRICS`` describes each metric. ``metrics`` adds further ones.

    Args:
        backbone: the network. A ``backbone_lr_ratio`` and a partly frozen network need the attribute ``head``, the
            last layer.
        num_classes: number of logits.
        optimizer: maps parameter groups to an optimizer. Parameters with one dimension (biases, norms' weights) are
            in a group without weight decay.
        scheduler: a ``schedules.Schedule``, which steps after every optimizer step, or None.
        label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016, section 7), in
            training only.
        class_weights: of the classes in the training loss: ``balanced`` (n / (k · count): rare classes count more) or
            numbers by class name; scaled as in ``class_weights.class_weights``. The loss of N images is
            −1/N Σᵢ Σₖ wₖ yᵢₖ log pᵢₖ, with y one-hot, mixed or smoothed labels: divided by N, not by the batch's
            weights as in ``nn.CrossEntropyLoss``, so that it does not depend on the number of processes. Needs a data
            module with ``class_counts`` (``class_weights.CountedData``).
        backbone_lr_ratio: learning rate of all layers but the ``head``, as a fraction of the optimizer's ``lr``.
        memory_format: of backbone and input, ``contiguous_format`` or ``channels_last``.
        compile: compile the backbone: False, True, or a mode of torch.compile such as ``reduce-overhead`` (CUDA
            graphs). State-dict keys do not change.
        nonfinite: what to do if a training loss is NaN or infinite. ``stop``: end the run with an error; on a GPU or
            with several processes up to ``trainer.log_every_n_steps`` batches later, but before a checkpoint is
            written. ``skip``: skip the optimizer step, with all batches accumulated for it: weights, optimizer state
            and batch norm's statistics do not change, while the schedule and ``global_step`` advance; each step then
            waits for the device. An epoch without a finite loss is an error.
        metrics: further torchmetrics by name, for validation and test. Each takes ``preds``, logits
            ``(N, num_classes)``, and ``target``, labels ``(N,)``, and returns one number.
        class_names: of the outputs, in order; used in reports and as keys of ``class_weights``.

    Attributes:
        description: plain values that describe the run; stored in every checkpoint.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        optimizer: Callable[[list[dict]], Optimizer],
        scheduler: Schedule | None = None,
        label_smoothing: float = 0.0,
        class_weights: str | Mapping[str, float] | None = None,
        backbone_lr_ratio: float = 1.0,
        memory_format: str = "contiguous_format",
        compile: bool | str = False,
        nonfinite: str = "stop",
        metrics: Mapping[str, Metric] | None = None,
        class_names: Sequence[str] | None = None,
    ):
        super().__init__()
        check_numerics(memory_format, compile)
        if nonfinite not in ("stop", "skip"):
            raise ValueError(f"nonfinite={nonfinite} is neither stop nor skip")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}; expected 0 or more, below 1, such as 0.1")
        check_lr_ratio(backbone_lr_ratio, backbone)
        if scheduler is not None:
            check_takes_total_steps(scheduler)
        self.num_classes, self.memory_format = num_classes, getattr(torch, memory_format)
        self.backbone = backbone.to(memory_format=self.memory_format)
        self.optimizer, self.scheduler = optimizer, scheduler
        self.label_smoothing, self.compile_mode = label_smoothing, compile
        self.backbone_lr_ratio = backbone_lr_ratio
        self.class_names = class_names or tuple(map(str, range(num_classes)))
        check_class_weights(class_weights, self.class_names)
        self.class_weights = class_weights
        self.register_buffer("loss_weights", torch.ones(num_classes) if class_weights else None, persistent=False)
        self.description: dict[str, Any] = {}
        self.restored_options: dict[str, Any] = {}  # options in effect of optimizer and schedule
        self._trained_by: dict[str, Any] = {}  # optimizer and schedule of the resumed checkpoint
        self.nonfinite, self.guard = nonfinite, NonFiniteGuard()
        self.train_metrics = nn.ModuleDict({"loss": Mean(), "top1": Mean()})
        # No compute groups: they merge metrics that agree on the first batch, as top1 and top5 may.
        scores = _scores(num_classes, metrics or {})
        self.val_metrics = MetricCollection(scores, prefix="val/", compute_groups=False)
        self.test_metrics = self.val_metrics.clone(prefix="test/")
        self.confusion = MulticlassConfusionMatrix(num_classes, validate_args=False)

    def compile_backbone(self) -> None:
        if self.compile_mode:
            self.backbone.compile(mode=self.compile_mode if isinstance(self.compile_mode, str) else None)

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.compile_backbone()

    def forward(self, images: Tensor) -> Tensor:
        """``(N, C, H, W)`` float, normalised → logits ``(N, num_classes)``."""
        return self.backbone(images.contiguous(memory_format=self.memory_format))

    def _step(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits and labels of one batch; does not wait for the device."""
        images, labels = batch
        logits = self(images)
        if logits.shape != (len(labels), self.num_classes):
            raise ValueError(
                f"the backbone returns {tuple(logits.shape)}; expected (N, num_classes) = ({len(labels)}, "
                f"{self.num_classes}): it needs a classification head of that size (include_top=true)"
            )
        return logits, labels

    def _training_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.loss_weights is not None:
            logits = logits.float()
            if labels.ndim == 1:  # for int64 labels, torch would divide by the weights of the batch
                labels = F.one_hot(labels, self.num_classes).float()
        return F.cross_entropy(logits, labels, self.loss_weights, label_smoothing=self.label_smoothing)

    def _evaluate(self, batch: tuple[Tensor, Tensor], metrics: MetricCollection) -> tuple[Tensor, Tensor]:
        logits, labels = self._step(batch)
        loss = F.cross_entropy(logits, labels)
        metrics.update(preds=logits, target=labels, total=loss * len(labels), images=len(labels))
        return logits, labels

    # Steps only update metrics; Lightning gets them once per epoch, computes and resets them.
    def on_train_epoch_start(self) -> None:
        self.log_dict({f"train/{name}": mean for name, mean in self.train_metrics.items()})

    def on_fit_start(self) -> None:
        if self.class_weights:
            counts = getattr(self.trainer.datamodule, "class_counts", None)
            if counts is None:
                raise ValueError(f"class_weights={self.class_weights} needs a data module with class_counts()")
            self.loss_weights.copy_(class_weights(self.class_weights, self.class_names, counts()))
        self.restored_options = restored_options(self)
        if self._trained_by:
            self.restored_options = check_optimization(self._trained_by, self)

    def on_train_start(self) -> None:
        if self._trained_by:
            check_epoch_length(self._trained_by, self._batches(), self)
        if self._within_an_epoch():  # a resumed run skips the start of this epoch
            self.on_train_epoch_start()

    def _batches(self) -> int:
        """Batches processed in this epoch."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.processed

    def _within_an_epoch(self) -> bool:
        return 0 < self._batches() < self.trainer.num_training_batches

    def on_validation_epoch_start(self) -> None:
        self.log_dict(self.val_metrics)

    def training_step(self, batch, batch_idx: int) -> Tensor:
        if self.nonfinite == "skip" and batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.guard.snapshot_buffers(self.backbone)
        logits, labels = self._step(batch)
        loss = self._training_loss(logits, labels)
        if labels.ndim == 2:  # mixed
            labels = labels.argmax(1)
        images, mean, hits = len(labels), loss.detach().float(), (logits.argmax(1) == labels).sum()
        if self.nonfinite == "skip":
            finite = mean.isfinite()
            images, mean, hits = images * finite, mean.where(finite, 0), hits * finite
            self.guard.observe(finite)
        self.train_metrics["loss"].update(mean * images, images)
        self.train_metrics["top1"].update(hits, images)
        # On a CPU, reading a number is free; a GPU would wait. log_every_n_steps=0 means never.
        every = 1 if self._on_one_cpu() else self.trainer.log_every_n_steps
        if every and (batch_idx + 1) % every == 0:
            self._check_loss(batch_idx + 1, self.trainer.global_step + 1)
        return loss

    def _on_one_cpu(self) -> bool:
        return self.device.type == "cpu" and self.trainer.world_size == 1

    def _check_loss(self, batch: int, step: int) -> None:
        if self.nonfinite == "stop":
            self.guard.check_loss(self.train_metrics["loss"].total, self.trainer, batch, step)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer, optimizer_closure=None) -> None:
        if self.nonfinite == "stop":
            return super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        loss = optimizer_closure()  # forward and backward, to decide; the step itself must not repeat them
        if self.guard.step_is_finite(self.backbone, self.trainer):
            optimizer.step(closure=lambda: loss)
        else:
            optimizer.zero_grad()

    def on_train_epoch_end(self) -> None:
        loss = self.trainer.callback_metrics.get("train/loss")
        if loss is not None and not loss.isfinite():
            step = self.trainer.global_step
            raise self.guard.error(f"train/loss is {loss.item()}", self.trainer, self._batches(), step)

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
        config = {"scheduler": scheduler, "interval": "step", "name": "lr"}
        if isinstance(scheduler, ReduceLROnPlateau):  # Lightning would step it after the epoch's checkpoint is written
            config |= {"interval": "epoch", "frequency": sys.maxsize, "monitor": "val/loss"}
        return {"optimizer": optimizer, "lr_scheduler": config}

    def on_validation_end(self) -> None:
        if isinstance(scheduler := self.lr_schedulers(), ReduceLROnPlateau) and not self.trainer.sanity_checking:
            scheduler.step(self.trainer.callback_metrics["val/loss"].item())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._check_loss(self._batches(), self.trainer.global_step)  # a diverged network never replaces a good one
        self.guard.check_weights(self.backbone, self.trainer, self._batches())
        checkpoint.update(self.description, trained_by=describe_optimization(self))
        if self.guard.skipped_steps:
            checkpoint["skipped_steps"] = self.guard.skipped_steps
        if self._within_an_epoch():
            reduce = partial(self.trainer.strategy.reduce, reduce_op="sum")
            checkpoint["partial_epoch"] = {
                name: (reduce(mean.total.clone()), reduce(mean.images.clone()))
                for name, mean in self.train_metrics.items()
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.guard.skipped_steps = checkpoint.get("skipped_steps", checkpoint.get("steps_left_out", 0))
        self._trained_by = checkpoint.get("trained_by", {})
        partial_epoch = checkpoint.get("partial_epoch", checkpoint.get("epoch_so_far", {}))  # older checkpoints
        if partial_epoch and self.trainer.is_global_zero:  # the first process continues from the sums of all
            for name, (total, images, *_) in partial_epoch.items():
                self.train_metrics[name].reset()
                self.train_metrics[name].update(total, images)


def _scores(num_classes: int, more: Mapping[str, Metric]) -> dict[str, Metric]:
    """The metrics of a validation or test: those in ``results.metrics.METRICS``, and ``more``."""

    def accuracy(**options: Any) -> Metric:  # arguments are not validated: that would wait for the device
        return MulticlassAccuracy(num_classes, average="micro", validate_args=False, **options)

    scores = {
        "loss": Mean(),
        "top1": accuracy(),
        **({"top5": accuracy(top_k=5)} if num_classes > 5 else {}),
        "f1_macro": MulticlassF1Score(num_classes, average="macro", validate_args=False),
    }
    for name, metric in more.items():
        if name in scores:
            raise ValueError(f"metrics.{name}: this name is taken; expected a name other than {', '.join(scores)}")
        check_metric(name, metric, num_classes)
    return scores | dict(more)


def check_metric(name: str, metric: Metric, num_classes: int) -> None:
    """Raise a ValueError for a metric that does not accept logits and labels, or does not return one number."""
    trial, labels = metric.clone(), torch.arange(num_classes)
    try:
        trial.update(preds=torch.eye(num_classes), target=labels)
        result = trial.compute()
    except Exception as error:
        raise ValueError(f"metrics.{name} fails for logits and labels of {num_classes} classes: {error}") from error
    if not isinstance(result, Tensor) or result.numel() != 1:
        raise ValueError(f"metrics.{name} returns {getattr(result, 'shape', type(result))}; expected one number")
