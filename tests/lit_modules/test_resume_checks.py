"""A training resumes with the optimizer and the schedule that it started with."""

import functools
import re

import pytest
import torch

from tests.conftest import TINY, compose_in
from train import train

FIVE = [*TINY, "datamodule.num_images=100"]  # five batches an epoch


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A function from a schedule and a number of steps to the ``last.ckpt`` of a run of up to two epochs."""
    files = {}

    def of(scheduler, steps=10):
        if (scheduler, steps) not in files:
            folder = tmp_path_factory.mktemp("run")
            options = [f"scheduler={scheduler}", "trainer.max_epochs=2", f"+trainer.max_steps={steps}"]
            train(compose_in(folder, [*FIVE, *options], "train"))
            files[scheduler, steps] = folder / "checkpoints" / "last.ckpt"
        return files[scheduler, steps]

    return of


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A function from a schedule to the ``last.ckpt`` of a run that a callback stopped after one of two epochs."""
    stop = "+callbacks.stop={_target_:tests.killed.StopAt,step:5}"

    @functools.cache
    def of(scheduler):
        folder = tmp_path_factory.mktemp("run")
        train(compose_in(folder, [*FIVE, f"scheduler={scheduler}", "trainer.max_epochs=2", stop], "train"))
        return folder / "checkpoints" / "last.ckpt"

    return of


@pytest.mark.parametrize(
    ("scheduler", "options", "message"),
    [
        (
            "one_cycle",
            ["scheduler=one_cycle"],
            "SGD with OneCycleLR of 10 steps, and this run has .* OneCycleLR of 15 steps;",
        ),
        (
            "one_cycle",
            [],
            "by SGD with OneCycleLR of 10 steps, and this run has SGD with LambdaLR; expected the same",
        ),
        (
            "cosine",
            ["scheduler=none"],
            "by SGD with LambdaLR, and this run has SGD with no schedule; expected the same",
        ),
        (
            "cosine",
            ["optimizer=adamw"],
            "by SGD with LambdaLR, and this run has AdamW with LambdaLR; expected the same",
        ),
    ],
)
def test_another_optimizer_or_schedule_is_refused(scheduler, options, message, ended, composed, tmp_path):
    path = ended(scheduler)
    with pytest.raises(ValueError, match=message):
        train(composed(*FIVE, *options, "trainer.max_epochs=3", f"ckpt_path={path}"))
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("scheduler", "options", "line"),
    [
        ("cosine", [], None),
        ("cosine", ["optimizer.lr=0.3"], "optimizer.lr=0.3 has no effect: the training continues with 0.05, as in"),
        ("cosine", ["optimizer.weight_decay=0.1"], "optimizer.weight_decay=0.1 has no effect: .* with 0.0005, as in"),
        ("cosine", ["optimizer.momentum=0.5"], "optimizer.momentum=0.5 has no effect: .* continues with 0.9, as in"),
        ("cosine", ["optimizer.nesterov=false"], "optimizer.nesterov=False has no effect: .* continues with True"),
        ("cosine", ["scheduler.warmup=0.5", "trainer.max_epochs=3"], None),  # these take effect
        ("one_cycle", [], None),
        ("one_cycle", ["scheduler.pct_start=0.5"], "scheduler.pct_start=0.5 has no effect: .* continues with 0.3"),
        ("one_cycle", ["optimizer.momentum=0.5"], "optimizer.momentum=0.5 has no effect: .* continues with 0.9"),
    ],
)
def test_options_that_a_checkpoint_restores_are_named(scheduler, options, line, stopped, composed, tmp_path, caplog):
    file = stopped(scheduler)
    train(composed(*FIVE, f"scheduler={scheduler}", "trainer.max_epochs=2", *options, f"ckpt_path={file}"))
    found = [message for message in caplog.messages if "has no effect" in message]
    assert len(found) == (line is not None)
    assert line is None or re.match(line, found[0])
    # The next resume compares with what is in effect.
    before, after = (torch.load(f, weights_only=True) for f in (file, tmp_path / "checkpoints" / "last.ckpt"))
    assert after["trained_by"]["options"] == before["trained_by"]["options"]


def test_other_parameter_groups_are_refused(stopped, composed):
    options = ["trainer.max_epochs=2", "lit_module.backbone_lr_ratio=0.1", f"ckpt_path={stopped('cosine')}"]
    line = "has 2 parameter groups, this run 4; expected the same lit_module.backbone_lr"
    with pytest.raises(ValueError, match=line):
        train(composed(*FIVE, *options))


@pytest.mark.parametrize(("steps", "refused"), [(8, True), (10, False)])
def test_other_batches_only_where_an_epoch_is_whole(steps, refused, ended, composed, tmp_path):
    cfg = composed(*FIVE, "datamodule.batch_size=32", "trainer.max_epochs=3", f"ckpt_path={ended('cosine', steps)}")
    if refused:
        with pytest.raises(
            ValueError, match=r"after 3 of the 5 batches of an epoch, and an epoch now has 2; expected the same"
        ):
            train(cfg)
    else:
        train(cfg)
        assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 12
