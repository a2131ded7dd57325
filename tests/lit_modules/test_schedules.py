"""Learning rates, computed by hand beside the assertions."""

import math

import pytest
import torch

from lit_modules import cosine, step
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
