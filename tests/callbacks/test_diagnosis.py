"""The diagnosis of a training: each fault made to happen, none in a healthy run, and no claim without the images."""

import copy
import re
from collections import Counter

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer, seed_everything
from torch import nn

from callbacks.chance import guessing, interval, judge
from callbacks.diagnosis import Diagnosis
from datamodules import ImageDataModule, TensorImages
from lit_modules import Classifier
from results import record as records
from results import summary

SIZE, PIXELS = 4, 16


class Given(ImageDataModule):
    """Noise; the class is which of the two halves is brighter, or with ``signal=False`` nothing that can be seen."""

    class_names, mean, std = ("upper", "lower"), (0.5,), (0.25,)

    def __init__(self, signal=True, counts=(256, 400), **options):
        super().__init__(2, 1, SIZE, seed=0, **options)
        self.signal, self.counts = signal, counts

    def load(self, split):
        count = self.counts[split == "val"]
        generator = torch.Generator().manual_seed(len(split))
        labels = torch.arange(count) % 2
        images = torch.randint(100, 156, (count, 1, SIZE, SIZE), generator=generator)
        if self.signal:
            images[labels == 0, :, :2] += 40
            images[labels == 1, :, 2:] += 40
        return TensorImages(images.to(torch.uint8), labels)


def mlp(*between, hidden=256):
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, hidden), *between, nn.ReLU(), nn.Linear(hidden, 2))


class Watch(Callback):
    """Everything that a probe could change, as it is at the end of training."""

    def on_train_end(self, trainer, pl_module):
        self.state = copy.deepcopy(pl_module.backbone.state_dict())
        self.modes = [module.training for module in pl_module.modules()]
        self.random = (torch.get_rng_state(), np.random.get_state()[1].copy())
        self.gradients = [p.grad is None for p in pl_module.parameters()]


def found(network, data=None, lr=0.1, epochs=3, callbacks=(), **options):
    """The findings of a training, which changed nothing by looking."""
    seed_everything(0, verbose=False)
    before, after, findings = Watch(), Watch(), Diagnosis()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[*callbacks, before, findings, after],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    backbone = network() if callable(network) and not isinstance(network, nn.Module) else network
    classifier = Classifier(backbone, 2, lambda g: torch.optim.SGD(g, lr=lr, momentum=0.9), class_names=("up", "low"))
    trainer.fit(classifier, datamodule=data or Given(batch_size=32))
    assert all(torch.equal(before.state[name], after.state[name]) for name in before.state)
    assert (before.modes, before.gradients) == (after.modes, after.gradients)
    assert all((ours == theirs).all() for ours, theirs in zip(before.random, after.random, strict=True))
    return findings.found


@pytest.mark.parametrize("network", [mlp, lambda: mlp(nn.BatchNorm1d(256), nn.Dropout(0.5))])
def test_a_healthy_training_has_none(network):
    assert found(network) == []


def test_nor_has_a_run(trained):
    assert records.read(trained)["findings"] == []


def test_a_healthy_network_is_asked_nothing(monkeypatch):
    def fail(*_):
        raise AssertionError("it was asked")

    for name in ("statistics_gap", "is_dead", "predicts_one_class"):
        monkeypatch.setattr(f"callbacks.diagnosis.{name}", fail)
    assert found(mlp) == []


def test_labels_that_do_not_belong_to_the_images():
    (said,) = found(mlp, Given(signal=False, counts=(64, 400), batch_size=32), epochs=60)
    assert re.match(r"val/top1 0\.\d+ on 400 images is no better than chance: always predicting up scores 0.5000", said)
    assert "but the network does not generalise: try a lower optimizer.lr (now 0.1), more training" in said
    assert said.endswith("if nothing helps, check that the labels belong to the images")


def test_a_network_that_learns_nothing():
    (said,) = found(mlp, Given(signal=False, batch_size=32), lr=0.0, epochs=15)
    assert (
        "train/top1 is 0.5000, at chance as well: the network learned nothing. Try a higher optimizer.lr (now 0.0)"
        in said
    )
    assert "labels" not in said and "pretrained" not in said


def test_weights_that_torchvision_has_are_a_remedy_unless_they_were_used():
    for published, expected in (("resnet18", True), (None, False)):
        network = mlp()
        network.published = published
        (said,) = found(network, Given(signal=False, batch_size=32), lr=0.0, epochs=15)
        assert ("pretrained weights (model.weights=DEFAULT)" in said) == expected


@pytest.mark.parametrize(("images", "limit", "luck"), [(40, None, "0.7750"), (400, 2, "0.7188")])
def test_of_few_images_it_claims_no_more_than_they_show(images, limit, luck):
    """It counts the images that were scored, which limit_val_batches may leave only two batches of."""
    (said,) = found(mlp, Given(signal=False, counts=(64, images), batch_size=32), epochs=60, limit_val_batches=limit)
    assert re.match(
        rf"{40 if images == 40 else 64} images are too few to distinguish val/top1 0\.\d+ from chance: always", said
    )
    assert (
        f"and up to {luck} could be luck; use more validation images to decide; a lower optimizer.lr (now 0.1)" in said
    )


def test_a_run_that_goes_on_when_its_training_is_over_finds_the_same(tmp_path):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 15}
    said, file = [], tmp_path / "last.ckpt"
    for ckpt_path in (None, file):
        seed_everything(0, verbose=False)
        findings, data = Diagnosis(), Given(signal=False, batch_size=32)
        trainer = Trainer(accelerator="cpu", callbacks=[findings], enable_checkpointing=False, **quiet)
        classifier = Classifier(mlp(), 2, lambda g: torch.optim.SGD(g, lr=0.0), class_names=("up", "low"))
        trainer.fit(classifier, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
        if ckpt_path is None:
            trainer.save_checkpoint(file)
        said.append(findings.found)
    assert "the network learned nothing" in said[0][0]
    assert said[0] == said[1]


def test_a_training_that_was_too_short():
    (said,) = found(mlp, Given(signal=False, batch_size=32), lr=1e-6, epochs=1)
    assert "8 steps are few" in said


def test_statistics_of_batch_norm_that_never_followed():
    class Shifted(nn.Module):
        def forward(self, x):
            return x + 50.0

    said = found(lambda: nn.Sequential(nn.Flatten(), Shifted(), nn.BatchNorm1d(PIXELS, momentum=0.0), nn.Linear(16, 2)))
    assert len(said) == 2
    assert "no better than chance" in said[0] and ";" not in said[0]  # the cause is the other one
    assert re.match("of 128 training images 1(28|27) are correct in training mode, [67]. in evaluation mode", said[1])
    assert "a larger datamodule.batch_size (now 32), more steps (now 24), or model.norm=group" in said[1]


def test_a_dead_network():
    network = mlp()
    network[1].bias.data.fill_(-1000.0)
    said = found(network, epochs=15)
    assert len(said) == 2
    assert "the logits are the same for all 32 training images: the ReLUs may be dead" in said[1]


def test_weights_without_a_gradient():
    class Cut(nn.Module):
        def forward(self, x):
            return x.detach() * 0 + torch.randn_like(x)  # alive to look at; it draws from the global generator

    said = found(lambda: mlp(Cut()), epochs=15, lr=1e-4)
    assert len(said) == 2
    assert said[1].startswith(
        "no gradient of 32 images reaches 89% of the weights, 1.weight among them"
    )  # 4352 of 4866


@pytest.mark.parametrize(("limit", "shown"), [(None, "128 of these 400"), (1, "these 32"), (4, "these 128")])
def test_one_class_for_all(limit, shown):
    network = mlp()
    network[-1].bias.data[1] = 100.0
    first, second = found(network, lr=0.0, epochs=1, limit_val_batches=limit)
    assert f"{shown.rpartition(' ')[2]} images" in first
    assert second == f"all of {shown} validation images are classified as low"


def test_a_collapse_after_a_good_epoch():
    class Break(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 3:
                for p in pl_module.parameters():
                    p.data.zero_()
                trainer.optimizers[0].param_groups[0]["lr"] = trainer.optimizers[0].param_groups[1]["lr"] = 0.0

    said = found(mlp, epochs=4, callbacks=[Break()])
    assert said[0] == "val/top1 fell from 1.0000, the best, to 0.5000, which is chance"
    assert "the logits are the same" in said[1]


def test_skipped_steps_are_reported():
    class LeftOut(Callback):
        def on_train_end(self, trainer, pl_module):
            pl_module.guard.skipped_steps = 3

    assert found(mlp, callbacks=[LeftOut()]) == ["3 of 24 steps were skipped: the loss was NaN or infinite"]


def test_without_a_validation_it_has_nothing_to_say():
    assert found(mlp, lr=0.0, limit_val_batches=0) == []


def test_guessing_by_hand():
    # Of ten guesses among two, 10 are right in 1 of 1024 trainings, 9 or more in 11.
    assert guessing(torch.tensor([1, 0] * 5 + [1]))[::3] == (6 / 11, 1)
    labels = torch.arange(10) % 2
    assert guessing(labels) == (0.5, 0.9, 10, 0)  # 11 of 1024 are not rare enough
    assert guessing(labels, tries=11).limit == 0.5  # nor is even the one, in one of eleven validations
    assert guessing(torch.arange(100) % 2, images=10).limit == 0.9
    assert guessing(torch.zeros(9, dtype=torch.int64)) == (1.0, 1.0, 9, 0)


def test_an_interval_holds_the_true_accuracy_in_99_of_100_samples():
    assert interval(0.5, 400) == pytest.approx((0.4423, 0.5577), abs=1e-4)  # Wilson by hand, z = 2.326
    assert interval(0.0, 10)[0] == 0 and interval(1.0, 10)[1] == 1
    for images, true in ((40, 0.5), (40, 0.75), (400, 0.1)):
        scores = np.random.default_rng(0).binomial(images, true, 4000) / images
        low, high = np.array([interval(score, images) for score in scores]).T
        assert (high < true).mean() < 0.02 and (low > true).mean() < 0.02


@pytest.mark.parametrize(
    ("images", "validations", "best", "now", "train", "verdict"),
    [
        (4000, 30, 0.5075, 0.5, "chance", "chance"),  # the ResNet-34 that this was made for
        (4000, 30, 0.5075, 0.5, "above", "chance"),
        (4000, 30, 0.75, 0.74, "above", None),
        (40, 30, 0.75, 0.65, "above", "unclear"),
        (40, 30, 0.75, 0.65, "unclear", "unclear"),
        (40, 30, 0.75, 0.65, "chance", "chance"),  # many training images show it
        (40, 30, 0.8, 0.7, "above", None),
        (40, 30, 0.375, 0.375, "above", "chance"),  # few images show it if the score is so low
        (400, 30, 0.9, 0.5, "above", "fell to chance"),
        (40, 30, 0.95, 0.5, "above", "fell"),
        (40, 30, 0.8, 0.55, "above", None),  # luck
        (6, 10, 1.0, 1.0, "above", None),
        (6, 10, 0.5, 0.5, "above", "unclear"),
    ],
)
def test_a_verdict_needs_the_images_that_support_it(images, validations, best, now, train, verdict):
    assert judge(torch.arange(images) % 2, validations, best, now, train) == verdict


def test_validation_images_of_one_class_show_nothing():
    assert judge(torch.ones(50, dtype=torch.int64), 3, 1.0, 1.0, "above") is None


@pytest.mark.parametrize("images", [20, 40, 100, 400])
@pytest.mark.parametrize("accuracy", [0.6, 0.75])
@pytest.mark.parametrize("alike", [True, False])
def test_a_network_that_has_learned_is_rarely_said_not_to_have(images, accuracy, alike):
    """Thirty validations of one network, which answers the same every time or anew."""
    scores = np.random.default_rng(0).binomial(images, accuracy, (500, 1 if alike else 30)) / images
    labels = torch.arange(images) % 2
    counts = Counter((row.max(), row[-1]) for row in scores)  # most rows have the same verdict as another
    claims = sum(n for pair, n in counts.items() if judge(labels, 30, *pair, "above") not in (None, "unclear"))
    assert claims <= 10  # 1 % of 500, and two deviations


@pytest.mark.parametrize("images", [400, 4000])
def test_a_network_that_guesses_is_found_out(images):
    scores = np.random.default_rng(0).binomial(images, 0.5, (200, 30)) / images
    labels = torch.arange(images) % 2
    assert sum(judge(labels, 30, row.max(), row[-1], "above") == "chance" for row in scores) > 180


@pytest.mark.parametrize("images", [6, 10, 24])
def test_a_small_healthy_training_has_none(images):
    assert found(mlp, Given(counts=(64, images), batch_size=16), epochs=10) == []


@pytest.mark.parametrize(("images", "tries"), [(100, 1), (1000, 10), (4000, 100)])
def test_guessing_is_rarely_more_than_luck(images, tries):
    limit = guessing(torch.arange(images) % 2, tries).limit
    best = np.random.default_rng(0).binomial(images, 0.5, (2000, tries)).max(1) / images
    assert 0 < (best > limit + 1e-6).mean() < 0.017  # 0.01 and three deviations of 2,000 draws


def test_scores_go_on_with_the_run():
    findings, other = Diagnosis(), Diagnosis()
    findings.best, findings.validations, findings.train = 0.9, 7, {"loss": 0.1, "top1": 0.95}
    other.load_state_dict(findings.state_dict())
    assert vars(other) == vars(findings)


def test_the_console_shows_them():
    record = {"metrics": {"test/top1": 0.5}, "images_per_second": None, "findings": ["one " * 40, "two"]}
    lines = summary.result(record, "val/top1", None, "run").splitlines()
    assert [line for line in lines if line.startswith("finding")][1] == "finding      two"
    assert max(map(len, lines)) <= 80
    config = {"seed": 0, "callbacks": {"ema": {"_target_": "callbacks.ema.EMA"}, "curves": None}}
    config["trainer"] = {
        "_target_": "lightning.Trainer",
        "max_epochs": 2,
        "profiler": {"_target_": "callbacks.null_profiler.NullProfiler"},
    }
    lines = summary.summary(config).splitlines()
    assert "trainer      Trainer max_epochs=2" in lines and "callbacks    ema" in lines
    config["trainer"]["profiler"]["_target_"] = "lightning.pytorch.profilers.PyTorchProfiler"
    assert "trainer      Trainer max_epochs=2 profiler=PyTorchProfiler" in summary.summary(config)
    assert not any("tensorboard" in line for line in lines)  # this run has no such files
