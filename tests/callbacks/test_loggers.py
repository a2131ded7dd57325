"""Loggers beside TensorBoard: what a run wrote is read back, from this machine's files alone."""

import csv
import json
import struct
import time

import pytest
import yaml
from hydra.errors import InstantiationException

from launch import validation
from results import record as records
from results.errors import is_user_error
from tests.conftest import PLAIN
from train import train

SHORT = ["debug=one_batch", "trainer=cpu", "trainer.max_epochs=2", "callbacks.last=null", *PLAIN]
LONGER = ["debug=one_batch", "trainer=cpu", "scheduler=none", *PLAIN]


def scores(folder):
    """What the record says of the test, and of the best epoch."""
    return records.read(folder)["metrics"]


def test_csv_has_the_metrics_and_the_config(composed, tmp_path):
    train(composed(*SHORT, "logger=csv", "optimizer.lr=0.02"))
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    expected = scores(tmp_path)
    assert max(float(row["val/top1"]) for row in rows if row["val/top1"]) == pytest.approx(expected["val/top1"])
    assert [float(row["test/loss"]) for row in rows if row["test/loss"]] == [pytest.approx(expected["test/loss"])]
    config = yaml.safe_load((tmp_path / "hparams.yaml").read_text())
    assert config["optimizer"]["lr"] == 0.02 and config["model"]["_target_"] == "models.LeNet"
    assert "logger" not in config


def test_mlflow_has_each_run_in_one_file_and_continues_the_run_that_is_resumed(composed, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install -e '.[mlflow]'")
    pytest.importorskip("sqlalchemy", reason="SQLAlchemy, of which MLflow's database is, is not installed")
    address = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    resume = [f"ckpt_path={tmp_path}/4/checkpoints/last.ckpt", "datamodule.num_workers=1"]
    for seed, epochs, way in ((3, 2, []), (4, 1, []), (4, 2, resume)):
        way = [*way, f"trainer.max_epochs={epochs}", f"seed={seed}", f"run_dir={tmp_path}/{seed}"]
        train(composed(*LONGER, "logger=mlflow", *way))
    client = mlflow.tracking.MlflowClient(address)
    experiment = client.get_experiment_by_name("resnet-lab")
    runs = sorted(client.search_runs([experiment.experiment_id]), key=lambda run: run.data.params["seed"])
    assert [run.data.params["seed"] for run in runs] == ["3", "4"]
    for run in runs:
        folder = tmp_path / run.data.params["seed"]
        expected = scores(folder)
        assert (run.info.status, run.info.run_name) == ("FINISHED", str(folder))
        assert run.data.params["model/_target_"] == "models.LeNet"
        assert run.data.params["datamodule/num_workers"] == "0"  # as it was at first
        assert not any(address in value for value in run.data.params.values())  # it may hold a password
        curve = client.get_metric_history(run.info.run_id, "val/top1")
        assert [point.step for point in curve] == [0, 1]
        assert max(point.value for point in curve) == pytest.approx(expected["val/top1"])
        assert run.data.metrics["test/loss"] == pytest.approx(expected["test/loss"])


def wandb_records(path):
    """What a file of W&B's holds: a log of LevelDB's, of blocks of 32 KiB with a header of 7 bytes a piece."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, pieces = path.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        pieces += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield Record.FromString(pieces)
            pieces = b""


def test_wandb_writes_into_each_runs_folder_without_an_account(composed, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install -e '.[wandb]'")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for seed in (3, 4):  # in one process, as in a sweep
        train(composed(*SHORT, "logger=wandb", f"seed={seed}", f"run_dir={tmp_path}/{seed}"))
        assert wandb.run is None
        (file,) = (tmp_path / str(seed)).glob("wandb/offline-run-*/run-*.wandb")
        found = list(wandb_records(file))
        assert sum(record.HasField("exit") for record in found) == 1  # it has ended
        (name,) = {record.run.display_name for record in found if record.HasField("run")}
        assert name == str(tmp_path / str(seed))
        updates = [u for r in found for u in (*r.config.update, *r.run.config.update)]
        config = {update.key or update.nested_key[0]: json.loads(update.value_json) for update in updates}
        assert config["seed"] == seed and config["model"]["_target_"] == "models.LeNet" and "logger" not in config
        history = [{i.key or i.nested_key[0]: i.value_json for i in r.history.item} for r in found]
        expected = scores(tmp_path / str(seed))
        assert max(float(h["val/top1"]) for h in history if "val/top1" in h) == pytest.approx(expected["val/top1"])
        assert [float(h["test/loss"]) for h in history if "test/loss" in h] == [pytest.approx(expected["test/loss"])]


def test_wandb_without_an_account_is_one_line(composed, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install -e '.[wandb]'")
    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger.log_hyperparams", fail)
    with pytest.raises((OSError, InstantiationException)) as caught:
        train(composed(*SHORT, "logger=wandb", "logger.wandb.offline=false"))
    assert is_user_error(caught.value)
    assert str(caught.value) == "WandbLogger does not work: No API key configured."


def test_wandb_continues_the_run_that_is_resumed(composed, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install -e '.[wandb]'")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for epochs, way in ((1, []), (2, [f"ckpt_path={tmp_path}/checkpoints/last.ckpt"])):
        train(composed(*LONGER, "logger=wandb", f"trainer.max_epochs={epochs}", *way))
        time.sleep(1.1)  # the names of W&B's folders have seconds
    first, second = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert first.name[-8:] == second.name[-8:] and first.name != second.name


def test_lightnings_csv_logger_keeps_its_rows_too(composed, tmp_path):
    """Runs of before this project's own name it in their config."""
    old = ["logger.csv._target_=lightning.pytorch.loggers.CSVLogger", "+logger.csv.name=", "+logger.csv.version="]
    for epochs, way in ((1, []), (2, [f"ckpt_path={tmp_path}/checkpoints/last.ckpt"])):
        train(composed(*LONGER, "logger=csv", *old, f"trainer.max_epochs={epochs}", *way))
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [row["step"] for row in rows if row["val/top1"]] == ["0", "1"]


def fail(*_):
    raise RuntimeError("No API key configured.")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
@pytest.mark.parametrize("sweep", [[], ["seed=0,1", "-m"]])
def test_a_missing_package_is_said_before_anything_is_made(name, sweep, examine, monkeypatch):
    monkeypatch.setattr(validation, "find_spec", lambda package: None)
    answer = examine([f"logger={name}", *sweep])
    assert answer.error == f"logger={name} needs the extra {name}: pip install -e '.[{name}]'"
