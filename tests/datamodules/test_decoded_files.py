"""Image files decoded once: when, with which pixels, and what is logged."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from datamodules import ImageFolder, decoded_files
from datamodules.decoded_files import DecodedFiles, smallest_side
from datamodules.image_files import ImageFiles
from datamodules.sampling import BatchKey
from tests.datamodules.test_image_files import write_images


def same(image):
    return image


def trainer(**options):
    """What a data module asks of a Trainer that fits."""
    strategy = SimpleNamespace(broadcast=lambda value: value, root_device=torch.device("cpu"))
    facts = {"max_epochs": 2, "limit_train_batches": 1.0, "num_devices": 1, "strategy": strategy, "training": True}
    state = SimpleNamespace(fn="fit")
    return SimpleNamespace(
        **facts | {"global_rank": 0, "world_size": 1, "overfit_batches": 0, "state": state} | options
    )


def fitted(folder, facts=None, **options):
    data = ImageFolder(str(folder), image_size=16, batch_size=4, **options)
    data.trainer = trainer(**facts or {})
    data.setup("fit")
    return data


@pytest.fixture
def folder(tmp_path):
    """Two classes of noise, 40 × 30 and 30 × 40."""
    generator = torch.Generator().manual_seed(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(12):
            size = (40, 30, 3) if number % 2 else (30, 40, 3)
            pixels = torch.randint(256, size, generator=generator, dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_validation_has_the_same_pixels_as_without(folder):
    once, each = fitted(folder), fitted(folder, cache="none")
    assert isinstance(once.sets["val"], DecodedFiles) and isinstance(each.sets["val"], ImageFiles)
    indices = torch.arange(len(each.sets["val"]))
    for ours, theirs in zip(once.fetch("val", indices), each.fetch("val", indices), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(once.sets["train"].labels, each.sets["train"].labels)
    assert once.fingerprints().keys() == each.fingerprints().keys()
    for split, value in once.fingerprints().items():
        assert torch.equal(value["files"], each.fingerprint(split)["files"])


def test_training_images_as_a_test_set_have_the_pixels_of_evaluation(folder):
    train = fitted(folder).sets["train"]
    assert train.images.shape[2:] == (40, 40)  # the files' larger side; crops of 8% of 16 pixels would need 57
    part = train.subset(torch.arange(4), False)
    assert isinstance(part, ImageFiles) and part[BatchKey(torch.arange(4))].images.shape == (4, 3, 16, 16)


def test_batches_are_crops_on_the_device_and_depend_on_no_worker(folder):
    batches = []
    for workers in (0, 2):
        data = fitted(folder, num_workers=workers)
        loaded = next(iter(data.train_dataloader()))
        assert loaded.images.shape == (4, 3, 40, 40)
        batches.append(data.on_after_batch_transfer(loaded, 0))
    (one, labels), (other, _) = batches
    assert one.shape == (4, 3, 16, 16) and torch.equal(one, other) and labels.shape == (4,)


def test_without_crops_training_has_the_pixels_of_evaluation(folder):
    once, each = fitted(folder, crop_scale=None), fitted(folder, crop_scale=None, cache="none")
    assert once.crop is None
    indices = torch.arange(5)
    assert torch.equal(once.fetch("train", indices)[0], each.fetch("train", indices)[0])


@pytest.mark.parametrize(
    ("crop_scale", "side"),
    [((0.25, 1.0), 32), ((1.0, 1.0), 16), ((0.01, 1.0), 40), (None, 16)],  # 16 / sqrt(scale), at most the files' 40
)
def test_the_smallest_side_that_crops_need(folder, crop_scale, side):
    files = fitted(folder, cache="none").sets["train"]
    assert smallest_side(files, 16, crop_scale) == side


AUTO = {  # what the trainer or the data is like → (chosen, what is logged)
    "epochs": ({"max_epochs": 2}, {}, 10**9, True, "decoded once 20 files, 0 MB, "),
    "one epoch": ({"max_epochs": 1}, {}, 10**9, False, None),
    "one batch": ({"limit_train_batches": 1}, {}, 10**9, False, None),
    "a part": ({"limit_train_batches": 0.5}, {}, 10**9, False, None),
    "transforms": ({}, {"image_transforms": {"upper": same}}, 10**9, False, "cache        none: image_transforms "),
    "no memory": ({}, {}, 200_000, False, "cache        none: the images need 0 MB, more than a third of the free "),
    "two processes": ({"num_devices": 2}, {}, 500_000, False, "cache        none: the images need "),
    "just enough": ({}, {}, 300_000, True, "decoded once 20 files"),
}


@pytest.mark.parametrize("case", AUTO)
def test_auto_decodes_once_if_it_is_worth_it_and_logs_it(case, folder, monkeypatch, caplog):
    facts, options, free, chosen, line = AUTO[case]
    caplog.set_level("INFO")
    monkeypatch.setattr(decoded_files, "free_memory", lambda: free)
    data = fitted(folder, facts, **options)
    assert isinstance(data.sets["train"], DecodedFiles) == chosen == (data.crop is not None)
    assert [message.startswith(line or "") for message in caplog.messages] == [True] * (line is not None)


def test_a_resumed_run_does_what_it_did_before(folder, monkeypatch):
    data = fitted(folder)
    files = {split: data.sets[split].files for split in ("train", "val")}
    for before, now in ((False, ImageFiles), (True, DecodedFiles)):
        data.trainer.ckpt_path, data.trainer.default_root_dir = "last.ckpt", "."
        data.load_state_dict({"epoch": 1, "batch": 2, "decoded_once": before, "splits": data.fingerprints()})
        assert all(isinstance(data.sets[split], now) for split in files)
        assert (data.crop is None) == (not before)
        loader = data.train_dataloader()
        assert (loader.sampler.epoch, loader.sampler.first) == (1, 2)
        assert data.fetch("val", torch.arange(2))[0].shape == (2, 3, 16, 16)


def test_a_broken_file_is_named_or_left_out(folder):
    (folder / "cat" / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cat/broken.jpg cannot be read as an image: .*\(datamodule.broken=skip"):
        fitted(folder, val_fraction=0.01, test_fraction=0.01)
    data = fitted(folder, broken="skip")
    data.setup("test")
    assert len(data.sets["train"]) + len(data.sets["val"]) + len(data.sets["test"]) == 24
    assert isinstance(data.sets["train"], DecodedFiles)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": "disk"}, "cache=disk; expected auto, memory or none"),
        (
            {"cache": "memory", "image_transforms": {"upper": same}},
            "cache=memory decodes files once, so image_transforms.upper would run only once; use cache=auto",
        ),
        ({"crop_scale": (0.5, 0.1)}, r"^crop_scale=\[0.5, 0.1\]: expected 0 < from <= to <= 1"),
    ],
)
def test_wrong_options_are_named(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ImageFolder(str(write_images(tmp_path, {"cat": 3, "dog": 3})), image_size=16, **options)


def test_free_memory_is_less_than_the_machine_has():
    assert 0 < decoded_files.free_memory() < 2**50
