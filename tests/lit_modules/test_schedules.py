"""Learning rates, computed by hand beside the assertions."""

import math

import pytest
import torch

from lit_modules.schedules import cosine, exponential, step
from tests.conftest import TINY
from train import train


def rates(schedule, steps, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = schedule(optimizer, total_steps=steps, **options)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen, optimizer.param_groups[0]["lr"]


def test_cosine_rises_in_a_line_and_falls_in_half_a_wave():
    seen, end = rates(cosine, 10, warmup=0.2)
    assert seen[:2] == pytest.approx([2 / 3, 4 / 3])  # two of ten steps: a third, two thirds, then all of it
    assert seen[2:] == pytest.approx([1 + math.cos(math.pi * k / 8) for k in range(8)])
    assert end == pytest.approx(0)


def test_cosine_ends_where_it_is_told():
    seen, end = rates(cosine, 8, warmup=0.0, final=0.25)
    assert seen[0] == 2.0
    assert seen[4] == pytest.approx(2 * (0.25 + 0.75 / 2))
    assert end == pytest.approx(0.5)


def test_step_divides_at_shares_of_the_training():
    seen, _ = rates(step, 8, milestones=[0.5, 0.75], gamma=0.1)
    assert seen == pytest.approx([2.0] * 4 + [0.2] * 2 + [0.02] * 2)


def test_exponential_rises_by_the_same_factor():
    seen, _ = rates(exponential, 4, first=1e-3)
    assert seen == pytest.approx([0.002, 0.02, 0.2, 2.0])


def test_plateau_lowers_the_rate_after_validations_without_progress_also_in_a_resumed_run(composed, tmp_path):
    tiny = "datamodule=synthetic datamodule.num_images=64 datamodule.batch_size=16 datamodule.image_size=16".split()
    still = ["optimizer.lr=1e-6", "trainer=cpu", "logger=none", "scheduler=plateau", "scheduler.patience=1"]
    found = []
    for epochs, ckpt_path in ((6, None), (3, None), (6, tmp_path / "half" / "checkpoints" / "last.ckpt")):
        folder = tmp_path / ("half" if epochs == 3 or ckpt_path else "whole")
        train(
            composed(
                *tiny, *still, f"run_dir={folder}", f"trainer.max_epochs={epochs}", f"ckpt_path={ckpt_path or 'null'}"
            )
        )
        last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        found.append(([g["lr"] for g in last["optimizer_states"][0]["param_groups"]], last["lr_schedulers"]))
    assert found[0][0] == pytest.approx([1e-8] * 2)  # it falls after validations 3 and 5
    assert found[2] == found[0] != found[1]


@pytest.mark.parametrize(("schedule", "options"), [(cosine, {"warmup": 5}), (step, {"milestones": [30, 60]})])
def test_steps_in_place_of_shares_are_refused(schedule, options):
    with pytest.raises(ValueError, match=r"share"):
        rates(schedule, 10, **options)


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "expected"), [(3, -1, 5 + 3 + 2), (5, -1, 5 + 3 + 2 + 2 + 2), (3, 7, 7), (-1, 7, 7)]
)
def test_a_schedule_is_as_long_as_the_training_when_accumulation_changes(
    max_epochs, max_steps, expected, composed, tmp_path
):
    accumulation = "{_target_:lightning.pytorch.callbacks.GradientAccumulationScheduler,scheduling:{0:1,1:2,2:4}}"
    options = [f"trainer.max_epochs={max_epochs}", f"+trainer.max_steps={max_steps}", f"+callbacks.more={accumulation}"]
    train(
        composed(*TINY, "datamodule.num_images=100", "logger=none", "scheduler=one_cycle", *options)
    )  # five batches an epoch
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == last["lr_schedulers"][0]["total_steps"] == expected
