"""Whole runs: what they return, what they leave behind, what they say."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from datamodules.fashion_mnist import DEBIAN_DIR
from results import record as records
from results.errors import ConfigError, is_user_error
from tests.conftest import TINY
from train import train

ROOT = Path(__file__).parent.parent


def files(folder):
    return sorted(str(path.relative_to(folder)).split(".tfevents")[0] for path in folder.rglob("*") if path.is_file())


def test_the_default_run_learns_digits_and_leaves_exactly_these_files(tmp_path):
    command = [sys.executable, str(ROOT / "train.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (run,) = (tmp_path / "runs" / "digits_lenet").iterdir()
    assert files(run) == [
        ".hydra/config.yaml",
        ".hydra/hydra.yaml",
        ".hydra/overrides.yaml",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "confusion_matrix.png",
        "curves.png",
        "events.out",
        "mistakes.png",
        "result.json",
        "train.log",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
    record = records.read(run)
    assert list(record) == records.KEYS
    assert record["status"] == "completed"
    assert record["metrics"]["test/top1"] > 0.85
    assert record["metrics"]["val/top1"] > 0.95
    assert record["params"] == 120_382  # conv1 has one channel: 800 weights fewer than the homework's
    assert (record["epochs"], record["steps"]) == (10, 10 * (1275 // 32))
    assert record["best_checkpoint"] == "checkpoints/best.ckpt"
    assert record["seed"] == 0
    assert record["findings"] == []
    assert [epochs for epochs, _ in record["history"]["val/top1"]] == list(range(1, 11))
    best = max(value for _, value in record["history"]["val/top1"])
    assert best == float(f"{record['metrics']['val/top1']:.6g}")
    assert str(tmp_path) not in json.dumps(record)
    lines = done.stdout.splitlines()
    scores = [f"{record['metrics'][f'{split}/top1']:.4f}" for split in ("val", "test")]
    assert any(line.split() == ["top1", *scores] for line in lines)
    assert any(f"runs/digits_lenet/{run.name}" in line for line in lines)
    assert any("tensorboard --logdir runs" in line for line in lines)
    assert len(lines) == len(set(lines))  # nothing is said twice
    assert not any("warn" in line.lower() for line in lines)


def test_flops_are_those_of_a_count_by_hand(composed, tmp_path):
    train(composed(*TINY, "datamodule.in_channels=3", "datamodule.image_size=32"))
    multiplications = 16 * 28**2 * 3 * 25 + 32 * 10**2 * 16 * 25 + 800 * 120 + 120 * 84 + 84 * 10
    assert records.read(tmp_path)["flops_per_image"] == 2 * multiplications


def test_it_returns_the_best_validation_score_and_tests_that_checkpoint(composed, tmp_path):
    cfg = composed(*TINY, "trainer.max_epochs=4", "optimizer.lr=0.5", "scheduler=none", "model=lenet", "logger=csv")
    best = train(cfg)
    history = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    column = history[0].index("val/top1")
    scores = [float(row[column]) for row in history[1:] if row[column]]
    assert best == pytest.approx(max(scores), abs=1e-6)
    record = records.read(tmp_path)
    assert record["metrics"]["val/top1"] == best
    checkpoint = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["epoch"] == scores.index(max(scores))
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 3


def test_a_checkpoint_says_what_it_is(composed, tmp_path):
    train(composed(*TINY))
    for name in ("best", "last"):
        checkpoint = torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["model"]["_target_"] == "models.LeNet"
        assert checkpoint["model"]["num_classes"] == len(checkpoint["class_names"]) == 10
        assert checkpoint["preprocessing"]["image_size"] == 32
        assert checkpoint["datamodule"]["_target_"] == "datamodules.Synthetic"


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(composed, tmp_path):
    def weights(name, *overrides):
        train(composed(*TINY, f"run_dir={tmp_path / name}", *overrides))
        return torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]

    first, again, other = weights("a"), weights("b"), weights("c", "seed=1")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_run_that_cannot_be_built_leaves_a_record(composed, tmp_path):
    with pytest.raises(ConfigError):
        train(composed(*TINY, "model=resnet", "model.depth=19"))
    record = records.read(tmp_path)
    assert record["status"] == "failed"
    assert record["error"].startswith("model: depth=19 is not valid for a four-stage ResNet")


def test_without_a_checkpoint_callback_the_last_weights_are_tested(composed, tmp_path):
    train(composed(*TINY, "callbacks.checkpoint=null"))
    assert records.read(tmp_path)["best_checkpoint"] is None
    assert "test/top1" in records.read(tmp_path)["metrics"]
    assert [path.name for path in tmp_path.rglob("*.ckpt")] == ["last.ckpt"]


def test_an_error_while_training_leaves_a_record(composed, tmp_path, monkeypatch):
    from lit_modules import Classifier

    def fail(self, batch, batch_idx):
        raise RuntimeError("the device fell off")

    monkeypatch.setattr(Classifier, "training_step", fail)
    with pytest.raises(RuntimeError):
        train(composed(*TINY))
    record = records.read(tmp_path)
    assert (record["status"], record["error"]) == ("failed", "RuntimeError: the device fell off")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=resnet", "model.depth=18", "model.groups=32"], "groups=32 needs bottleneck blocks"),
        (["datamodule.image_size=12"], "image_size=12 is too small for LeNet; the smallest that works is 16"),
        (["datamodule.batch_size=100"], "batch_size=100 is larger than the training set"),
        (["+model.dropout=0.5"], "model: models.LeNet has no argument dropout; leave out or remove: '~model.dropout'"),
        (["model.num_classes=5"], "model.num_classes=5, but the data has num_classes=10"),
        (["lit_module.num_classes=12"], "lit_module.num_classes=12, but the data has num_classes=10"),
        (["model.in_channels=1"], "model.in_channels=1, but the data has in_channels=3"),
        (["model=resnet18", "model.include_top=false"], "(N, num_classes) = (10, 10): it needs a classification head"),
        (["model=resnet", "model.widths=[0,0,0,0]"], "widths=[0, 0, 0, 0]; expected whole numbers of channels"),
        (["monitor=val/loss"], "mode=max with monitor=val/loss; expected mode=min"),
        (["monitor=train/top1"], "monitor=train/top1: expected a validation metric"),
        (["datamodule.num_classes=1"], "num_classes=1; expected at least 2"),
        (["optimizer.lr=1e9"], "the training has diverged"),
    ],
)
def test_a_mistake_that_only_the_parts_know_is_the_users(overrides, message, composed, tmp_path):
    with pytest.raises(ValueError) as caught:
        train(composed(*TINY, *overrides))
    assert is_user_error(caught.value)
    record = records.read(tmp_path)
    assert record["status"] == "failed"
    assert message in record["error"]
    assert "\n" not in record["error"]


def test_such_a_mistake_is_one_line_and_exit_code_2_with_the_traceback_in_the_log(forks, tmp_path):
    done = forks("train.py", *TINY, "datamodule.batch_size=100", "hydra.run.dir=run", cwd=tmp_path)
    assert done.code == 2
    assert done.err.startswith("error: batch_size=100 is larger than the training set")
    assert done.err.count("\n") == 1
    assert "Traceback" not in done.out
    assert "Traceback" in (tmp_path / "run" / "train.log").read_text()
    assert records.read(tmp_path / "run")["status"] == "failed"


def test_an_impossible_network_is_refused_before_torch_is_imported(lean, tmp_path):
    done = lean("train.py", "model=resnet", "model.depth=18", "model.groups=32", cwd=tmp_path)
    assert "groups=32 needs bottleneck blocks" in done.err.splitlines()[-1]
    assert done.imported == []


@pytest.mark.parametrize("debug", ["one_batch", "overfit", "profiler"])
def test_debug_presets(debug, composed, tmp_path):
    train(composed(f"debug={debug}", "trainer=cpu"))
    record = records.read(tmp_path)
    assert record["status"] == "completed"
    if debug == "one_batch":
        assert record["steps"] == 1
    elif debug == "overfit":
        assert record["metrics"]["train/loss"] < 0.05
    else:
        assert "Optimizer.step" in (tmp_path / "fit-profile.txt").read_text()
        (trace,) = tmp_path.glob("fit-profile*training_step*.pt.trace.json")
        names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
        assert "aten::convolution" in names


def test_the_fast_trainer_runs_too(forks, tmp_path):
    done = forks("train.py", *TINY, "trainer=fast", "trainer.accelerator=cpu", "trainer.max_epochs=2", cwd=tmp_path)
    assert done.code == 0, done.err
    (path,) = tmp_path.rglob("result.json")
    record = json.loads(path.read_text())
    assert record["status"] == "completed"
    assert math.isfinite(record["metrics"]["test/loss"])


def test_two_processes_learn_what_one_does_with_the_same_total_batch(forks, tmp_path):
    options = ["datamodule=synthetic", "datamodule.num_images=512", "trainer.max_epochs=3", "hydra.run.dir=run"]
    found = []
    for trainer, batch_size in (("ddp", 8), ("cpu", 16)):
        cwd = tmp_path / trainer
        cwd.mkdir()
        given = [f"trainer={trainer}", "trainer.accelerator=cpu", f"datamodule.batch_size={batch_size}"]
        done = forks("train.py", *options, *given, cwd=cwd, timeout=120)
        assert done.code == 0, done.err
        assert [path.name for path in cwd.iterdir()] == ["run"]
        assert len(list((cwd / "run").glob("*tfevents*"))) == len(list(cwd.rglob("result.json"))) == 1
        assert done.out.count("epoch   3/3") == 1
        found.append(records.read(cwd / "run"))
    two, one = found
    assert two["device"].startswith("2 × cpu")
    assert (two["steps"], two["epochs"]) == (one["steps"], one["epochs"])
    assert one["metrics"]["val/top1"] > 0.3  # it has learnt something: chance is 0.1
    assert two["metrics"] == pytest.approx(one["metrics"], abs=2e-3)


def test_early_stopping_is_a_choice(composed, tmp_path):
    options = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1", "optimizer.lr=0.0"]
    train(composed(*TINY, "trainer.max_epochs=9", *options))
    assert records.read(tmp_path)["epochs"] == 2


def test_tensorboard_events_have_the_scores(composed, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(composed(*TINY, "trainer.max_epochs=3", "trainer.log_every_n_steps=1"))
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/loss", "train/top1", "val/loss", "val/top1", "val/f1_macro", "watch/test/top1", "watch/lr"} <= tags
    scores = [event.value for event in events.Scalars("val/top1")]
    assert len(scores) == 3
    assert records.read(tmp_path)["metrics"]["val/top1"] == pytest.approx(max(scores))


def test_the_hparams_tab_has_the_main_settings_and_the_best_scores(composed, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    cfg = composed(
        *TINY, "trainer.max_epochs=4", "optimizer.lr=0.5", "scheduler=none"
    )  # the last epoch is not the best
    train(cfg)
    events = EventAccumulator(str(tmp_path)).Reload()
    content = events.summary_metadata
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG].plugin_data.content)
    shown = {key: value.number_value or value.string_value for key, value in start.hparams.items()}
    assert shown["model"] == "LeNet" and shown["optimizer"] == "SGD"
    assert (shown["optimizer.lr"], shown["trainer.max_epochs"], shown["datamodule.batch_size"]) == (0.5, 4, 16)
    experiment = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG].plugin_data.content)
    metrics = {info.display_name: info.name.tag for info in experiment.metric_infos}
    assert set(metrics) == {f"{k}/{m}" for k in ("best", "test") for m in ("loss", "top1", "top5", "f1_macro")}
    assert list(metrics)[:2] == ["best/top1", "test/top1"]
    record = records.read(tmp_path)["metrics"]
    for name, tag in metrics.items():
        assert events.Scalars(tag)[-1].value == pytest.approx(record[name.replace("best/", "val/")]), tag
    assert "hp_metric" not in events.Tags()["scalars"]


def test_findings_ask_the_averaged_network(composed, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "callbacks.diagnosis.Diagnosis._diagnose", lambda *args: asked.append(args[2].backbone.fc3.weight.clone())
    )
    train(composed(*TINY, "callbacks=ema"))
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    averaged, current = (last[part]["backbone.fc3.weight"] for part in ("state_dict", "current_model_state"))
    assert torch.equal(asked[0], averaged) and not torch.equal(averaged, current)


def test_swept_keys_are_hyperparameters():
    from callbacks.tensorboard import hyperparameters

    config = {"model": {"_target_": "models.LeNet", "widths": [1, 2]}, "seed": 0, "data_dir": "x", "flag": False}
    found = hyperparameters(config, ["model=lenet", "model.widths=[1,2]", "+flag=false", "data_dir=x", "study=depth"])
    assert found == {"model": "LeNet", "seed": 0, "model.widths": "[1, 2]", "flag": False}


@pytest.mark.skipif(not DEBIAN_DIR.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_learnt_from_real_images(composed, tmp_path):
    few = ("trainer.max_epochs=1", "+trainer.limit_train_batches=150", "callbacks.ema.decay=0.9")
    assert train(composed("experiment=fashion_mnist_lenet", *few)) > 0.74  # of three seeds 0.78 to 0.79
    assert records.read(tmp_path)["metrics"]["test/top1"] > 0.74


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_digits(composed, tmp_path):
    train(composed("trainer=fast", "trainer.accelerator=gpu"))
    assert records.read(tmp_path)["metrics"]["test/top1"] > 0.85


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"x", "is not a complete checkpoint"), (None, "do not fit the network to be trained")],
)
def test_going_on_from_a_wrong_checkpoint_is_one_line(content, message, composed, tmp_path):
    path = tmp_path / "other.ckpt"
    if content is None:
        train(composed(*TINY, f"run_dir={tmp_path / 'other'}"))
        path = tmp_path / "other" / "checkpoints" / "last.ckpt"
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        train(composed(*TINY, "model=resnet18", f"ckpt_path={path}"))
    assert is_user_error(caught.value) and "\n" not in str(caught.value)
