"""A checkpoint file can be opened again, or it is not written."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Callback
from omegaconf import ListConfig, OmegaConf

from callbacks.atomic_checkpoint import AtomicCheckpointIO
from inference import checkpoints
from results import record as records
from tests.conftest import TINY
from train import train

RUN = [*TINY, "logger=none"]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (
            {"optimizer_states": [{"param_groups": [{"betas": ListConfig([0.9, 0.99])}]}]},
            "param_groups/0/betas is a omeg",
        ),
        ({"callbacks": {"Mine": {"best": np.float64(1)}}}, "callbacks/Mine/best is a numpy.float64"),
        ({"callbacks": {"Mine": {"file": Path("a")}}}, "callbacks/Mine/file is a pathlib.PosixPath"),
        ({"callbacks": {"Mine": {"counts": defaultdict(int)}}}, "callbacks/Mine/counts is a collections.defaultdict"),
        ({"callbacks": {"Mine": {Path("a"): 1}}}, "callbacks/Mine/key PosixPath('a') is a pathlib.PosixPath"),
        (
            {"lr_schedulers": [{"lr_lambdas": (lambda step: 1.0,)}]},
            "lr_schedulers/0/lr_lambdas/0 is a function",
        ),
        ({"model": OmegaConf.create({"depth": 18})}, "model is a omegaconf.dictconfig.DictConfig"),
    ],
)
def test_what_could_not_be_opened_is_not_written(content, place, tmp_path):
    file = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, file)
    with pytest.raises(ValueError, match="last.ckpt cannot be loaded with weights_only=True") as caught:
        AtomicCheckpointIO().save_checkpoint({"epoch": 2, "state_dict": {"a": torch.ones(2)}} | content, file)
    assert place in str(caught.value) and "\n" not in str(caught.value)
    assert torch.load(file, weights_only=True) == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


class Stateful(Callback):
    def __init__(self):
        self.steps = 0

    def on_train_batch_start(self, *_):
        self.steps += 1

    def state_dict(self):
        return {"file": Path("somewhere")}


def test_a_state_that_cannot_be_opened_ends_the_run_before_its_first_step(composed, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(Stateful, "__new__", lambda cls: made.append(object.__new__(cls)) or made[-1])
    with pytest.raises(ValueError, match="callbacks/Stateful/file is a pathlib.PosixPath; expected only"):
        train(composed(*RUN, f"+callbacks.mine._target_={__name__}.Stateful"))
    assert made[0].steps == 0
    assert records.read(tmp_path)["status"] == "failed"


@pytest.mark.parametrize(
    "options",
    [
        ["optimizer=adamw", "optimizer._target_=torch.optim.RAdam", "~optimizer.fused"],
        ["optimizer=adamw", "optimizer._target_=torch.optim.NAdam", "~optimizer.fused"],
        ["scheduler=step", f"scheduler._target_={__name__}.multi_step", "scheduler.milestones=[2,4]"],
    ],
)
def test_lists_in_the_config_are_plain_lists_in_the_checkpoint(options, composed, tmp_path):
    train(composed(*RUN, *options, "trainer.max_epochs=1"))
    file, checkpoint = checkpoints.load_for_resume(str(tmp_path / "checkpoints" / "last.ckpt"), str(tmp_path))
    if "optimizer=adamw" in options:
        assert [group["betas"] for group in checkpoint["optimizer_states"][0]["param_groups"]] == [[0.9, 0.999]] * 2
    train(composed(*RUN, *options, "trainer.max_epochs=2", f"ckpt_path={file}"))
    assert torch.load(file, weights_only=True)["global_step"] == 6


def multi_step(optimizer, total_steps, milestones, gamma):
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma)
