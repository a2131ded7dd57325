"""A training goes on by the optimizer and the schedule that it began with."""

import pytest
import torch

from tests.conftest import compose_in
from train import train

TINY = "datamodule=synthetic datamodule.num_images=100 datamodule.batch_size=16 trainer=cpu".split()  # 5 batches


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A function from a schedule and a number of steps to the ``last.ckpt`` of a run of up to two epochs."""
    files = {}

    def of(scheduler, steps=10):
        if (scheduler, steps) not in files:
            folder = tmp_path_factory.mktemp("run")
            options = [f"scheduler={scheduler}", "trainer.max_epochs=2", f"+trainer.max_steps={steps}"]
            train(compose_in(folder, [*TINY, *options], "train"))
            files[scheduler, steps] = folder / "checkpoints" / "last.ckpt"
        return files[scheduler, steps]

    return of


@pytest.mark.parametrize(
    ("scheduler", "options", "message"),
    [
        (
            "one_cycle",
            ["scheduler=one_cycle"],
            "SGD with OneCycleLR of 10 steps, and here is .* OneCycleLR of 15 steps;",
        ),
        ("one_cycle", [], "by SGD with OneCycleLR of 10 steps, and here is SGD with LambdaLR; expected the same"),
        ("cosine", ["scheduler=none"], "by SGD with LambdaLR, and here is SGD with no schedule; expected the same"),
        ("cosine", ["optimizer=adamw"], "by SGD with LambdaLR, and here is AdamW with LambdaLR; expected the same"),
    ],
)
def test_another_optimizer_or_schedule_is_refused(scheduler, options, message, ended, composed, tmp_path):
    path = ended(scheduler)
    with pytest.raises(ValueError, match=message):
        train(composed(*TINY, *options, "trainer.max_epochs=3", f"ckpt_path={path}"))
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], None),
        (
            ["optimizer.lr=0.3"],
            "lr [0.3, 0.3] of the parameter groups does not count: the training goes on with [0.05, 0",
        ),
        (
            ["optimizer.weight_decay=0.1"],
            "weight_decay [0.1, 0.0] of the parameter groups does not count: the training",
        ),
    ],
)
def test_what_does_not_count_is_said(options, line, ended, composed, caplog):
    train(composed(*TINY, *options, "trainer.max_epochs=3", f"ckpt_path={ended('cosine')}"))
    found = [message for message in caplog.messages if "does not count" in message]
    assert len(found) == (line is not None)
    assert line is None or found[0].startswith(line)


@pytest.mark.parametrize(("steps", "refused"), [(8, True), (10, False)])
def test_other_batches_only_where_an_epoch_is_whole(steps, refused, ended, composed, tmp_path):
    cfg = composed(*TINY, "datamodule.batch_size=32", "trainer.max_epochs=3", f"ckpt_path={ended('cosine', steps)}")
    if refused:
        with pytest.raises(
            ValueError, match=r"after 3 of the 5 batches of an epoch, which has 2 here; expected the same"
        ):
            train(cfg)
    else:
        train(cfg)
        assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 12
