"""Two processes: where one dies the other ends, and the run goes on from its last checkpoint."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from studies import record as records
from tests.killed import differences
from tests.test_resume import ROOT, checkpoint

TWO = (
    "datamodule=synthetic datamodule.num_images=320 datamodule.batch_size=8 datamodule.image_size=16 trainer=ddp "
    "trainer.accelerator=cpu trainer.max_epochs=5 callbacks.last.every_n_train_steps=1"
).split()


def command(*argv):
    return [sys.executable, str(ROOT / "train.py"), *argv]


def options(folder):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return {"cwd": folder, "env": env, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    done = subprocess.run(command(*TWO, "hydra.run.dir=run"), **options(folder), timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_two_processes_is_killed(rank, whole, tmp_path):
    process = subprocess.Popen(command(*TWO, "hydra.run.dir=run"), **options(tmp_path))
    while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    time.sleep(0.5)  # into the training
    (other,) = children(process.pid)
    os.kill((process.pid, other)[rank], signal.SIGKILL)
    process.communicate(timeout=60)  # both have ended when neither has the output open any more
    assert process.returncode in (1, -signal.SIGKILL)  # the first process errs, unless Lightning's observer is quicker
    assert records.read(tmp_path / "run")["status"] in ("running", "failed")

    resumed = subprocess.run(command("resume=run"), **options(tmp_path), timeout=120, check=False)
    assert resumed.returncode == 0, resumed.stdout
    found, expected = checkpoint(tmp_path / "run"), checkpoint(whole)
    ours, theirs = (checkpoint["callbacks"]["Measure"].pop("history") for checkpoint in (found, expected))
    assert differences(found, expected) == []  # weights, optimizer and all else in every bit
    for name, values in theirs.items():  # the broken epoch's sums were added up in another order
        assert torch.tensor(ours[name]).allclose(torch.tensor(values), rtol=1e-6), name


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(number) for number in file.read().split()]
