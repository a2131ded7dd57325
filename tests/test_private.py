"""Records and loggers show no secret and no home folder; what reads them still works."""

from pathlib import Path

import pytest

from datamodules import Digits
from inference import checkpoints
from launch import jobs
from results import record as records

ROOT = Path(__file__).parent.parent
SMALL = "datamodule.batch_size=64 trainer=cpu trainer.max_epochs=1".split()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("+logger.wandb.api_key=abc def", "+logger.wandb.api_key=***"),
        ("+hub_token='a,b=c'", "+hub_token=***"),
        (
            "logger={a:{_target_:x,password:pw1,Secret: 's p'},n:1}",
            "logger={a:{_target_:x,password:***,Secret: ***},n:1}",
        ),
        ("logger.m.uri=https://me:pw@host:80/x?b=1", "logger.m.uri=https://***@host:80/x?b=1"),
        ("datamodule.data_dir=/home/ann/pets", "datamodule.data_dir=~/pets"),
        (
            "paths=[/home/ann,/home/anna/x,/mnt/home/ann,'/home/ann/a b']",
            "paths=[~,/home/anna/x,/mnt/home/ann,'~/a b']",
        ),
        ("monitor=val/top1", "monitor=val/top1"),
        ("~callbacks.token", "~callbacks.token"),
        # A plain number is no secret, quoted it is a text.
        ("datamodule.token_length=16", "datamodule.token_length=16"),
        ("datamodule.token_length=[16, 3.2e1]", "datamodule.token_length=[16, 3.2e1]"),
        ("+x.use_token=True", "+x.use_token=True"),
        ("+x.token=null", "+x.token=null"),
        ("+x={token_length:16,token:a1}", "+x={token_length:16,token:***}"),
        ("+x.password='1234'", "+x.password=***"),
        ("+x.tokens=[16,abc]", "+x.tokens=***"),
    ],
)
def test_what_an_override_shows(typed, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert records.redact_override(typed) == expected
    assert records.redact_override(expected) == expected


def test_a_config_keeps_all_else(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    config = {"lr": 0.1, "use_token": True, "token": None, "token_length": 12, "api_keys": ["a", 3, {"b": "c"}]}
    config["a"] = [{"credentials": "12", "b": "/home/ann"}]
    expected = config | {"api_keys": ["***", 3, {"b": "***"}], "a": [{"credentials": "***", "b": "~"}]}
    assert records.redact(config) == expected
    monkeypatch.setenv("HOME", "/")
    assert records.redact("/a/b") == "/a/b"


def test_a_job_is_known_again_by_what_its_record_hides(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    typed = ["seed=1", "+api_key=abc", f"datamodule.data_dir={tmp_path}/pets"]
    with records.recording(tmp_path, overrides=typed):
        pass
    shown = jobs.previous_record(tmp_path, typed)["overrides"]
    assert shown == ["seed=1", "+api_key=***", "datamodule.data_dir=~/pets"]
    records.write(tmp_path, records.read(tmp_path) | {"overrides": typed})  # of a version that hid nothing
    assert jobs.previous_record(tmp_path, typed)["status"] == "completed"
    with pytest.raises(ValueError, match="holds a job with"):
        jobs.previous_record(tmp_path, [*typed[:2], f"datamodule.data_dir={tmp_path}/cars"])


def test_an_error_hides_them_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(OSError), records.recording(tmp_path):
        raise OSError(f"no way to http://me:pw@host with api_key=abc from {tmp_path}/x")
    assert records.read(tmp_path)["error"] == "no way to http://***@host with api_key=*** from ~/x"


def test_jobs_that_differ_in_a_number_with_a_secret_like_name_differ(tmp_path):
    with records.recording(tmp_path, overrides=["datamodule.token_length=16"]):
        pass
    with pytest.raises(ValueError, match="holds a job with datamodule.token_length=16, this one has .*=32"):
        jobs.previous_record(tmp_path, ["datamodule.token_length=32"])


class Texts(Digits):
    """Digits with an argument whose name looks like a secret's, and one that is a secret."""

    def __init__(self, *args, token_length, api_key, **options):
        super().__init__(*args, **options)
        assert (token_length, api_key) == (16, "abc123")


def test_record_loggers_and_checkpoints_of_a_run_at_home(forks, tmp_path):
    """All bytes are searched: none are compressed. A checkpoint rebuilds its data, so it keeps every argument."""
    home = tmp_path / "ann"
    home.mkdir()
    typed = [*SMALL, "datamodule._target_=tests.test_private.Texts", "+datamodule.token_length=16", "logger=csv"]
    typed += ["+datamodule.api_key=abc123", f"hydra.run.dir={home}/run", f"+logger.tensorboard.comment={home}"]
    done = forks("train.py", "model=lenet", *typed, cwd=home, HOME=str(home), PYTHONPATH=str(ROOT))
    assert done.code == 0, done.err
    run = home / "run"
    shown = [run / "result.json", *run.glob("*.tfevents*"), *run.rglob("hparams.yaml")]
    for file in shown:
        content = file.read_bytes()
        assert b"abc123" not in content and str(home).encode() not in content, file
        assert b"token_length" in content, file
    stored = checkpoints.read_checkpoint(run / "checkpoints" / "best.ckpt")["datamodule"]
    assert (stored["token_length"], stored["api_key"]) == (16, "abc123")
