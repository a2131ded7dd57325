"""A disk that is full, or another one: what was whole stays whole, and nothing half written is left."""

import json
import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from inference import checkpoints
from results import record as records

SMALL = (
    "datamodule=synthetic datamodule.num_images=64 datamodule.batch_size=16 trainer=cpu trainer.max_epochs=2 "
    "callbacks.preflight=null"  # it would find the room too small before the first step
).split()


@contextmanager
def disk(folder, kilobytes):
    """A file system of this size in ``folder``; the test is skipped where none may be mounted."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs"]
    try:
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def assert_no_room(done, *names):
    assert done.code == 2, (done.code, done.err)
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert "No space left on device" in done.err and all(name in done.err for name in names), done.err
    assert "Traceback" not in done.out


def assert_nothing_half_written(run, done):
    """No temporary file, each checkpoint can be opened, the record is whole."""
    assert not [path for path in run.rglob(".*") if path.is_file() and path.name != ".lock"]
    for path in run.rglob("*.ckpt"):
        checkpoints.load(path)
    record = records.read(run)
    assert record["status"] in ("failed", "running")  # running where there was no room for another
    assert record["status"] == "running" or f"error: {record['error']}\n" == done.err


# A checkpoint takes 0.5 MB before the first step and 1 MB after it.
@pytest.mark.parametrize(
    ("kilobytes", "named", "whole"),
    [
        (20, "", []),  # the record fits, TensorBoard's file does not
        (24, "", []),
        (28, "last.ckpt", []),  # the log is full, and so the record cannot be renewed
        (300, "last.ckpt", []),
        (1200, "best.ckpt", ["last.ckpt"]),
        (2300, "last.ckpt", ["best.ckpt", "last.ckpt"]),
    ],
)
def test_a_full_disk_costs_no_earlier_checkpoint(kilobytes, named, whole, forks, tmp_path):
    with disk(tmp_path / "disk", kilobytes) as folder:
        done = forks("train.py", *SMALL, "hydra.run.dir=disk/run", cwd=tmp_path)
        assert_no_room(done, named and f"{named} could not be written")
        assert sorted(path.name for path in (folder / "run").rglob("*.ckpt")) == whole
        assert_nothing_half_written(folder / "run", done)


def test_with_room_again_it_goes_on_to_the_end(forks, tmp_path):
    expected = forks("train.py", *SMALL, "hydra.run.dir=expected", cwd=tmp_path)
    with disk(tmp_path / "disk", 1700) as folder:
        assert_no_room(forks("train.py", *SMALL, "hydra.run.dir=disk/run", cwd=tmp_path))
        subprocess.run(["mount", "-o", "remount,size=20m", str(folder)], check=True)
        done = forks("train.py", "resume=disk/run", cwd=tmp_path)
        assert (done.code, expected.code) == (0, 0), done.err
        assert records.read(folder / "run")["metrics"] == records.read(tmp_path / "expected")["metrics"]


def test_a_disk_without_room_for_the_first_file_is_one_line(forks, tmp_path):
    with disk(tmp_path / "disk", 4) as folder:
        assert_no_room(forks("train.py", *SMALL, "hydra.run.dir=disk/run", cwd=tmp_path))
        assert not list(folder.rglob("result.json"))


def test_the_results_of_the_other_scripts_are_whole_or_not_there(forks, tmp_path):
    assert forks("train.py", *SMALL, "hydra.run.dir=run", cwd=tmp_path).code == 0
    with disk(tmp_path / "disk", 64) as folder:
        filler = folder / "filler"
        filler.write_bytes(bytes(60 * 1024))
        done = forks("export.py", "ckpt=run", "format=torch_export", "output=disk/o.pt2", cwd=tmp_path)
        assert done.code == 2 and done.err.count("\n") == 1, done.err
        assert list(folder.iterdir()) == [filler]
        (folder / "metrics.json").touch()
        with pytest.raises(OSError, match="metrics.json could not be written: No space left on device"):
            records.write_json(folder / "metrics.json", {"text": "x" * 10_000})
        assert {path.name for path in folder.iterdir()} == {"filler", "metrics.json"}


@pytest.mark.parametrize("full", [False, True])
def test_the_temporary_folder_may_be_on_another_disk(full, forks, tmp_path):
    """Lightning's own way writes there first, and then copies."""
    if full:
        with disk(tmp_path / "other", 4) as other:
            (other / "filler").write_bytes(bytes(4096))
            done = forks("train.py", *SMALL, "hydra.run.dir=run", cwd=tmp_path, TMPDIR=str(other))
    else:
        shared = Path("/dev/shm")
        if not shared.is_dir() or os.stat(shared).st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("there is no second file system here")
        with tempfile.TemporaryDirectory(dir=shared) as other:
            done = forks("train.py", *SMALL, "hydra.run.dir=run", cwd=tmp_path, TMPDIR=other)
            assert not os.listdir(other)
    assert done.code == 0, done.err
    for name in ("best", "last"):
        checkpoints.load(tmp_path / "run" / "checkpoints" / f"{name}.ckpt")
    assert not list((tmp_path / "run").rglob("*.writing"))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "completed"


def test_a_folder_that_cannot_be_written_to_is_one_line(forks, tmp_path):
    """By a file where a folder should be, and by a disk that is mounted to be read only: root may write anywhere."""
    (tmp_path / "file").touch()
    with disk(tmp_path / "disk", 100) as folder:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        for place, message in (("disk/run", "Read-only file system"), ("file/run", "expected a folder")):
            done = forks("train.py", *SMALL, f"hydra.run.dir={place}", cwd=tmp_path)
            assert done.code == 2 and message in done.err and done.err.count("\n") == 1, done.err
    assert forks("train.py", *SMALL, "hydra.run.dir=run", cwd=tmp_path).code == 0
    done = forks("predict.py", "ckpt=run", "images=run", "output=file/o.csv", cwd=tmp_path)
    assert done.code == 2 and "no file can be created in" in done.err
