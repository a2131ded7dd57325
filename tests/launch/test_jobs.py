"""What is done is not done again, what failed is tried again, what broke off goes on."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from launch import jobs
from results import record as records

ROOT = Path(__file__).parents[2]


def job(folder, status, *overrides):
    records.write(folder, {"status": status, "overrides": list(overrides), "metrics": {}})
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    (folder / "events.out.tfevents.1").touch()
    (folder / "train.log").touch()


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_what_broke_off_goes_on_from_its_last_checkpoint(status, tmp_path):
    job(tmp_path, status, "a=1")
    assert jobs.resume_checkpoint(tmp_path, jobs.previous_record(tmp_path, ["a=1"])) == str(
        tmp_path / "checkpoints" / "last.ckpt"
    )
    assert (tmp_path / "events.out.tfevents.1").exists()


def test_what_failed_starts_anew_and_keeps_its_log(tmp_path):
    job(tmp_path, "failed", "a=1")
    assert jobs.resume_checkpoint(tmp_path, jobs.previous_record(tmp_path, ["a=1"])) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "train.log"]


@pytest.mark.parametrize(("seconds", "status"), [(-1, "interrupted"), (1, "failed")])
def test_what_failed_before_it_came_any_further_can_still_go_on(seconds, status, tmp_path):
    job(tmp_path, "failed", "a=1")
    start, last = tmp_path / ".hydra" / "config.yaml", tmp_path / "checkpoints" / "last.ckpt"
    start.parent.mkdir()
    start.touch()
    os.utime(last, (start.stat().st_mtime + seconds,) * 2)
    jobs.mark_resumable(tmp_path, None)
    assert records.read(tmp_path)["status"] == "failed"  # it went on from nothing
    jobs.mark_resumable(tmp_path, str(last))
    assert records.read(tmp_path)["status"] == status


def test_another_job_is_refused_but_not_for_what_changes_no_result(tmp_path):
    job(tmp_path, "completed", "a=1", "trainer.max_time=00:00:00:01", "data_dir=x")
    assert jobs.previous_record(tmp_path, ["data_dir=y", "a=1"])["status"] == "completed"
    with pytest.raises(ValueError, match=r"holds a job with a=1, this one has a=2"):
        jobs.previous_record(tmp_path, ["a=2"])
    with pytest.raises(ValueError, match=r"with nothing more, this one has datamodule.data_dir=/fish"):
        jobs.previous_record(tmp_path, ["a=1", "datamodule.data_dir=/fish"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 200_000,
        '{"a": 1}',
        '{"status": "completed", "overrides": 5}',
        '{"status": "completed", "overrides": [5]}',
        '{"status": "completed", "metrics": [0.5]}',
    ],
)
def test_a_torn_or_foreign_record_is_none(text, tmp_path):
    (tmp_path / "result.json").write_text(text)
    assert jobs.previous_record(tmp_path, []) is None
    assert not jobs.is_completed(tmp_path)


def test_a_record_may_lack_all_but_its_status(tmp_path):
    (tmp_path / "result.json").write_text('{"status": "completed", "overrides": null}')
    assert jobs.previous_record(tmp_path, []) == {"status": "completed", "overrides": [], "metrics": {}}


def test_two_processes_are_not_at_the_same_job(tmp_path):
    code = "import sys; from launch import jobs\n"
    code += "with jobs.lock_run_dir(sys.argv[1]): print('mine', flush=True); sys.stdin.read()"
    command, pipe = [sys.executable, "-c", code, str(tmp_path)], subprocess.PIPE
    holder = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
    assert holder.stdout.readline() == "mine\n"
    waiter = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=pipe, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        waiter.wait(1)
    os.kill(holder.pid, 9)  # the system lets go
    assert waiter.communicate(timeout=20)[0] == "mine\n"
    holder.communicate()


def timed(folder, status, began, ended):
    """A job that began and ended (or was last written) at so many seconds."""
    records.write(folder, {"status": status, "overrides": [], "metrics": {}})
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").touch()
    os.utime(folder / ".hydra" / "config.yaml", (began, began))
    os.utime(folder / "result.json", (ended, ended))


def test_what_is_left_is_as_long_as_the_completed_jobs_were(tmp_path):
    (tmp_path / "multirun.yaml").touch()
    os.utime(tmp_path / "multirun.yaml", (1000, 1000))  # when the sweep was started

    def left(size):
        return jobs.time_left(tmp_path, size)

    assert left(10) == ""
    timed(tmp_path / "a", "completed", 500, 900)  # before this sweep was resumed: completed, but no measure
    timed(tmp_path / "b", "running", 910, 950)  # killed then
    assert left(10) == ""
    timed(tmp_path / "c", "completed", 1000, 1100)
    timed(tmp_path / "d", "completed", 1100, 1300)
    timed(tmp_path / "e", "failed", 1300, 1301)  # ended, but no measure
    assert left(10) == "  about 15 min left"  # 6 jobs of 150 s, one at a time
    timed(tmp_path / "f", "running", 1301, 1302)
    timed(tmp_path / "g", "running", 1301, 1302)
    assert left(10) == "  about 5 min left"  # the one that starts is the third
    assert left(5) == "  about 2 min left"
    assert left(0) == ""  # a search


def config_of(key, folder, *given):
    name = key.split(".")[1]
    return OmegaConf.create({"hydra": {name: {"dir": str(folder)}, "overrides": {"hydra": [*given], "task": []}}})


@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir"])
def test_no_two_that_start_in_the_same_second_share_a_folder(key, tmp_path):
    configs = [config_of(key, tmp_path / "runs/digits/2026-11-25_10-00-00") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda config: jobs.claim_folder(config, key), configs))
    suffixes = ["", *(f"_{number}" for number in range(2, 9))]
    expected = [str(tmp_path / f"runs/digits/2026-11-25_10-00-00{suffix}") for suffix in suffixes]
    assert sorted(OmegaConf.select(config, key) for config in configs) == expected
    assert sorted(map(str, (tmp_path / "runs/digits").iterdir())) == expected
    given = [jobs.is_given(config.hydra, key) for config in configs]
    assert given == 8 * [key == "hydra.sweep.dir"]  # for the jobs of a sweep


def test_a_folder_that_was_given_is_left_to_hydra(tmp_path):
    config = config_of("hydra.run.dir", tmp_path / "mine", f"hydra.run.dir={tmp_path / 'mine'}")
    jobs.claim_folder(config, "hydra.run.dir")
    assert config.hydra.run.dir == str(tmp_path / "mine") and not list(tmp_path.iterdir())
