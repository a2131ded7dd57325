"""Two processes, of which one is lost: the other ends, and the run goes on to what it would have been."""

import signal
import time

import pytest
import torch

from results import record as records
from tests.killed import SMALL, differences

# 15 batches an epoch, of which the last is smaller.
TWO = [*SMALL, "datamodule.num_images=1030", "model._target_=tests.killed.Mortal", "datamodule.mixup=0.2"]
TWO = [option for option in TWO if option != "trainer=cpu"] + "trainer=ddp trainer.accelerator=cpu".split()


def checkpoint(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def training_scores(found):
    """Taken out of a checkpoint: in the epoch in which a run broke off, their sums are added up in another order."""
    measure, findings = (found["callbacks"][name] for name in ("RunMetrics", "Diagnosis"))
    scores = [*measure.pop("history").values(), *findings.pop("train").values()]
    return scores + [measure["last"].pop(name) for name in ("train/loss", "train/top1")]


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_where_one_process_is_killed_the_other_ends_and_the_run_goes_on_to_the_same_weights(rank, forks, tmp_path):
    done = forks("train.py", *TWO, "hydra.run.dir=run", cwd=tmp_path, MORTAL=str(rank), timeout=120)
    assert time.time() - (tmp_path / "run" / "checkpoints" / "last.ckpt").stat().st_mtime < 60  # since that batch
    record = records.read(tmp_path / "run")
    if done.code == -signal.SIGKILL:  # rank 0 itself, or by Lightning's observer, before or after it could say why
        assert record["status"] == "running" or (rank, record["status"]) == (1, "failed") and "peer" in record["error"]
    else:
        assert (rank, done.code, record["status"]) == (1, 1, "failed") and "peer" in record["error"], done.err
    (tmp_path / "elsewhere").mkdir()
    done = forks("train.py", "resume=../run", cwd=tmp_path / "elsewhere", timeout=120)
    assert done.code == 0, done.err
    assert "resuming     from step 1" in done.out  # 15 to 19, as the processes are not in step to the very line
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert sorted(path.name for path in (tmp_path / "run").glob("*.log")) == ["train.log", "train_ddp_process_1.log"]

    whole = forks("train.py", *TWO, "hydra.run.dir=whole", cwd=tmp_path, timeout=120)
    assert whole.code == 0, whole.err
    found, expected = (checkpoint(tmp_path / run) for run in ("run", "whole"))
    for ours, theirs in zip(training_scores(found), training_scores(expected), strict=True):
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-6, atol=0)
    assert differences(found, expected) == []  # weights, optimizer and all else in every bit
    ours, theirs = (records.read(tmp_path / run) for run in ("run", "whole"))
    for fact in ("status", "epochs", "steps", "best_checkpoint"):
        assert ours[fact] == theirs[fact], fact
    for name, value in theirs["metrics"].items():
        assert name.startswith("train/") or ours["metrics"][name] == value, name


def test_beside_resume_a_first_process_takes_none_of_what_further_ones_are_given(forks, tmp_path):
    (tmp_path / "run").mkdir()
    done = forks("train.py", "resume=run", "hydra.job.name=x", cwd=tmp_path)
    assert done.code == 2 and "hydra.job.name=x would change the run" in done.err
