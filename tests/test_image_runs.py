"""Runs on image files: classes that are numbers, data that change, checkpoints from before splits by name."""

import csv
import json
import logging
import shutil

import pytest
import torch
from PIL import Image

from evaluate import evaluate
from inference import checkpoints
from predict import predict
from results import record as records
from results.errors import is_user_error
from tests.conftest import PLAIN, SCORED, compose_in
from tests.datamodules.test_image_files import write_images
from train import train

OPTIONS = [
    *"datamodule=image_folder datamodule.image_size=16 datamodule.batch_size=16 datamodule.num_workers=0".split(),
    *"model=lenet trainer=cpu trainer.max_epochs=1 logger=none".split(),
    *PLAIN,
]
NAMES = [str(n) for n in range(12)]


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """(the folder of a run on classes 0 to 11, the images' folder)."""
    folder = tmp_path_factory.mktemp("numbered")
    images = write_images(folder / "images", dict.fromkeys(NAMES, 9))
    train(compose_in(folder / "run", [*OPTIONS, f"datamodule.data_dir={images}", "optimizer.lr=0.01"], "train"))
    return folder / "run", images


@pytest.fixture
def copied(numbered, tmp_path):
    """(such a run, its images) that a test may change; the checkpoint names the copy."""
    run, images = (shutil.copytree(path, tmp_path / path.name) for path in numbered)
    for file in (run / "checkpoints").glob("*.ckpt"):
        content = torch.load(file, weights_only=True)
        content["datamodule"]["data_dir"] = str(images)
        torch.save(content, file)
    return run, images


@pytest.fixture
def scored(composed, tmp_path):
    """A function that evaluates, and returns what it wrote."""

    def run(*overrides):
        evaluate(composed(*SCORED, *overrides, config_name="evaluate"))
        return json.loads((tmp_path / "metrics.json").read_text())

    return run


def edit(run, change):
    """Change what the run's checkpoints hold."""
    for file in (run / "checkpoints").glob("*.ckpt"):
        content = torch.load(file, weights_only=True)
        change(content)
        torch.save(content, file)


def warnings_in(caplog):
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def make_old(content):
    """As before classes were sorted naturally and splits were by name: outputs in plain order, no fingerprints."""
    order = sorted(range(12), key=str)
    content["class_names"] = [content["class_names"][label] for label in order]
    for name in ("weight", "bias"):
        content["state_dict"][f"backbone.fc3.{name}"] = content["state_dict"][f"backbone.fc3.{name}"][order]
    del content["ImageFolder"]["splits"]


def test_every_use_of_a_checkpoint_has_the_same_classes(numbered, composed, scored, tmp_path):
    run, images = numbered
    network = checkpoints.load(run)
    assert network.class_names == NAMES
    files = [images / "10" / "0.jpg", images / "2" / "0.jpg"]
    expected = network(files).argmax(1).tolist()
    rows = {}
    for labels in ("number", "name"):
        where = (f"ckpt={run}", f"images={images / '10'}", f"output={tmp_path / 'p.csv'}", f"labels={labels}")
        predict(composed("trainer=cpu", *where, config_name="predict"))
        rows[labels] = {row["id"]: row["label"] for row in csv.DictReader((tmp_path / "p.csv").open())}
    assert rows["number"]["0"] == str(expected[0])
    assert {key: NAMES[int(label)] for key, label in rows["number"].items()} == rows["name"]
    found = scored(f"ckpt={run}")
    before = {name: value for name, value in records.read(run)["metrics"].items() if name.startswith("test/")}
    assert {name: found["metrics"][name] for name in before} == before
    assert [name.rpartition("/")[2] for name in before if "accuracy" in name] == NAMES
    assert (found["changes_since_training"], found["seen_in_training"]) == ({}, 0)


def test_a_network_classifies_files_as_it_does_tensors(numbered):
    run, images = numbered
    network, files = checkpoints.load(run), [images / "3" / "1.jpg", images / "11" / "2.jpg"]
    both = network(files)
    assert both.shape == (2, 12) and torch.allclose(both.sum(1), torch.ones(2))
    torch.testing.assert_close(network(str(files[0])), both[:1])
    torch.testing.assert_close(network(files[1]), both[1:])
    torch.testing.assert_close(network(tuple(map(str, files))), both)
    from datamodules.decoding import read_image

    torch.testing.assert_close(network(torch.stack([read_image(str(file)) for file in files])), both)
    with pytest.raises(ValueError, match="nowhere.jpg cannot be read as an image"):
        network([files[0], "nowhere.jpg"])
    with pytest.raises(ValueError, match="there are no files to classify"):
        network([])


def test_a_checkpoint_in_plain_order_is_used_in_its_own_order(numbered, copied, scored, composed, caplog, tmp_path):
    before = records.read(numbered[0])["metrics"]
    edit(copied[0], make_old)
    found = scored(f"ckpt={copied[0]}")
    for name in ("test/top1", "test/accuracy/10", "test/accuracy/2"):
        assert found["metrics"][name] == before[name]
    assert found["metrics"]["test/loss"] == pytest.approx(before["test/loss"])
    other = ["datamodule=image_folder", f"datamodule.data_dir={copied[1]}", "datamodule.image_size=16"]
    found = scored(f"ckpt={copied[0]}", *other, "datamodule.num_workers=0")
    assert found["metrics"]["test/accuracy/10"] == before["test/accuracy/10"]
    lines = [message for message in caplog.messages if "the training images are unknown" in message]
    assert len(lines) == 2 and found["seen_in_training"] is None
    assert "test images may be training images" in lines[0]
    last = copied[0] / "checkpoints" / "last.ckpt"
    again = [f"ckpt_path={last}", "trainer.max_epochs=2", f"run_dir={tmp_path / 'new'}"]
    train(composed(*OPTIONS, f"datamodule.data_dir={copied[1]}", *again))
    assert checkpoints.load(tmp_path / "new").class_names == sorted(NAMES)
    assert "older than splits by file name, so test images may have been training images" in caplog.text


def test_evaluate_reports_what_has_changed_and_what_was_trained_on(numbered, copied, scored, caplog):
    run, images = copied
    Image.new("RGB", (12, 10), "red").save(images / "0" / "new.jpg")
    (images / "1" / "0.jpg").rename(images / "1" / "renamed.jpg")
    found = scored(f"ckpt={run}")
    changes = found["changes_since_training"]
    (line,) = (message for message in caplog.messages if "the images have changed since the training" in message)
    assert changes and all(change in line for change in changes.values())
    assert sum(int(change.split("(")[1].split()[0]) for change in changes.values()) == 2  # new: two, in whichever split
    assert found["seen_in_training"] == 0 and "were training images" not in line
    caplog.clear()
    found = scored(f"ckpt={run}", "+datamodule.seed=1")
    assert found["seen_in_training"] > found["images"] / 2
    assert f"{found['seen_in_training']} of the {found['images']} test images were training images" in caplog.text
    caplog.clear()
    other = ["datamodule=image_folder", f"datamodule.data_dir={images}", "datamodule.image_size=16", "seed=1"]
    found = scored(f"ckpt={run}", *other, "datamodule.num_workers=0", "datamodule.test_fraction=1")
    assert found["images"] == 109 and found["seen_in_training"] > 60 and found["changes_since_training"] == {}
    write_images(images.parent / "others", dict.fromkeys(NAMES, 9), size=(30, 20))
    caplog.clear()
    found = scored(f"ckpt={run}", *other[:1], f"datamodule.data_dir={images.parent / 'others'}", *other[2:])
    assert (found["changes_since_training"], found["seen_in_training"], warnings_in(caplog)) == ({}, 0, [])


def test_the_same_run_refuses_other_images_and_a_new_one_names_them(copied, composed, caplog, tmp_path):
    run, images = copied
    last = run / "checkpoints" / "last.ckpt"
    again = [*OPTIONS, f"datamodule.data_dir={images}", "trainer.max_epochs=2", f"ckpt_path={last}"]
    (images / "5" / "0.jpg").unlink()
    with pytest.raises(ValueError) as caught:
        train(composed(*again, f"run_dir={run}"))
    said = records.one_line(caught.value)
    assert is_user_error(caught.value) and said.startswith(f"the images are not those that {last} was trained on: ")
    assert "images (0 new, 1 gone)" in said and "restore them, or continue in a new run" in said
    train(composed(*again, f"run_dir={tmp_path / 'new'}"))
    (line,) = (message for message in caplog.messages if "the images are not those" in message)
    assert "images (0 new, 1 gone)" in line
    assert records.read(tmp_path / "new")["epochs"] == 2
    edit(run, lambda content: content["ImageFolder"].pop("splits"))
    with pytest.raises(ValueError, match="older than splits by file name"):
        train(composed(*again, f"run_dir={run}"))


def test_folders_of_their_own_keep_a_score_comparable(composed, scored, tmp_path, caplog):
    images = tmp_path / "images"
    for part, count in {"train": 16, "val": 4, "test": 4}.items():
        write_images(images / part, {"cat": count, "dog": count})
    train(composed(*OPTIONS, f"datamodule.data_dir={images}", f"run_dir={tmp_path / 'run'}"))
    edit(tmp_path / "run", lambda content: content["ImageFolder"].pop("splits"))  # from before
    (images / "train" / "cat" / "0.jpg").unlink()
    caplog.clear()
    found = scored(f"ckpt={tmp_path / 'run'}")
    assert (found["changes_since_training"], found["seen_in_training"], warnings_in(caplog)) == ({}, None, [])
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    train(
        composed(
            *OPTIONS,
            f"datamodule.data_dir={images}",
            f"run_dir={tmp_path / 'run'}",
            "trainer.max_epochs=2",
            f"ckpt_path={last}",
        )
    )
    assert [message for message in caplog.messages if "images are not" in message] == []


def test_images_in_memory_are_compared_by_number_and_labels(composed, tmp_path):
    tiny = "datamodule=synthetic datamodule.image_size=16 datamodule.batch_size=16 datamodule.num_images=40".split()
    options = [*tiny, *OPTIONS[4:]]
    train(composed(*options))
    again = [f"ckpt_path={tmp_path}/checkpoints/last.ckpt", "trainer.max_epochs=2"]
    with pytest.raises(ValueError, match="train 30 → 50 images"):
        train(composed(*options, *again, "datamodule.num_images=60"))
    train(composed(*options, *again))


def test_resume_refuses_images_that_have_changed_in_one_line(forks, tmp_path):
    images = write_images(tmp_path / "images", {"cat": 30, "dog": 30})
    done = forks("train.py", *OPTIONS, f"datamodule.data_dir={images}", "hydra.run.dir=run", cwd=tmp_path)
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    (tmp_path / "run" / "result.json").write_text(json.dumps(record | {"status": "running"}))
    Image.new("RGB", (8, 8)).save(images / "cat" / "new.jpg")
    before = (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes()
    done = forks("train.py", "resume=run", cwd=tmp_path)
    assert done.code == 2 and done.err.count("\n") == 1, done.err
    assert done.err.startswith("error: the images are not those that ") and "(1 new, 0 gone)" in done.err
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").read_bytes() == before
    (images / "cat" / "new.jpg").unlink()
    done = forks("train.py", "resume=run", cwd=tmp_path)
    assert done.code == 0, done.err
