"""Hydra's launchers and sweepers with our jobs; each needs its extra (joblib, submitit, ray, optuna)."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from launch import validation
from results import record as records
from tests.conftest import TINY

ROOT = Path(__file__).parent.parent


def needs(plugin):
    found = find_spec("hydra_plugins") and find_spec(f"hydra_plugins.hydra_{plugin}")
    return pytest.mark.skipif(not found, reason=f"hydra_{plugin} is not installed")


def command(*args):
    return ["train.py", "-m", *TINY, *args, "hydra.sweep.dir=sweep"]


def in_shell(*args):
    return [sys.executable, ROOT / "train.py", *command(*args)[1:]]


def sweep(*args, cwd, **env):
    env = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name} | env
    return subprocess.run(in_shell(*args), capture_output=True, text=True, cwd=cwd, timeout=300, check=False, env=env)


def jobs(folder):
    return {path.parent.name: records.read(path.parent) for path in (folder / "sweep").glob("*/result.json")}


WHERE = """
import os, signal, torch
from pathlib import Path
from lightning import Callback

class Where(Callback):
    def on_fit_start(self, trainer, pl_module):
        facts = [os.getpid(), torch.get_num_threads(), os.environ.get("CUDA_VISIBLE_DEVICES")]
        Path(trainer.default_root_dir, "where").write_text(" ".join(map(str, facts)))

class KilledOnce(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        seen = Path("killed")
        if trainer.current_epoch == 1 and "lr-0.1" in trainer.default_root_dir and not seen.exists():
            seen.touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


@needs("joblib_launcher")
def test_parallel_jobs_have_a_gpu_each_and_share_the_cores(tmp_path):
    (tmp_path / "where.py").write_text(WHERE)
    args = ["hydra/launcher=parallel", "seed=0,1,2", "+callbacks.where._target_=where.Where"]
    done = sweep(*args, cwd=tmp_path, PYTHONPATH=str(tmp_path), CUDA_VISIBLE_DEVICES="5,7")
    assert done.returncode == 0, done.stderr
    assert {record["status"] for record in jobs(tmp_path).values()} == {"completed"}
    found = [path.read_text().split() for path in (tmp_path / "sweep").glob("*/where")]
    processes = {pid: (int(threads), gpu) for pid, threads, gpu in found}
    assert len(found) == 3 and len(processes) == 2
    assert {gpu for _, gpu in processes.values()} == {"5", "7"}
    assert sum(threads for threads, _ in processes.values()) <= max(2, os.cpu_count())
    assert (tmp_path / "sweep" / "report.md").read_text().count("| 3 | completed |") == 1


@needs("joblib_launcher")
def test_a_sweep_whose_process_is_killed_resumes(forks, tmp_path):
    (tmp_path / "where.py").write_text(WHERE)
    args = ["hydra/launcher=parallel", "optimizer.lr=0.1,0.2,0.3", "trainer.max_epochs=3"]
    args = command(*args, "+callbacks.odd._target_=where.KilledOnce")
    options = {"cwd": tmp_path, "timeout": 300, "PYTHONPATH": str(tmp_path)}
    done = forks(*args, **options)
    assert (tmp_path / "killed").exists()
    assert done.code == 1 and "Traceback" not in done.err
    assert done.err.count("error: a launcher process died") == 1
    assert done.err.count(f"resume with: python {ROOT / 'train.py'} resume=sweep") == 1
    assert forks("train.py", "resume=sweep", **options).code == 0
    found = jobs(tmp_path)
    assert [record["status"] for record in found.values()] == ["completed"] * 3
    assert {record["steps"] for record in found.values()} == {9}


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"  # a zombie is nobody's work


@needs("joblib_launcher")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow)]
)
def test_a_stopped_sweep_leaves_no_processes_behind(number, code, tmp_path):
    args = ["hydra/launcher=parallel", "seed=0,1", "trainer.max_epochs=5000"]
    process = subprocess.Popen(in_shell(*args), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while len(list((tmp_path / "sweep").glob("*/checkpoints/last.ckpt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    process.send_signal(number)
    assert process.wait(60) == code
    deadline = time.monotonic() + 60
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(filter(alive, children))
    assert {record["status"] for record in jobs(tmp_path).values()} <= {"running", "interrupted"}


@needs("submitit_launcher")
def test_submitit_runs_each_job_in_a_process_of_its_own(tmp_path):
    done = sweep("hydra/launcher=submitit_local", "seed=0,1", "+hydra.job.env_set.OMP_NUM_THREADS=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {name: record["status"] for name, record in jobs(tmp_path).items()} == {
        "seed-0": "completed",
        "seed-1": "completed",
    }


@pytest.mark.slow
@needs("submitit_launcher")
def test_a_process_of_submitits_that_is_killed_costs_no_report(tmp_path):
    (tmp_path / "where.py").write_text(WHERE)
    args = ["hydra/launcher=submitit_local", "optimizer.lr=0.1,0.2", "+hydra.job.env_set.OMP_NUM_THREADS=1"]
    odd = ["trainer.max_epochs=3", "+callbacks.odd._target_=where.KilledOnce"]
    done = sweep(*args, *odd, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "1 incomplete of 2 jobs; resume with: python " in done.stderr
    assert sweep(*args, *odd, cwd=tmp_path, PYTHONPATH=str(tmp_path)).returncode == 0
    assert {record["steps"] for record in jobs(tmp_path).values()} == {9}


@needs("ray_launcher")
def test_ray_starts_a_cluster_here_and_shares_it_out(tmp_path):
    (tmp_path / "where.py").write_text(WHERE)
    args = ["hydra/launcher=cluster", "seed=0,1", "+callbacks.where._target_=where.Where"]
    gpus = ["+hydra.launcher.ray.init.num_gpus=1", "hydra.launcher.ray.remote.num_gpus=0.5"]  # as if there were one
    done = sweep(*args, *gpus, "+hydra.launcher.ray.init.num_cpus=2", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert [record["status"] for record in jobs(tmp_path).values()] == ["completed"] * 2
    found = [path.read_text().split() for path in (tmp_path / "sweep").glob("*/where")]
    assert [facts[1:] for facts in found] == [["1", "0"]] * 2  # a thread, and half of GPU 0


@needs("optuna_sweeper")
def test_a_search_finds_the_best_of_its_trials_and_goes_on(forks, tmp_path):
    search = ["hydra/sweeper=search", "optimizer.lr=tag(log, interval(0.001, 0.5))", "datamodule.batch_size=8,16"]
    line = command(*search)
    assert forks(*line, "hydra.sweeper.n_trials=3", cwd=tmp_path).code == 0
    first = jobs(tmp_path)
    done = forks(*line, "hydra.sweeper.n_trials=6", cwd=tmp_path, timeout=120)
    assert done.code == 0, done.err
    found = jobs(tmp_path)
    assert len(found) == 6 and set(first) < set(found)
    assert done.out.count("was already completed") == 3
    best = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    scores = {name: record["metrics"]["val/top1"] for name, record in found.items()}
    assert best["best_value"] == max(scores.values())
    (score,) = (
        score for name, score in scores.items() if f"optimizer.lr-{best['best_params']['optimizer.lr']}" in name
    )
    assert score == best["best_value"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["hydra/launcher=paralel"], "hydra/launcher=paralel: no such option; did you mean parallel?"),
        (["hydra/sweeper=serach"], "hydra/sweeper=serach: no such option; did you mean search?"),
        (["optimizer.lr=interval(0.1,1)"], "an interval needs a search; add hydra/sweeper=search"),
        (["optimizer.lr=interval(-1,1)"], "optimizer.lr=-1.0: expected 0 or more"),
        pytest.param(["hydra/sweeper=search"], "a search needs something to search", marks=needs("optuna_sweeper")),
    ],
)
def test_a_mistake_is_reported_before_torch_is_imported(args, message, lean, tmp_path):
    done = lean(*command(*args), cwd=tmp_path)
    assert (done.code, done.imported) == (2, [])
    assert message in done.err
    assert not (tmp_path / "sweep").exists()


def test_a_missing_plugin_is_named_with_what_installs_it(examine, monkeypatch):
    monkeypatch.setattr(validation, "find_spec", lambda name: None)
    answer = examine(["-m", "hydra/launcher=parallel", "seed=0,1"])
    assert answer.error == "hydra/launcher=parallel needs the extra joblib: pip install -e '.[joblib]'"
