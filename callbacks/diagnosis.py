"""Diagnose a training that finished without an error but did not learn, and suggest remedies."""

from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks.chance import GAP, Guessing, guessing, interval, judge
from callbacks.contracts import ImageClassifier
from callbacks.probe import eval_batch, fixed_indices, forward_logits, preserve_state

IMAGES = 128  # run through the network at most, in training-sized batches, which fit into memory
FEW_STEPS = 100
TINY = 1e-5  # a learning rate
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Diagnosis(Callback):
    """At the end of training, explain in plain sentences why a network did not learn; a healthy run has none.

    Accuracies are compared with guessing, and only claims that the number of images supports are made. If the
    accuracies are suspicious, the network is run on some images, in both modes and for gradients; the state of the
    network is restored.

    Attributes:
        found: the sentences.
    """

    def __init__(self):
        self.found: list[str] = []
        self._done = False
        self.best, self.validations = 0.0, 0
        self.train: dict[str, float] = {}
        self.val: dict[str, float] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: ImageClassifier) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self.val = _scores(trainer, "val")
            self.best, self.validations = max(self.best, self.val.get("top1", 0.0)), self.validations + 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: ImageClassifier) -> None:
        self.train = _scores(trainer, "train")

    def on_fit_end(self, trainer: Trainer, pl_module: ImageClassifier) -> None:
        if not self._done:  # a resumed run had finished training: Lightning skips on_train_end and has torn down
            pl_module.to(trainer.strategy.root_device)
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: ImageClassifier) -> None:
        self.found, self._done = [], True
        if {"train", "val"} <= getattr(trainer.datamodule, "sets", {}).keys() and self.train and self.val:
            with preserve_state(pl_module.backbone):
                self._diagnose(trainer, pl_module)
        if skipped := getattr(getattr(pl_module, "guard", None), "skipped_steps", 0):
            steps = f"{skipped} of {trainer.global_step} steps {'was' if skipped == 1 else 'were'} skipped"
            self.found.append(f"{steps}: the loss was NaN or infinite")

    def _diagnose(self, trainer: Trainer, pl_module: ImageClassifier) -> None:
        sets, size = trainer.datamodule.sets, trainer.datamodule.batch_size * trainer.world_size
        labels, train_labels = sets["val"].labels, sets["train"].labels
        if trainer.num_val_batches:  # limit_val_batches takes the first; unknown if no training began
            labels = labels[: int(sum(trainer.num_val_batches)) * size]
        seen = min(len(train_labels), trainer.num_training_batches * size)
        now, train_top1 = self.val["top1"], self.train["top1"]
        train = guessing(train_labels, images=seen).compare(train_top1)
        verdict = judge(labels, self.validations, self.best, now, train)
        train_val_gap = train_top1 - now > GAP or not self.val["loss"] <= 2 * self.train["loss"] + 0.5  # or NaN
        cause = None
        if train == "above" and (verdict in ("chance", "unclear") or train_val_gap):
            cause = statistics_gap(trainer, pl_module)
        elif verdict:
            cause = is_dead(trainer, pl_module)
            if cause and verdict == "unclear":
                verdict = "chance"
        if verdict:
            symptom = self._symptom(verdict, guessing(labels, self.validations), pl_module.class_names)
            self.found.append(symptom if cause else f"{symptom}; {self._remedy(trainer, pl_module, verdict, train)}")
            cause = cause or predicts_one_class(trainer, pl_module, len(labels))
        if cause:
            self.found.append(cause)

    def _symptom(self, verdict: str, chance: Guessing, class_names: list[str]) -> str:
        """The sentence about the validation scores."""
        if verdict.startswith("fell"):
            end = ", which is chance" if verdict == "fell to chance" else f" on {chance.images} images"
            return f"val/top1 fell from {self.best:.4f}, the best, to {self.val['top1']:.4f}{end}"
        always = f"always predicting {class_names[chance.answer]} scores {chance.share:.4f}"
        luck = f", and up to {chance.limit:.4f} could be luck" if chance.limit > chance.share else ""
        if verdict == "chance":
            return f"val/top1 {self.best:.4f} on {chance.images} images is no better than chance: {always}{luck}"
        return f"{chance.images} images are too few to distinguish val/top1 {self.best:.4f} from chance: {always}{luck}"

    def _remedy(self, trainer: Trainer, pl_module: ImageClassifier, verdict: str, train: str) -> str:
        """Remedies if the network can learn, the likeliest first."""
        score, steps = f"train/top1 is {self.train['top1']:.4f}", trainer.global_step
        lr = trainer.optimizers[0].defaults["lr"]
        lr = f"a {'higher' if lr <= TINY else 'lower'} optimizer.lr (now {lr})"
        published = getattr(pl_module.backbone, "published", None)
        pretrained = "pretrained weights (model.weights=DEFAULT), " if published else ""
        if verdict.startswith("fell"):
            return f"try {lr}, a warm-up, or trainer.gradient_clip_val=1.0"
        if steps < FEW_STEPS and train != "above":
            more = "a larger trainer.max_epochs, or a smaller datamodule.batch_size"
            few = "1 step is too few" if steps == 1 else f"{steps} steps are few"
            return f"{few}: try {pretrained}{more}"
        if verdict == "unclear":
            return f"use more validation images to decide; {lr}, {pretrained}or more training images may help"
        if train == "above":
            return (
                f"{score}, but the network does not generalise: try {lr}, {pretrained}more training "
                "images, augmentation, or a smaller network; if nothing helps, check that the labels belong to the "
                "images"
            )
        learned = "at chance as well: the network learned nothing" if train == "chance" else "not clearly better"
        return (
            f"{score}, {learned}. Try {lr}, {pretrained}or more steps; "
            "debug=overfit shows whether this network can learn at all"
        )

    def state_dict(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("best", "validations", "train", "val")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)


def _scores(trainer: Trainer, split: str) -> dict[str, float]:
    """Loss and top-1 accuracy; empty if the LightningModule does not log them."""
    names = [f"{split}/{score}" for score in ("loss", "top1")]
    metrics = trainer.callback_metrics
    return {name.partition("/")[2]: metrics[name].item() for name in names} if metrics.keys() >= set(names) else {}


def statistics_gap(trainer: Trainer, pl_module: ImageClassifier) -> str | None:
    """A sentence if batch norm's running statistics spoil evaluation, judged on training images in both modes."""
    norms = [m for m in pl_module.backbone.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]
    parts = _batches(trainer, fixed_indices(trainer, "train", IMAGES))
    if not norms or len(parts[0]) < 2:
        return None
    correct: dict[bool, list[Tensor]] = {True: [], False: []}
    with torch.no_grad():
        for part in parts:
            images, labels = eval_batch(trainer, "train", part)
            for mode in correct:
                pl_module.backbone.train(mode)
                with preserve_state(pl_module.backbone):  # training mode must not change the statistics
                    correct[mode].append(forward_logits(trainer, pl_module, images).argmax(1) == labels)
    training, evaluation = (torch.cat(parts) for parts in correct.values())
    lost, gained = (training & ~evaluation).sum().item(), (evaluation & ~training).sum().item()
    # If both modes were equally good, half of the differing images would be lost.
    if lost - gained <= GAP * len(training) or interval(lost / (lost + gained), lost + gained)[0] <= 0.5:
        return None
    return (
        f"of {len(training)} training images {training.sum()} are correct in training mode, {evaluation.sum()} in "
        "evaluation mode: batch norm's running statistics differ from those of the batches; try a larger "
        f"datamodule.batch_size (now {trainer.datamodule.batch_size}), more steps (now {trainer.global_step}), "
        "or model.norm=group"
    )


def is_dead(trainer: Trainer, pl_module: ImageClassifier) -> str | None:
    """A sentence if the network can no longer learn: equal outputs for all images, or weights without a gradient."""
    backbone, remedy = pl_module.backbone, "the ReLUs may be dead: try a lower optimizer.lr, or a warm-up"
    parts = [
        eval_batch(trainer, "train", part) for part in _batches(trainer, fixed_indices(trainer, "train", IMAGES // 4))
    ]
    backbone.eval()
    with torch.no_grad():
        logits = torch.cat([forward_logits(trainer, pl_module, images) for images, _ in parts])
    if len(logits) > 1 and (logits - logits[0]).abs().max() <= 1e-6 * logits.abs().max():
        return f"the logits are the same for all {len(logits)} training images: {remedy}"
    backbone.train()
    weights = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
    reached = set()
    for images, labels in parts:
        with torch.enable_grad():
            # Small gradients underflow in float16.
            loss = F.cross_entropy(forward_logits(trainer, pl_module, images), labels) * 1024
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        reached |= {name for name, g in zip(weights, gradients, strict=True) if g is not None and g.any()}
    sizes = {name: p.numel() for name, p in weights.items() if name not in reached}
    share = sum(sizes.values()) / sum(p.numel() for p in weights.values())
    if share > 0.5:
        first = next(iter(sizes))
        return f"no gradient of {len(logits)} images reaches {share:.0%} of the weights, {first} among them: {remedy}"
    return None


def predicts_one_class(trainer: Trainer, pl_module: ImageClassifier, count: int) -> str | None:
    """A sentence if all of the first ``count`` validation images, or a sample of them, get the same class."""
    order = fixed_indices(trainer, "val", len(trainer.datamodule.sets["val"]))
    indices = order[order < count][:IMAGES]
    parts = [eval_batch(trainer, "val", part) for part in indices.split(trainer.datamodule.batch_size)]
    pl_module.backbone.eval()
    with torch.no_grad():
        answers = torch.cat([forward_logits(trainer, pl_module, images).argmax(1) for images, _ in parts])
    if len(torch.cat([labels for _, labels in parts]).unique()) == 1 or len(answers.unique()) > 1:
        return None
    sample = "" if len(answers) == count else f"{len(answers)} of "
    return f"all of {sample}these {count} validation images are classified as {pl_module.class_names[int(answers[0])]}"


def _batches(trainer: Trainer, indices: Tensor) -> list[Tensor]:
    """Split indices into equal parts of at most a batch; a smaller rest, whose statistics would differ, is dropped."""
    size = min(trainer.datamodule.batch_size, len(indices))
    return [part for part in indices.split(size) if len(part) == size]
