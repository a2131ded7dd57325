"""What would go wrong later is said before the first step, and the training is the same in every bit."""

import logging
import shutil
from collections import namedtuple

import pytest
import torch
from PIL import Image
from torch import nn

from datamodules import Synthetic
from lit_modules import numerics
from results import record as records
from results.errors import is_user_error
from tests.conftest import TINY
from tests.killed import SMALL, differences
from train import train

RUN = [*TINY, "logger=none", "callbacks.optimization=null"]
Usage = namedtuple("Usage", "total used free")


class Mislabelled(Synthetic):
    """One image of the training set has the given label."""

    def __init__(self, wrong=10, kind="int64", **options):
        super().__init__(**options)
        self.wrong, self.kind = wrong, kind

    def load(self, split):
        images = super().load(split)
        if images is not None:
            images.all_labels[7] = self.wrong
            images.all_labels = images.all_labels.to(getattr(torch, self.kind))
        return images


class Scaled(nn.Sequential):
    """Logits times a number."""

    def __init__(self, in_channels, num_classes, image_size, scale=1.0):
        super().__init__(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))
        self.scale = scale

    def forward(self, x):
        return super().forward(x) * self.scale


def answer(cfg):
    """The one line in which a training refuses to begin; nothing was trained."""
    with pytest.raises((ValueError, OSError)) as caught:
        train(cfg)
    assert is_user_error(caught.value)
    record = records.read(cfg.run_dir)
    assert record["status"] == "failed" and "\n" not in record["error"]
    return record["error"]


def replaced(part, name, **options):
    return [
        f"{part}._target_=tests.callbacks.test_sanity_checks.{name}",
        *(f"+{part}.{k}={v}" for k, v in options.items()),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wrong": 10}, "train has the label 10 with num_classes=10; expected 0 to 9"),
        ({"wrong": -1}, "train has the label -1 with num_classes=10; expected 0 to 9"),
        ({"wrong": 0, "kind": "uint8"}, "the labels of train are torch.uint8; expected torch.int64"),
    ],
)
def test_labels(options, message, composed):
    assert answer(composed(*RUN, *replaced("datamodule", "Mislabelled", **options))) == message


@pytest.mark.parametrize(
    ("name", "content"),
    [("cat.7.jpg", b"\xff\xd8" + b"x" * 100), ("dog.9.jpg", b"x" * 30_000)],  # the smallest; by name the last
)
def test_a_broken_file_is_found_although_no_epoch_has_come_to_it(name, content, contest, composed, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(contest.folder, folder)
    path = folder / "train" / name
    path.write_bytes(content)
    options = f"datamodule=cats_vs_dogs datamodule.data_dir={folder} datamodule.image_size=32 datamodule.batch_size=16"
    few = "num_workers=0 val_fraction=0.01 test_fraction=0.01".split()
    limits = "+trainer.limit_train_batches=1 +trainer.limit_val_batches=1 +trainer.num_sanity_val_steps=0"
    cfg = composed(*RUN[3:], *options.split(), *(f"datamodule.{f}" for f in few), *limits.split(), "model=lenet")
    assert answer(cfg).startswith(f"{path} cannot be read as an image")


@pytest.mark.parametrize("broken", ["empty", "no image"])
def test_what_is_wrong_with_the_test_set_is_found_before_the_training(broken, composed, tmp_path):
    folder = tmp_path / "data"
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for i in range(10 if part == "train" else broken == "no image"):
                Image.new("RGB", (8, 8)).save(folder / part / name / f"{i}.png")
    if broken == "no image":
        (folder / "test" / "dog" / "0.png").write_bytes(b"x")
    options = f"datamodule=image_folder datamodule.data_dir={folder} datamodule.image_size=32 datamodule.batch_size=8"
    said = answer(composed(*RUN[3:], *options.split(), "datamodule.num_workers=0", "model=lenet"))
    assert ("has no images for test" if broken == "empty" else "test/dog/0.png cannot be read as an image") in said
    assert not (tmp_path / "checkpoints").exists()


def test_the_disk(composed, monkeypatch):
    bytes_of_weights = 4 * (3 * 32 * 32 * 10 + 10)
    told = []

    def usage(path):
        told.append(path)
        return Usage(10**9, 0, 4 * bytes_of_weights - room)

    monkeypatch.setattr("callbacks.sanity_checks.shutil.disk_usage", usage)
    cfg = composed(*RUN, *replaced("model", "Scaled"))
    room = 1
    assert "has room for 0 MiB, and two checkpoints of this network need about 0 MiB" in answer(cfg)
    room = 0
    train(cfg)
    assert told[0].is_dir() and told[0].name != "checkpoints"  # that was not there yet


def test_a_network_that_gives_no_numbers(composed):
    said = answer(composed(*RUN, *replaced("model", "Scaled", scale=1e39)))
    assert said.startswith("the untrained network's output is NaN or infinite, with trainer.precision=32-true")


@pytest.mark.parametrize(("scale", "warned"), [(1.0, False), (300.0, True)])
def test_the_first_loss(scale, warned, composed, caplog):
    caplog.set_level(logging.WARNING)
    train(composed(*RUN, *replaced("model", "Scaled", scale=scale), "optimizer.lr=0"))
    lines = [record.message for record in caplog.records if "the first loss is" in record.message]
    assert len(lines) == warned
    if warned:
        assert "guessing among 10 classes has 2.3" in lines[0]


class Imbalanced(Synthetic):
    """Most images of band 1 are of band 0 instead."""

    def load(self, split):
        images = super().load(split)
        if split == "train":
            ones = (images.all_labels == 1).nonzero().squeeze(1)
            images.all_labels[ones[2:]] = 0
        return images


@pytest.mark.parametrize("remedy", ["", "lit_module.class_weights=balanced", "datamodule.sampling=balanced"])
def test_classes_of_very_different_sizes(remedy, composed, caplog):
    """Of 640 images, 64 a class: 62 more of band 0, of which a tenth is for validation."""
    caplog.set_level(logging.WARNING)
    options = [*TINY, *replaced("datamodule", "Imbalanced"), "datamodule.num_images=640", *filter(None, [remedy])]
    train(composed(*options, "+trainer.limit_train_batches=2"))
    lines = [record.message for record in caplog.records if record.message.startswith("imbalance")]
    expected = (
        "imbalance    train has 113 images of band 0 and 1 of band 1; look at val/f1_macro, and try "
        "lit_module.class_weights=balanced or datamodule.sampling=balanced"
    )
    assert lines == ([] if remedy else [expected])


def test_a_deep_network_with_batch_norm_is_no_cause_for_a_warning(composed, caplog):
    """In evaluation mode the first loss of this one would be in the thousands."""
    caplog.set_level(logging.WARNING)
    train(composed(*RUN, "model=resnet_cifar", "model.depth=56", "+trainer.limit_train_batches=1"))
    assert not [record for record in caplog.records if "the first loss is" in record.message]


def test_it_changes_no_bit(composed, tmp_path):
    """The network has dropout and batch norm, the data augmentation: whatever it drew or changed would show."""
    found = []
    for name, options in (("with", []), ("without", ["callbacks.preflight=null"])):
        train(composed(*SMALL, *options, f"run_dir={tmp_path / name}"))
        found.append(torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True))
    for key in ("state_dict", "optimizer_states"):
        assert differences(found[0][key], found[1][key]) == []
    generators = [checkpoint["callbacks"]["ResumeCheckpoint"]["generators"]["torch"] for checkpoint in found]
    assert torch.equal(*generators)


@pytest.mark.parametrize(
    ("precision", "device", "message"),
    [
        ("16-mixed", "cpu", "trainer.precision=16-mixed needs a GPU; expected 32-true or bf16-mixed on a CPU"),
        (16, "cpu", "trainer.precision=16 needs a GPU"),
        ("bf16-true", "cuda", "trainer.precision=bf16-true: images are float32; expected 32-true"),
        ("64-true", "cpu", "trainer.precision=64-true: images are float32"),
    ],
)
def test_a_precision_that_would_not_be_what_it_says(precision, device, message, composed):
    with pytest.raises(ValueError, match=message):
        numerics.check_precision(precision, device)
    if device == "cpu":
        assert message in answer(composed(*RUN, f"trainer.precision={precision}"))


@pytest.mark.parametrize("precision", ["32-true", 32, "bf16-mixed", "bf16"])
def test_a_precision_that_is(precision):
    numerics.check_precision(precision, "cpu")


@pytest.mark.parametrize("supported", [True, False])
@pytest.mark.parametrize(("device", "faster"), [("cpu", "32-true"), ("cuda", "16-mixed")])
def test_a_device_without_bfloat16(device, faster, supported, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    monkeypatch.setattr(numerics, "cpu_has_bfloat16", lambda: supported)
    numerics.check_precision("bf16-mixed", device)
    assert (f"only emulates bfloat16; {faster} is faster" in caplog.text) is not supported
    caplog.clear()
    numerics.check_precision("32-true", device)
    assert not caplog.text
