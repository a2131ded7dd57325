"""What others may read of a run holds no secret, and not where its owner's home is; all that reads it works on."""

import pytest

import checkpoints
from callbacks import AtomicCheckpointIO
from studies import jobs
from studies import record as records

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
    ],
)
def test_what_an_override_shows(typed, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert records.hidden_override(typed) == expected
    assert records.hidden_override(expected) == expected


def test_a_config_keeps_all_else(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    config = {"lr": 0.1, "use_token": True, "token": None, "api_key": 12, "a": [{"credentials": "x", "b": "/home/ann"}]}
    expected = config | {"api_key": "***", "a": [{"credentials": "***", "b": "~"}]}
    assert records.hidden(config) == expected
    monkeypatch.setenv("HOME", "/")
    assert records.hidden("/a/b") == "/a/b"


def test_a_job_is_known_again_by_what_its_record_hides(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    typed = ["seed=1", "+api_key=abc", f"datamodule.data_dir={tmp_path}/pets"]
    with records.recording(tmp_path, overrides=typed):
        pass
    assert jobs.earlier(tmp_path, typed)["overrides"] == ["seed=1", "+api_key=***", "datamodule.data_dir=~/pets"]
    records.write(tmp_path, records.read(tmp_path) | {"overrides": typed})  # of a version that hid nothing
    assert jobs.earlier(tmp_path, typed)["status"] == "completed"
    with pytest.raises(ValueError, match="holds a job with"):
        jobs.earlier(tmp_path, [*typed[:2], f"datamodule.data_dir={tmp_path}/cars"])


def test_an_error_hides_them_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(OSError), records.recording(tmp_path):
        raise OSError(f"no way to http://me:pw@host with api_key=abc from {tmp_path}/x")
    assert records.read(tmp_path)["error"] == "no way to http://***@host with api_key=*** from ~/x"


def test_record_and_checkpoints_of_a_run_at_home(forks, contest, tmp_path, monkeypatch):
    """All bytes of them are searched: neither is compressed."""
    home = tmp_path / "ann"
    home.mkdir()
    (home / "pets").symlink_to(contest.folder)
    typed = [*SMALL, f"datamodule.data_dir={home}/pets", "datamodule.image_size=16", "datamodule.num_workers=0"]
    typed += [f"hydra.run.dir={home}/run"]
    done = forks("train.py", "datamodule=cats_vs_dogs", "model=lenet", *typed, cwd=home, HOME=str(home))
    assert done.code == 0, done.err
    run = home / "run"
    for file in (run / "result.json", *run.glob("checkpoints/*.ckpt"), *run.glob("*.tfevents*")):
        assert str(home).encode() not in file.read_bytes(), file
    stored = checkpoints.read(run / "checkpoints" / "best.ckpt")
    assert stored["datamodule"]["data_dir"] == "~/pets"
    (best,) = (state["best_model_path"] for name, state in stored["callbacks"].items() if "ModelCheckpoint" in name)
    assert best == "~/run/checkpoints/best.ckpt"
    monkeypatch.setenv("HOME", str(home))
    callbacks = AtomicCheckpointIO().load_checkpoint(run / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    (state,) = (state for name, state in callbacks.items() if "ModelCheckpoint" in name)
    assert list(state["best_k_models"]) == [state["best_model_path"]] == [str(run / "checkpoints" / "best.ckpt")]
    done = forks("evaluate.py", f"ckpt={run}", cwd=home, HOME=str(home))
    assert done.code == 0, done.err
