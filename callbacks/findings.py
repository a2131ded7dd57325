"""What is wrong with a training that ran through: found at its end, with the likely cause."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributions import Binomial
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from callbacks.probe import batch, logits, some, untouched

IMAGES = 128  # looked at, at most, where something is suspicious; never more at once than a batch, which fits
FEW = 100  # steps
ROUNDING = 1e-6  # of a score, which is float32
GAP = 0.2  # in accuracy, between training and evaluation mode; of 128 images noise makes 0.06


class Findings(Callback):
    """At the end of training, the reasons to doubt it, in words; none for a healthy one.

    The scores of the epochs are compared with what always saying the commonest class would get. Only where they are
    suspicious is the network asked anything: some images in both modes, and gradients; that changes nothing.

    Attributes:
        found: the sentences.
    """

    def __init__(self):
        self.found: list[str] = []
        self._looked = False
        self.best, self.validations = 0.0, 0
        self.train: dict[str, float] = {}
        self.val: dict[str, float] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self.val = _scores(trainer, "val")
            self.best, self.validations = max(self.best, self.val.get("top1", 0.0)), self.validations + 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.train = _scores(trainer, "train")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._looked:  # a run that goes on when its training is over: Lightning has torn down, and no train end
            pl_module.to(trainer.strategy.root_device)
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.found, self._looked = [], True
        if {"train", "val"} <= getattr(trainer.datamodule, "sets", {}).keys() and self.train and self.val:
            with untouched(pl_module.backbone):
                self._look(trainer, pl_module)
        if left_out := getattr(getattr(pl_module, "losses", None), "left_out", 0):
            self.found.append(f"{left_out} of {trainer.global_step} steps were left out: their loss was not finite")

    def _look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        sets, size = trainer.datamodule.sets, trainer.datamodule.batch_size * trainer.world_size
        labels = sets["val"].labels
        if trainer.num_val_batches:  # limit_val_batches takes the first; where no training began it is not known
            labels = labels[: int(sum(trainer.num_val_batches)) * size]
        chance, limit, commonest = at_chance(labels, self.validations)
        limit_of_one = at_chance(labels, 1)[1]
        train_labels = sets["train"].labels
        seen = min(len(train_labels), trainer.num_training_batches * size)
        learnt = self.train["top1"] > at_chance(train_labels, 1, seen)[1]
        now = self.val["top1"]
        at_chance_now = now - limit_of_one < ROUNDING
        lost = at_chance_now and self.best - limit < ROUNDING
        fell = at_chance_now and not lost and self.best - now > GAP
        apart = self.train["top1"] - now > GAP or not self.val["loss"] <= 2 * self.train["loss"] + 0.5  # or NaN
        reason = None
        if learnt and (lost or apart):
            reason = statistics_gap(trainer, pl_module)
        elif lost or fell:
            reason = dead(trainer, pl_module)
        if lost:
            name = pl_module.class_names[commonest]
            self.found.append(
                f"val/top1 {self.best:.4f} is no better than chance: always saying {name} is right for {chance:.4f} of "
                f"these {len(labels)} images"
                + (f", and up to {limit:.4f} could be luck" if limit > chance else "")
                + ("" if reason else f"; {self._cause(trainer, learnt)}")
            )
        elif fell:
            self.found.append(
                f"val/top1 fell from its best, {self.best:.4f}, to {now:.4f}, which is chance"
                + ("" if reason else "; try a lower optimizer.lr, or trainer.gradient_clip_val=1.0")
            )
        if reason is None and (lost or fell):
            reason = one_class(trainer, pl_module)
        if reason:
            self.found.append(reason)

    def _cause(self, trainer: Trainer, learnt: bool) -> str:
        """Of a network that is alive and says nothing better than chance."""
        if learnt:
            return (
                f"train/top1 is {self.train['top1']:.4f}: what it knows of its training images helps with no others; "
                "do the labels belong to the images? Else it takes more images, augmentation, or a smaller network"
            )
        if trainer.global_step < FEW:
            return (
                f"{trainer.global_step} steps are few: try a larger trainer.max_epochs, or a smaller "
                "datamodule.batch_size"
            )
        return (
            f"train/top1, {self.train['top1']:.4f}, is not either: it learnt nothing at all; optimizer.lr="
            f"{trainer.optimizers[0].defaults['lr']} may be too high or too low, or the labels do not belong to the "
            "images (debug=overfit shows whether this network can learn)"
        )

    def state_dict(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("best", "validations", "train", "val")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update(state_dict)


def _scores(trainer: Trainer, kind: str) -> dict[str, float]:
    """Loss and top-1 accuracy; empty where a LightningModule logs others."""
    names = [f"{kind}/{score}" for score in ("loss", "top1")]
    found = trainer.callback_metrics
    return {name.partition("/")[2]: found[name].item() for name in names} if found.keys() >= set(names) else {}


def at_chance(labels: Tensor, tries: int, seen: int | None = None) -> tuple[float, float, int]:
    """The accuracy of always saying the commonest class; what luck might make of it; that class.

    Luck: what guessing exceeds in less than one of a hundred trainings, where the best of so many ``tries`` counts; of
    so few images that it could make all of them right, nothing more than the first. ``seen``: how many images are
    scored, where it is not all of them.
    """
    counts, images = labels.bincount(), seen or len(labels)
    share = counts.max().item() / len(labels)
    hits = torch.arange(images + 1, dtype=torch.float64)
    exactly = Binomial(images, torch.tensor(share, dtype=torch.float64), validate_args=False).log_prob(hits).exp()
    at_least = exactly.flip(0).cumsum(0).flip(0)  # (images + 1,), the probability of so many hits or more
    rare = hits[at_least * max(1, tries) < 0.01]  # NaN, of one class, is not
    return share, (rare[0].item() - 1) / images if len(rare) else share, int(counts.argmax())


def statistics_gap(trainer: Trainer, pl_module: LightningModule) -> str | None:
    """Whether batch norm's running statistics spoil evaluation: the same training images in both modes."""
    norms = [m for m in pl_module.backbone.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    size = min(trainer.datamodule.batch_size, IMAGES)
    if not norms or size < 2:
        return None
    right = {True: 0, False: 0}
    parts = [part for part in some(trainer, "train", IMAGES).split(size) if len(part) == size]
    with torch.no_grad():
        for part in parts:
            images, labels = batch(trainer, "train", part)
            for training in right:
                pl_module.backbone.train(training)
                with untouched(pl_module.backbone):  # one mode must not change the statistics of the other
                    found = logits(trainer, pl_module, images)
                right[training] += (found.argmax(1) == labels).sum().item()
    seen = size * len(parts)
    if right[True] - right[False] <= GAP * seen:
        return None
    return (
        f"of {seen} training images {right[True]} are right in training mode, {right[False]} in evaluation mode: batch "
        f"norm's running statistics are not those of the batches; try a larger datamodule.batch_size (now {size}), "
        f"more steps (there were {trainer.global_step}), or model.norm=group"
    )


def dead(trainer: Trainer, pl_module: LightningModule) -> str | None:
    """Whether nothing can be learnt any more: the same answer to every image, or weights without a gradient."""
    backbone = pl_module.backbone
    images, labels = batch(trainer, "train", some(trainer, "train", min(trainer.datamodule.batch_size, IMAGES // 4)))
    backbone.eval()
    with torch.no_grad():
        found = logits(trainer, pl_module, images)
    causes = "its ReLUs may be dead: try a lower optimizer.lr, or a warm-up"
    if len(found) > 1 and (found - found[0]).abs().max() <= 1e-6 * found.abs().max():
        return f"the logits are the same for all of {len(found)} training images: {causes}"
    backbone.train()
    named = [(name, p) for name, p in backbone.named_parameters() if p.requires_grad]
    with torch.enable_grad():
        loss = F.cross_entropy(logits(trainer, pl_module, images), labels) * 1024  # so that float16 makes nothing zero
        gradients = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
    without = [(name, p) for (name, p), g in zip(named, gradients, strict=True) if g is None or not g.any()]
    share = sum(p.numel() for _, p in without) / sum(p.numel() for _, p in named)
    if share > 0.5:
        return f"no gradient reaches {share:.0%} of the weights, {without[0][0]} among them: {causes}"
    return None


def one_class(trainer: Trainer, pl_module: LightningModule) -> str | None:
    """Whether every image is said to be of one class, where they are not."""
    pl_module.backbone.eval()
    parts = [
        batch(trainer, "val", part) for part in some(trainer, "val", IMAGES // 2).split(trainer.datamodule.batch_size)
    ]
    labels = torch.cat([labels for _, labels in parts])
    with torch.no_grad():
        said = torch.cat([logits(trainer, pl_module, images).argmax(1) for images, _ in parts])
    if len(labels.unique()) == 1 or len(said.unique()) > 1:
        return None
    return f"all of {len(said)} validation images are called {pl_module.class_names[int(said[0])]}"
