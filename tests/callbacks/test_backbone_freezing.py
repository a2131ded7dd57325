"""Fine-tuning: the head alone at first, then all, at a rate of its own for each; and going on after a stop."""

import copy
import logging
from types import SimpleNamespace

import pytest
import torch
import torchvision
from lightning import Callback
from PIL import Image
from torch import nn

import lit_modules
import train as script
from callbacks.backbone_freezing import BackboneFreezing
from inference import checkpoints
from lit_modules import Classifier
from tests.conftest import PLAIN

QUICK = (
    "trainer=cpu",
    "callbacks=finetune",
    *PLAIN,
    "datamodule=synthetic",
    "datamodule.num_images=96",
    "datamodule.batch_size=32",
    "datamodule.image_size=8",
    "model=resnet_cifar",
    "model.depth=8",
    "logger=none",
    "trainer.max_epochs=3",
)


class Watch(Callback):
    """Keeps the network's state at the start and after each epoch."""

    def __init__(self):
        self.epochs = []

    def on_fit_start(self, trainer, pl_module):
        self.epochs.append(copy.deepcopy(pl_module.backbone.state_dict()))

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs.append(copy.deepcopy(pl_module.backbone.state_dict()))


@pytest.fixture
def epochs(composed, monkeypatch):
    """A function that trains and returns the network's state at the start and after each epoch."""

    def of(*overrides):
        watch = Watch()
        monkeypatch.setattr(
            "callbacks.backbone_freezing.BackboneFreezing.on_fit_start",
            watched(BackboneFreezing.on_fit_start, watch.on_fit_start),
        )
        monkeypatch.setattr(
            "callbacks.backbone_freezing.BackboneFreezing.on_train_epoch_end",
            lambda self, *args: watch.on_train_epoch_end(*args),
        )
        script.train(composed(*QUICK, *overrides))
        return watch.epochs

    def watched(hook, more):
        def both(self, *args):
            hook(self, *args)
            more(*args)

        return both

    return of


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("ratio", [1, 0.5])
def test_at_first_only_the_head_changes_and_then_everything(ratio, epochs):
    start, first, second, _ = epochs(f"lit_module.backbone_lr_ratio={ratio}")
    assert changed(start, first) == {"fc.weight", "fc.bias"}
    assert changed(first, second) == set(start)  # batch norm's statistics too


def test_with_no_frozen_epoch_all_is_trained_from_the_first(epochs):
    start, first, *_ = epochs("callbacks.finetuning.frozen_epochs=0")
    assert changed(start, first) == set(start)


@pytest.mark.parametrize("stop", [1, 2])
def test_a_run_that_goes_on_after_a_stop_ends_with_the_same_bits(stop, epochs, tmp_path):
    rates = ("lit_module.backbone_lr_ratio=0.1", "scheduler=none", "callbacks.finetuning.frozen_epochs=1")
    whole = epochs(*rates)[-1]
    part = epochs(*rates, f"+trainer.max_steps={2 * stop}")  # two batches an epoch
    assert len(part) == 1 + stop
    rest = epochs(*rates, f"ckpt_path='{tmp_path}/checkpoints/last.ckpt'")
    assert len(rest) == 1 + 3 - stop
    assert not changed(whole, rest[-1])


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_the_backbones_rate_is_a_share_of_the_heads_through_the_schedule(schedule):
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    names = {p: name for name, p in network.named_parameters()}
    network.head = network[3]
    module = Classifier(
        network,
        num_classes=2,
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.5, weight_decay=0.1, momentum=0.9),
        scheduler=getattr(lit_modules, schedule),
        backbone_lr_ratio=0.1,
    )
    module._trainer = SimpleNamespace(estimated_stepping_batches=10, callbacks=[])
    found = module.configure_optimizers()
    optimizer, scheduler = found["optimizer"], found["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(9):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert max(rate[2] for rate in rates) == pytest.approx(0.5, rel=0.05)
    for rate in rates:
        assert rate == pytest.approx([rate[2] / 10, rate[2] / 10, rate[2], rate[2]])
    groups = {g["name"]: ([names[p] for p in g["params"]], g["weight_decay"]) for g in optimizer.param_groups}
    assert groups == {
        "backbone": (["0.weight"], 0.1),
        "backbone_gains": (["0.bias", "1.weight", "1.bias"], 0),
        "head": (["3.weight"], 0.1),
        "head_gains": (["3.bias"], 0),
    }


def on(world_size=1):
    return SimpleNamespace(world_size=world_size, max_epochs=5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BackboneFreezing(-1), "frozen_epochs=-1; expected 0 or more"),
        (lambda: BackboneFreezing(1).setup(on(2), None, "fit"), "expected trainer.devices=1, or frozen_epochs=0"),
        (lambda: BackboneFreezing(5).setup(on(), None, "fit"), "the backbone would never be trained; expected fewer"),
        (
            lambda: BackboneFreezing(1).freeze_before_training(SimpleNamespace(backbone=nn.Linear(1, 1))),
            "fine-tuning needs the head of Linear",
        ),
        (lambda: Classifier(nn.Linear(1, 2), 2, None, backbone_lr_ratio=0.1), "a backbone with an attribute head"),
        (lambda: Classifier(nn.Linear(1, 2), 2, None, backbone_lr_ratio=0), "backbone_lr_ratio=0; expected above 0"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_the_experiment_starts_from_a_file_and_leaves_a_checkpoint_that_needs_it_no_more(composed, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for kind, shade in (("dark", 40), ("light", 200)):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (40, 40), (shade + number,) * 3).save(tmp_path / "photos" / kind / f"{number}.png")
    start = torchvision.models.resnet50()
    torch.save(start.state_dict(), tmp_path / "resnet50.pth")
    small = ["datamodule.image_size=33", "datamodule.batch_size=4", "datamodule.num_workers=0", "trainer.max_epochs=2"]
    where = [f"datamodule.data_dir='{tmp_path}/photos'", f"model.weights='{tmp_path}/resnet50.pth'"]
    script.train(composed("experiment=finetune_resnet50", "trainer=cpu", "logger=none", *small, *where))
    (tmp_path / "resnet50.pth").unlink()
    network = checkpoints.load(tmp_path / "checkpoints" / "last.ckpt")
    assert network.class_names == ["dark", "light"]
    assert network(torch.full((1, 3, 40, 40), 50, dtype=torch.uint8)).shape == (1, 2)
    assert not torch.equal(network.backbone.conv1.weight, start.conv1.weight)
    assert "fc is new, for 2 classes instead of 1000" in caplog.text
