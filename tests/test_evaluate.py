"""Evaluation: the metrics of a run again, exactly; and what a run does not say."""

import csv
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from PIL import Image
from torchmetrics.functional.classification import multiclass_calibration_error

from callbacks.calibration import ReliabilityPlot, reliability
from callbacks.plots import most_confident_errors
from datamodules import Digits, fashion_mnist
from evaluate import check, evaluate
from inference import checkpoints, evaluation_files
from launch import run_names
from results import record as records
from results.errors import is_user_error, report_error
from train import train

ROOT = Path(__file__).parent.parent


@pytest.fixture
def scored(composed, tmp_path):
    """A function that evaluates, and returns what ``metrics.json`` says."""

    def evaluated(*overrides, pictures=False):
        drawers = () if pictures else ("confusion_matrix", "reliability", "mistakes")
        quick = [f"callbacks.{name}=null" for name in drawers]
        top1 = evaluate(composed("trainer=cpu", *quick, *overrides, config_name="evaluate"))
        found = json.loads((tmp_path / "metrics.json").read_text())
        assert found["metrics"][f"{found['split']}/top1"] == top1
        return found

    return evaluated


def of_split(metrics, split):
    return {name: value for name, value in metrics.items() if name.startswith(f"{split}/")}


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_a_run_on_digits_gets_exactly_its_own_metrics_and_these_files(trained, scored, tmp_path, capsys):
    found = scored(f"ckpt={trained}", pictures=True)
    expected = of_split(records.read(trained)["metrics"], "test")
    assert len(expected) == 4 + 10
    assert {name: found["metrics"][name] for name in expected} == expected
    assert set(found["metrics"]) - set(expected) == {"test/ece"}
    facts = {key: found[key] for key in ("data", "split", "images", "tta", "precision")}
    assert facts == {"data": "Digits", "split": "test", "images": 382, "tta": None, "precision": "32-true"}
    pictures = ["confusion_matrix.png", "mistakes.png", "reliability.png"]
    tables = ["classes.csv", "images.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*pictures, *tables, "metrics.json"])
    for name in pictures:
        assert pixels(tmp_path / name).std() > 20, f"{name} is blank"


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_tables_have_each_class_and_each_image(trained, scored, tmp_path):
    metrics = scored(f"ckpt={trained}")["metrics"]
    test = Digits(10, 1, 32).load("test")
    expected = checkpoints.load(trained)(test.images)
    images = table(tmp_path / "images.csv")
    assert [row["index"] for row in images] == [str(index) for index in range(382)]
    assert [row["true"] for row in images] == [str(label) for label in test.labels.tolist()]
    assert [row["predicted"] for row in images] == [str(label) for label in expected.argmax(1).tolist()]
    found = torch.tensor([[float(row[f"probability_{label}"]) for label in range(10)] for row in images])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert [float(row["probability"]) for row in images] == pytest.approx(found.max(1).values.tolist())

    classes = table(tmp_path / "classes.csv")
    right, said = expected.argmax(1) == test.labels, expected.argmax(1)
    for label, row in enumerate(classes):
        hits = (right & (said == label)).sum().item()
        assert (row["class"], int(row["images"])) == (str(label), (test.labels == label).sum().item())
        assert float(row["recall"]) == pytest.approx(metrics[f"test/accuracy/{label}"])
        if predicted := (said == label).sum().item():
            assert float(row["precision"]) == pytest.approx(hits / predicted)
    assert sum(float(row["f1"]) for row in classes) / 10 == pytest.approx(metrics["test/f1_macro"])


def test_a_ratio_of_nothing_is_empty():
    rows = evaluation_files.class_rows([[2, 1, 0], [0, 1, 0], [0, 0, 0]], "abc")
    assert [list(row.values()) for row in rows] == [
        ["a", 3, "1", "0.6666667", "0.8"],
        ["b", 1, "0.5", "1", "0.6666667"],
        ["c", 0, "", "", ""],
    ]


@pytest.fixture(scope="module")
def other(trained, tmp_path_factory):
    """A checkpoint of another network with the same classes."""
    content = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    torch.manual_seed(0)
    for name, weight in content["state_dict"].items():
        if name.startswith("backbone."):
            weight += 0.3 * weight.std() * torch.randn_like(weight) if weight.ndim > 1 else 0
    path = tmp_path_factory.mktemp("other") / "other.ckpt"
    torch.save(content, path)
    return path


def test_an_ensemble_has_the_mean_probabilities_and_reports_its_members(trained, other, scored, tmp_path, caplog):
    caplog.set_level("INFO")
    found = scored(f"ckpt=[{trained},{other}]")
    test = Digits(10, 1, 32).load("test")
    each = [checkpoints.load(path)(test.images) for path in (trained, other)]
    scores = [(p.argmax(1) == test.labels).float().mean().item() for p in (*each, sum(each) / 2)]
    assert len(set(scores)) == 3
    assert [member["metrics"]["test/top1"] for member in found["members"]] == pytest.approx(scores[:2])
    assert found["metrics"]["test/top1"] == pytest.approx(scores[2])
    loss = -(sum(each) / 2)[torch.arange(382), test.labels].log().mean().item()
    assert found["metrics"]["test/loss"] == pytest.approx(loss, rel=1e-4)
    assert found["checkpoint"] == [member["checkpoint"] for member in found["members"]]
    assert re.search(f"members +top1 {scores[0]:.4f} {scores[1]:.4f}, mean {sum(scores[:2]) / 2:.4f}", caplog.text)


def test_calibration_lowers_the_error_and_stays_for_the_next_time(trained, other, scored, tmp_path, caplog):
    caplog.set_level("INFO")
    file = shutil.copy(other, tmp_path / "own.ckpt")
    content = torch.load(file, weights_only=True)
    for name in ("backbone.fc3.weight", "backbone.fc3.bias"):
        content["state_dict"][name] *= 20  # far too confident
    torch.save(content, file)
    before = scored(f"ckpt={file}")["metrics"]
    found = scored(f"ckpt={file}", "calibrate=true")
    calibration, after = found["calibration"], found["metrics"]
    assert calibration["images"] == 140 and calibration["before"] == before
    assert calibration["temperature"] == json.loads((tmp_path / "own.temperature.json").read_text())["temperature"] > 3
    assert after["test/top1"] == before["test/top1"]
    assert after["test/ece"] < before["test/ece"] / 2 and after["test/loss"] < before["test/loss"] / 2
    line = f"val images: test/ece {before['test/ece']:.4f} → {after['test/ece']:.4f}, test/loss"
    assert line in caplog.text
    assert scored(f"ckpt={file}")["metrics"] == after  # applied from now on
    again = scored(f"ckpt={file}", "calibrate=true")["calibration"]
    assert again == calibration  # fitted to the checkpoint, not on top of the last temperature


def test_further_metrics_are_scored_too(trained, scored):
    kappa = "{_target_:torchmetrics.classification.MulticlassCohenKappa,num_classes:10}"
    found = scored(f"ckpt={trained}", f"+lit_module.metrics.kappa={kappa}", "split=val")["metrics"]
    assert found["val/kappa"] == pytest.approx(1 - (1 - found["val/top1"]) / 0.9, abs=0.01)  # of balanced classes


def test_validation_is_the_runs_own_and_training_images_come_whole_and_plain(trained, scored):
    found = scored(f"ckpt={trained}", "split=val")
    expected = of_split(records.read(trained)["metrics"], "val")
    assert len(expected) == 4
    assert {name: found["metrics"][name] for name in expected} == expected

    found = scored(f"ckpt={trained}", "split=train")
    data = Digits(10, 1, 32)
    data.setup("fit")
    images, labels = data.fetch("train", torch.arange(1275))
    right = checkpoints.load(trained)(images).argmax(1) == labels
    assert found["images"] == 1275  # not the whole batches of 64 alone
    assert found["metrics"]["train/top1"] == pytest.approx(right.float().mean().item(), abs=1e-6)
    assert found["metrics"]["train/accuracy/3"] == pytest.approx(right[labels == 3].float().mean().item(), abs=1e-6)


def write_idx(path, values, monkeypatch):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = b"\0\0\x08" + bytes([values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    path.write_bytes(header + values.tobytes())
    monkeypatch.setitem(fashion_mnist.PUBLISHED, path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def test_so_does_a_run_on_fashion_mnist_in_its_own_precision_and_memory_format(composed, scored, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for name, count in (("train", 400), ("t10k", 103)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = rng.integers(0, 150, (count, 28, 28), dtype=np.uint8)
        for label, image in zip(labels, images, strict=True):
            image[2 * label : 2 * label + 9] += 60
        write_idx(tmp_path / f"data/FashionMNIST/raw/{name}-images-idx3-ubyte", images, monkeypatch)
        write_idx(tmp_path / f"data/FashionMNIST/raw/{name}-labels-idx1-ubyte", labels, monkeypatch)
    run = tmp_path / "run"
    options = ["trainer=cpu", "trainer.max_epochs=3", "datamodule.batch_size=20", f"data_dir={tmp_path / 'data'}"]
    options += ["trainer.precision=bf16-mixed", "lit_module.memory_format=channels_last", f"run_dir={run}"]
    train(composed("datamodule=fashion_mnist", *options))
    expected = of_split(records.read(run)["metrics"], "test")
    found = scored(f"ckpt={run}/checkpoints/best.ckpt")
    assert found["images"] == 103
    assert (found["precision"], found["memory_format"]) == ("bf16-mixed", "channels_last")
    assert {name: found["metrics"][name] for name in expected} == expected
    other = scored(f"ckpt={run}", "trainer.precision=32-true")["metrics"]["test/loss"]
    assert other != expected["test/loss"] and other == pytest.approx(expected["test/loss"], rel=0.1)
    moved = (tmp_path / "data").rename(tmp_path / "elsewhere")
    found = scored(f"ckpt={run}", f"datamodule.data_dir={moved}")
    assert found["folder"] == str(moved / "FashionMNIST" / "raw")
    assert {name: found["metrics"][name] for name in expected} == expected


def test_flipping_is_the_mean_of_two_probabilities_beside_the_plain_score(trained, scored, capsys, caplog):
    caplog.set_level("INFO")
    metrics = scored(f"ckpt={trained}", "tta=flip")["metrics"]
    test = Digits(10, 1, 32).load("test")
    network = checkpoints.load(trained)
    plain, mirrored = network(test.images), network(test.images.flip(3))
    for prefix, probabilities in (("test/", plain), ("test/flip/", (plain + mirrored) / 2)):
        top1 = (probabilities.argmax(1) == test.labels).float().mean().item()
        loss = -probabilities[torch.arange(382), test.labels].log().mean().item()
        error = multiclass_calibration_error(probabilities, test.labels, 10, n_bins=15).item()
        assert metrics[f"{prefix}top1"] == pytest.approx(top1, abs=1e-6)
        assert metrics[f"{prefix}loss"] == pytest.approx(loss, rel=1e-4)
        assert metrics[f"{prefix}ece"] == pytest.approx(error, abs=1e-5)
    assert metrics["test/top1"] != metrics["test/flip/top1"]
    (table,) = (message for message in caplog.messages if "scores" in message)
    row = rf"top1 +{metrics['test/top1']:.4f} +{metrics['test/flip/top1']:.4f}"
    assert re.search("plain +flip", table) and re.search(row, table)
    assert re.search(rf"\n  3 +{metrics['test/accuracy/3']:.4f} +{(test.labels == 3).sum()}\n", table)


def test_reliability_is_that_of_a_count_by_hand():
    probabilities = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.0, 1.0], [0.45, 0.55]])
    labels = torch.tensor([0, 1, 1, 1, 0])  # right, wrong, right, right, wrong
    accuracy, confidence, share = reliability(probabilities, labels, 4)  # of 0.5 to 0.75, and of 0.75 to 1
    assert accuracy.tolist() == [0, 0, 0, 1]
    assert confidence.tolist() == pytest.approx([0, 0, (0.7 + 0.55) / 2, (0.9 + 0.8 + 1) / 3])
    assert share.tolist() == pytest.approx([0, 0, 0.4, 0.6])


@pytest.mark.parametrize(("copies", "colour"), [(3, (221, 240, 251)), (4, (86, 180, 233))])
def test_a_bin_of_fewer_than_ten_images_is_pale(copies, colour, tmp_path):
    probabilities = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.95, 0.05]]).repeat(copies, 1)  # in one bin
    seen = SimpleNamespace(bins=4, probabilities=probabilities, labels=torch.tensor([0, 1, 1]).repeat(copies))
    ReliabilityPlot(tmp_path).on_test_end(SimpleNamespace(is_global_zero=True), seen)
    bars = [(pixels(tmp_path / "reliability.png") == shade).all(2).sum() for shade in (colour, (86, 180, 233))]
    assert bars[0] > 5000 and (bars[1] > 5000) == (copies == 4)


def test_the_calibration_error_is_the_gap_in_the_diagram(composed, trained):
    from hydra.utils import instantiate

    cfg = composed("ckpt=x", config_name="evaluate")
    evaluator = instantiate(cfg.lit_module, backbone=torch.nn.Identity(), num_classes=3, memory_format="channels_last")
    logits = 20 * torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    probabilities, labels = logits.softmax(1), torch.arange(500) % 3
    assert (probabilities.max(1).values == 1).any()  # these too are in one of the 15 bins
    accuracy, confidence, share = reliability(probabilities, labels, 15)
    evaluator.labels = labels
    error = evaluator._calibration_error(probabilities)
    torch.testing.assert_close(error, ((accuracy - confidence).abs() * share).sum())


def test_the_most_confident_mistakes_come_first_and_right_answers_last():
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.01, 0.99], [0.2, 0.8]])
    labels = torch.tensor([0, 0, 0, 1, 0])
    images = torch.arange(5).view(5, 1, 1, 1)
    for count, expected in ((25, [1, 4, 2, 0, 3]), (3, [1, 4, 2]), (1, [1])):
        found = most_confident_errors(*probabilities.max(1), labels, images, torch.arange(5), count=count)
        assert found[4].tolist() == expected
        assert found[3].flatten().tolist() == expected
        assert found[0].tolist() == probabilities.max(1).values[expected].tolist()
        assert found[1].tolist() == probabilities.argmax(1)[expected].tolist()
        assert found[2].tolist() == labels[expected].tolist()


def digit_files(folder, names, split="train"):
    """The test digits as files, in folders of these names."""
    images = Digits(10, 1, 32).load("test")
    for number, (image, label) in enumerate(zip(images.images, images.labels, strict=True)):
        path = folder / split / names[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(path)
    return folder


def test_other_data_is_shown_as_the_network_was_trained(trained, scored, tmp_path):
    folder = digit_files(tmp_path / "files", "0123456789")
    (folder / "test").symlink_to(folder / "train")
    other = ["datamodule=image_folder", f"datamodule.data_dir={folder}", "datamodule.num_workers=0"]
    found = scored(f"ckpt={trained}", *other)
    expected = of_split(records.read(trained)["metrics"], "test")
    assert (found["data"], found["images"]) == ("ImageFolder", 382)
    got = {name: found["metrics"][name] for name in expected}
    assert got == pytest.approx(expected, abs=0.01)  # the files became RGB, then grey again, a value off by one


def test_a_precision_that_a_cpu_has_not_is_refused(trained, composed):
    with pytest.raises(
        ValueError, match=r"trainer.precision=16-mixed needs a GPU; expected 32-true or bf16-mixed on a CPU"
    ):
        evaluate(composed("trainer=cpu", f"ckpt={trained}", "trainer.precision=16-mixed", config_name="evaluate"))


def test_files_that_are_not_square_are_seen_whole_as_in_prediction(trained, composed, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32), dtype=np.uint8)
    for name in "0123456789":
        for part in ("train", "test"):
            (tmp_path / "files" / part / name).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / "files" / part / name / "0.png")
    other = ["datamodule=image_folder", f"datamodule.data_dir={tmp_path / 'files'}", "datamodule.num_workers=0"]
    cfg = composed(f"ckpt={trained}", *other, config_name="evaluate")
    data = checkpoints.build_datamodule(checkpoints.open_checkpoint(str(trained))[1], cfg.datamodule)
    data.setup("test")
    seen = data.prepare(data.fetch("test", torch.tensor([0]))[0])
    whole = checkpoints.load(trained).preprocess(torch.from_numpy(pixels)[None, None])
    torch.testing.assert_close(seen, whole, atol=0.02, rtol=0)  # read as RGB, then grey again


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("abcdefghij", "class 0 is a in the data and 0 in the network; expected the same names in the same order"),
        ("0000000001", "the data has 2 classes, the network has 10"),
    ],
)
def test_classes_must_be_the_networks(names, message, trained, composed, tmp_path):
    folder = digit_files(tmp_path / "files", names)
    other = ["trainer=cpu", "datamodule=image_folder", f"datamodule.data_dir={folder}", "datamodule.num_workers=0"]
    with pytest.raises(ValueError) as caught:
        evaluate(composed(f"ckpt={trained}", *other, config_name="evaluate"))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+datamodule.in_channels=3"], "the data has in_channels=3, but the network was trained with in_channels=1"),
        (["+datamodule.image_size=28"], "the data has image_size=28, but the network was trained with image_size=32"),
        (["+datamodule.num_classes=5"], "num_classes=5, but Digits has 10 classes"),
        (["datamodule=cifar100"], "the data has 100 classes, the network has 10"),
        (["datamodule=fashion_mnist"], "class 0 is T-shirt/top in the data and 0 in the network"),
        (["trainer=ddp", "trainer.accelerator=cpu"], "evaluation runs in one process, not 2; use trainer.devices=1"),
        (["lit_module.bins=0"], "bins=0; expected at least 1"),
    ],
)
def test_what_cannot_be_scored_is_the_users_to_mend(overrides, message, trained, composed):
    with pytest.raises((ValueError, InstantiationException)) as caught:
        evaluate(composed("trainer=cpu", *overrides, f"ckpt={trained}", config_name="evaluate"))
    assert is_user_error(caught.value)
    assert message in records.one_line(caught.value)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "ckpt has no value; give it one: ckpt=…"),
        (["ckpt=digits_lnet"], "ckpt=digits_lnet: no such file or folder; did you mean digits_lenet?"),
        (["ckpt=[digits_lenet,digits_lnet]"], "ckpt=digits_lenet holds no checkpoints/best.ckpt or last.ckpt"),
        (["ckpt=[a.ckpt,a.ckpt]", "calibrate=true"], "calibrate=true is for one checkpoint; calibrate each member"),
        (["ckpt=a.ckpt", "calibrate=maybe"], "calibrate=maybe: expected true or false"),
        (["ckpt=digits_lenet"], "ckpt=digits_lenet holds no checkpoints/best.ckpt or last.ckpt"),
        (["ckpt='http://example.org/a.ckpt'"], "is a URL"),
        (["ckpt=digits_lenet", "split=tset"], "split=tset: expected one of test, val, train"),
        (["ckpt=digits_lenet", "tta=rotate"], "tta=rotate: expected one of null, flip"),
        (["ckpt=digits_lenet", "model=lenet"], "model=lenet: evaluate.py has no group model"),
        (["ckpt=digits_lenet", "spilt=val"], "spilt: no such key; did you mean split?"),
        (
            ["ckpt=digits_lenet", "datamodule.data_dri=x"],
            "datamodule.data_dri: no such key; did you mean datamodule.data_",
        ),
    ],
)
def test_a_mistake_is_found_before_anything_is_made(args, message, examine, tmp_path, monkeypatch):
    (tmp_path / "digits_lenet").mkdir()
    (tmp_path / "a.ckpt").touch()
    monkeypatch.chdir(tmp_path)
    answer = examine(args, "evaluate", check)
    assert answer.code == 2 and len(answer.lines) == 1
    assert message in answer.error


def test_and_is_answered_in_one_line(forks, tmp_path):
    done = forks("evaluate.py", "ckpt=digits_lenet", cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: ckpt=digits_lenet: no such file or folder\n"
    assert not list(tmp_path.iterdir())


def test_so_is_a_checkpoint_that_means_harm(trained, tmp_path, capsys, composed):
    content = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    content["datamodule"]["augmentation"] = {"crop": {"_target_": "os.mkdir", "path": str(tmp_path / "harm")}}
    torch.save(content, tmp_path / "some.ckpt")
    with pytest.raises(ValueError) as caught:
        evaluate(composed("trainer=cpu", f"ckpt={tmp_path / 'some.ckpt'}", config_name="evaluate"))
    assert report_error(caught.value) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the checkpoint's datamodule names os.mkdir") and said.count("\n") == 1
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("args", [["--help"], ["--cfg", "job"], ["ckpt=nowhere"]])
def test_help_imports_no_torch(args, lean):
    done = lean("evaluate.py", *args, cwd=ROOT)
    assert done.imported == []
    assert "lit_modules.Evaluator" in done.out or "nowhere" in done.err


def test_a_sweep_scores_several_checkpoints_each_in_its_folder(trained, forks, tmp_path):
    both = ",".join(str(trained / "checkpoints" / name) for name in ("best.ckpt", "last.ckpt"))
    done = forks("evaluate.py", "-m", f"ckpt={both}", "trainer=cpu", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("sweep/*/metrics.json"))]
    assert [os.path.basename(entry["checkpoint"]) for entry in found] == ["best.ckpt", "last.ckpt"]
    assert found[0]["metrics"]["test/top1"] == records.read(trained)["metrics"]["test/top1"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["ckpt=runs/digits_lenet/2026-11-25_10-00-00.1"], "digits_lenet"),
        (
            ["ckpt=/home/me/runs/depth/2026-11-25_10-00-00.1/model.depth-18/checkpoints/best.ckpt"],
            "depth_model.depth-18",
        ),
        (
            ["ckpt='runs/digits_lenet/2026-11-25_10-00-00.1'", "split=val", "tta=flip"],
            "digits_lenet_split-val_tta-flip",
        ),
        (["ckpt=my_run/"], "my_run"),
        (["ckpt=[runs/a/2026-11-25_10-00-00,runs/a/2026-11-25_10-00-00_2,'runs/b']"], "a_b"),
        (["ckpt=best.ckpt", "trust=[models.tiny.Tiny]"], "best"),
        (["ckpt=a/b.ckpt", "datamodule=image_folder"], "a_image_folder"),
    ],
)
def test_folders_say_what_was_scored(overrides, expected):
    assert run_names.run_name(None, {"trainer": "default", "datamodule": None}, overrides) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_scores_the_same(trained, composed):
    on_gpu = evaluate(composed("trainer=gpu", f"ckpt={trained}", "tta=flip", config_name="evaluate"))
    assert on_gpu == pytest.approx(records.read(trained)["metrics"]["test/top1"], abs=0.01)
