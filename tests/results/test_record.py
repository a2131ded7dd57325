"""The run's record is written whatever happens."""

import json
import os
import subprocess
import sys

import pytest

from launch import jobs
from results import record as records


def test_a_completed_run(tmp_path):
    with records.recording(tmp_path, seed=0, overrides=["a=1"]) as record:
        record["metrics"]["val/top1"] = 0.5
    saved = records.read(tmp_path)
    assert list(saved) == records.KEYS
    assert saved["status"] == "completed"
    assert (saved["seed"], saved["overrides"], saved["metrics"]) == (0, ["a=1"], {"val/top1": 0.5})
    assert saved["error"] is None
    assert set(saved["versions"]) == set(records.PACKAGES)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_what_is_no_number_is_null(tmp_path):
    with records.recording(tmp_path) as record:
        record["metrics"] |= {"val/loss": float("nan"), "train/loss": float("inf"), "val/top1": 0.5}
    text = (tmp_path / "result.json").read_text()
    assert "NaN" not in text and "Infinity" not in text  # they are not JSON
    assert records.read(tmp_path)["metrics"] == {"val/loss": None, "train/loss": None, "val/top1": 0.5}


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("two\n  lines"), "failed", "two lines"),
        (RuntimeError("broken"), "failed", "RuntimeError: broken"),
        (KeyboardInterrupt(), "interrupted", "stopped by SIGINT"),
        (SystemExit(3), "failed", "SystemExit: 3"),
        (records.OutOfTime("out of time"), "interrupted", "out of time"),
    ],
)
def test_a_run_that_ends_otherwise(tmp_path, error, status, message):
    with pytest.raises(type(error)), records.recording(tmp_path, seed=1) as record:
        record["epochs"] = 2
        raise error
    saved = records.read(tmp_path)
    assert (saved["status"], saved["error"], saved["epochs"]) == (status, message, 2)


def test_a_run_that_is_killed_leaves_that_it_began(tmp_path):
    with records.recording(tmp_path, seed=1, overrides=["a=1"]):
        saved = records.read(tmp_path)
    assert (saved["status"], saved["seed"], saved["overrides"]) == ("running", 1, ["a=1"])


def test_an_exit_that_a_signal_caused_is_an_interruption(tmp_path):
    with pytest.raises(SystemExit), records.recording(tmp_path):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)  # as Lightning does
    assert records.read(tmp_path)["status"] == "interrupted"


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with records.recording(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_earlier_record(tmp_path):
    records.write(tmp_path, {"status": "completed"})
    with pytest.raises(TypeError):
        records.write(tmp_path, {"status": object()})
    assert json.loads((tmp_path / "result.json").read_text()) == {"status": "completed"}
    assert len(list(tmp_path.iterdir())) == 1


def test_records_need_no_torch():
    code = "import sys, results.record; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_secrets_and_the_home_folder_stay_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    typed = ["data_dir=/home/ann/data", "+a.api_key=abc", "+l={token: xyz, n: 1}", "u=https://ann:pw@host/x", "seed=1"]
    shown = ["data_dir=~/data", "+a.api_key=***", "+l={token: ***, n: 1}", "u=https://***@host/x", "seed=1"]
    with pytest.raises(OSError, match="/home/ann"), records.recording(tmp_path, overrides=typed) as record:
        assert record["overrides"] == shown
        raise OSError("/home/ann/x: password=hunter2 is wrong, /home/anna and /mnt/home/ann are not mine")
    found = records.read(tmp_path)
    assert found["overrides"] == shown
    assert found["error"] == "~/x: password=*** is wrong, /home/anna and /mnt/home/ann are not mine"
    assert records.redact({"n": 3, "at": ["/home/ann"]}) == {"n": 3, "at": ["~"]}
    assert jobs.previous_record(tmp_path, typed)["status"] == "failed"  # the same job, for a sweep that goes on


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a.password='two words'", "a.password=***"),
        ("a={password: 'x, y', n: 1}", "a={password: ***, n: 1}"),
        ("tokens=[a,b]", "tokens=***"),
        ("+db.aws_secret_access_key=abc", "+db.aws_secret_access_key=***"),
        ("a.api-key=x", "a.api-key=***"),
        ("uri=file:///home/ann/mlruns", "uri=file://~/mlruns"),
        ("tokenizer=bpe keywords=x", "tokenizer=bpe keywords=x"),
        ("model.depth=18", "model.depth=18"),
    ],
)
def test_what_is_hidden(text, shown, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert records.redact(text) == shown


def test_a_network_has_no_secrets(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    config = {"model": {"num_tokens": 4, "weights": "/home/ann/w.pth"}, "logger": {"token": "4"}}
    config["model"]["token_type"] = "word"
    expected = {"model": {"num_tokens": 4, "weights": "~/w.pth", "token_type": "word"}, "logger": {"token": "***"}}
    assert records.redact(config) == expected
    typed = ["model.token_type=word", "+model.weights=/home/ann/w.pth", "datamodule.token=abc"]
    shown = ["model.token_type=word", "+model.weights=~/w.pth", "datamodule.token=***"]
    assert list(map(records.redact_override, typed)) == shown


def test_a_name_that_is_no_text_is_kept_in_json(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    records.write_json(tmp_path / "a.json", {"name": name})
    assert (tmp_path / "a.json").read_bytes().isascii()
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": name}


def test_a_list_of_numbers_is_one_line(tmp_path):
    content = {
        "history": {"val/top1": [[1, 0.5], [2.0, None], [1e-5, -3]]},
        "overrides": ["a=[1, 2]", "[\n 1 ]"],
        "x": [],
    }
    records.write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text()
    assert '    "val/top1": [ [ 1, 0.5 ], [ 2.0, null ], [ 1e-05, -3 ] ]\n' in text
    assert json.loads(text) == content
