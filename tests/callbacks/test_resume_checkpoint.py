"""What a run keeps to go on from, and what it knows of its best where it goes on elsewhere."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback

from callbacks.best_checkpoint import BestCheckpoint
from callbacks.resume_checkpoint import SYNC_EVERY, ResumeCheckpoint
from results import record as records
from tests.conftest import TINY, compose_in
from train import train

FIVE = [*TINY, "datamodule.num_images=100", "scheduler=none"]  # five batches an epoch


def opened(file):
    return torch.load(file, weights_only=True)


def state(checkpoint, callback):
    return next(state for name, state in checkpoint["callbacks"].items() if callback in name)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of two epochs of five batches."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(compose_in(folder, [*FIVE, "trainer.max_epochs=2"], "train"))
    return folder


def test_the_best_of_another_folder_is_not_this_runs(run, composed, tmp_path):
    # Far too high a rate: every epoch from here on is worse than those before.
    others = ["trainer.max_epochs=3", "optimizer.lr=30", f"ckpt_path={run}/checkpoints/last.ckpt"]
    best = train(composed(*FIVE, *others))
    kept = opened(tmp_path / "checkpoints" / "best.ckpt")
    assert kept["epoch"] == 2
    found = state(kept, "RunMetrics")
    assert found["validation_epoch"] == 2
    assert best == found["validation"]["val/top1"] == records.read(tmp_path)["metrics"]["val/top1"]
    assert [epoch for epoch, _ in found["history"]["val/top1"]] == [1, 2, 3]


def test_a_folder_that_was_moved_or_copied_is_where_its_checkpoints_are(run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    for folder in (run, tmp_path / "copy"):
        last, best = folder / "checkpoints" / "last.ckpt", str(folder / "checkpoints" / "best.ckpt")
        found = state(opened(last), "BestCheckpoint")
        assert (found["dirpath"], found["best_model_path"]) == ("", "best.ckpt")
        assert list(found["best_k_models"]) == ["best.ckpt"]
        callback = BestCheckpoint(str(folder / "checkpoints"), "val/top1", "max")
        trainer = SimpleNamespace(ckpt_path=last, default_root_dir=folder)
        callback.on_load_checkpoint(trainer, None, opened(last))
        callback.load_state_dict(found)
        assert (callback.best_model_path, list(callback.best_k_models)) == (best, [best])
        assert callback.best_model_score == found["best_model_score"]


@pytest.mark.parametrize("steps", [3, 8])
def test_max_steps_within_an_epoch_leaves_what_was_trained(steps, composed, tmp_path, caplog):
    caplog.set_level("INFO")
    train(composed(*FIVE, f"+trainer.max_steps={steps}", "trainer.max_epochs=4"))
    assert opened(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == steps
    epochs = [message for message in caplog.messages if message.startswith("epoch ")]
    assert ["val loss" in message for message in epochs] == [True] * (steps // 5) + [False]


def test_early_stopping_that_must_wait_does_not_write_in_each_step(composed, monkeypatch):
    saved = []
    monkeypatch.setattr(ResumeCheckpoint, "_save", lambda self, trainer: saved.append(trainer.global_step))
    stopping = ["callbacks=early_stopping", "callbacks.early_stopping.patience=0", "optimizer.lr=0.0"]
    train(composed(*FIVE, *stopping, "trainer.max_epochs=4", "+trainer.min_epochs=4"))
    assert saved == [0, 5, 10, 15, 20]


STOPPED = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1", "optimizer.lr=0.0", "logger=none"]


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """The folder of a run that early stopping ended after two of ten epochs."""
    folder = tmp_path_factory.mktemp("runs") / "early"
    train(compose_in(folder, [*FIVE, *STOPPED, "trainer.max_epochs=10"], "train"))
    return folder


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ([], 3),  # in a new folder, callbacks decide anew: one more epoch without a better score
        (["callbacks.early_stopping.patience=4"], 5),
        (["+callbacks.early_stopping.min_delta=-1.0"], 10),
        (["callbacks=default", "~callbacks.early_stopping"], 10),
        (["monitor=val/loss", "mode=min", "callbacks.early_stopping.patience=2"], 5),  # its count begins anew
    ],
)
@pytest.mark.parametrize("here", [False, True])
def test_options_of_callbacks_take_effect_when_a_run_continues(options, epochs, here, early, composed, tmp_path):
    if here:
        shutil.copytree(early, tmp_path, dirs_exist_ok=True)
    config = [*FIVE, *(STOPPED[2:] if "callbacks=default" in options else STOPPED), "trainer.max_epochs=10"]
    config += [option for option in options if option != "~callbacks.early_stopping"]
    train(composed(*config, f"ckpt_path={tmp_path if here else early}/checkpoints/last.ckpt"))
    record = records.read(tmp_path)
    assert record["epochs"] == (2 if here and not options else epochs)
    last = opened(tmp_path / "checkpoints" / "last.ckpt")
    if "callbacks.early_stopping.patience=4" in options:
        assert state(last, "EarlyStopping")["patience"] == 4


class Counter(Callback):
    """Changes an option of its own, and keeps it in its state."""

    def __init__(self, left: int):
        self.left = left

    def on_train_epoch_end(self, *_):
        self.left -= 1

    def state_dict(self):
        return {"left": self.left}

    def load_state_dict(self, state_dict):
        self.left = state_dict["left"]


@pytest.mark.parametrize(("left", "after"), [(5, 2), (9, 8)])
def test_what_a_callback_changes_itself_is_restored(left, after, composed, tmp_path):
    config = [*FIVE, "logger=none", f"+callbacks.counter._target_={__name__}.Counter"]
    train(composed(*config, "+callbacks.counter.left=5", "trainer.max_epochs=2"))
    file = tmp_path / "checkpoints" / "last.ckpt"
    assert state(opened(file), "Counter")["left"] == 3
    train(composed(*config, f"+callbacks.counter.left={left}", "trainer.max_epochs=3", f"ckpt_path={file}"))
    assert state(opened(file), "Counter")["left"] == after


def test_another_seed_takes_effect(run, composed, tmp_path):
    generators = []
    for seed in (0, 1):
        train(composed(*FIVE, f"seed={seed}", "trainer.max_epochs=3", f"ckpt_path={run}/checkpoints/last.ckpt"))
        generators.append(
            state(opened(tmp_path / "checkpoints" / "last.ckpt"), "ResumeCheckpoint")["generators"]["torch"]
        )
        shutil.rmtree(tmp_path / "checkpoints")
    assert torch.equal(
        generators[0], state(opened(run / "checkpoints" / "last.ckpt"), "ResumeCheckpoint")["generators"]["torch"]
    )
    assert not torch.equal(*generators)


def test_time_that_is_used_up_stays_used_up(composed, tmp_path):
    config = [*FIVE, "logger=none", "trainer.max_time=00:00:00:01", "trainer.max_epochs=100000"]
    for resumed in ([], [f"ckpt_path={tmp_path}/checkpoints/last.ckpt"]):
        with pytest.raises(records.OutOfTime, match="trainer.max_time ended the training after"):
            train(composed(*config, *resumed))
        assert records.read(tmp_path)["status"] == "interrupted"


@pytest.mark.parametrize("accumulate", [1, 16, 64])
def test_several_processes_ask_one_another_also_where_gradients_are_accumulated(accumulate):
    asked = []
    trainer = SimpleNamespace(world_size=2, num_training_batches=10_000, accumulate_grad_batches=accumulate)
    trainer.val_check_batch, trainer.check_val_every_n_epoch = 10_000, 1
    trainer.max_steps, trainer.global_step, trainer.should_stop = -1, 0, False
    trainer.strategy = SimpleNamespace(reduce_boolean_decision=lambda mine, all: bool(asked.append(batch)))
    last = ResumeCheckpoint("anywhere")
    for batch in range(2000):
        last.on_train_batch_end(trainer, None, None, None, batch)
    every = SYNC_EVERY * accumulate
    assert sorted({batch + 1 for batch in asked}) == list(range(every, 2001, every))
