"""The reported best scores are those of the file that is tested; ties go to the lower loss."""

import math
import re
from types import SimpleNamespace

import pytest
import torch

from callbacks.best_checkpoint import BestCheckpoint
from results import record as records
from tests.conftest import TINY
from train import train

# Five batches an epoch, ten images for validation.
FIVE = [*TINY, "datamodule.num_images=100", "logger=none", "optimizer.lr=0.02"]
NAN = math.nan


def measured(file):
    """The epoch and the metrics of the validation that a checkpoint was written after."""
    state = torch.load(file, weights_only=True)["callbacks"]["RunMetrics"]
    return state["validation_epoch"], state["validation"]


@pytest.mark.parametrize(
    ("validations", "saved"),  # (val/top1, val/loss) of each
    [
        ([(0.5, 2), (0.7, 3), (0.6, 1)], [0, 1]),
        ([(0.5, 475), (0.5, 150), (0.5, 150), (0.5, 300)], [0, 1]),
        ([(0.5, 150), (0.5, 475), (0.7, 900), (0.7, 800)], [0, 2, 3]),
        ([(NAN, NAN), (NAN, 1), (0.1, 2), (NAN, 0.5), (0.1, NAN)], [0, 2]),
        ([(0.5, NAN), (0.5, 3), (0.5, NAN)], [0, 1]),
        ([(0.5, None), (0.5, None)], [0]),
    ],
)
def test_ties_go_to_the_lower_loss(validations, saved, tmp_path):
    assert saved_epochs(BestCheckpoint(str(tmp_path), "val/top1", "max"), validations) == saved
    # A resumed run knows the loss of its best.
    first, second = (BestCheckpoint(str(tmp_path), "val/top1", "max") for _ in range(2))
    before = saved_epochs(first, validations[:1])
    second.load_state_dict(first.state_dict())
    assert before + [1 + epoch for epoch in saved_epochs(second, validations[1:])] == saved


def saved_epochs(callback, validations):
    epochs = []
    trainer = SimpleNamespace(fast_dev_run=False, state=SimpleNamespace(fn="fit"), sanity_checking=False, loggers=[])
    trainer.strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all=True: decision)
    trainer.save_checkpoint = lambda *_: epochs.append(trainer.current_epoch)
    trainer.is_global_zero, trainer.check_val_every_n_epoch, trainer.ckpt_path = True, None, None
    for trainer.current_epoch, (top1, loss) in enumerate(validations):
        trainer.global_step = trainer.current_epoch + 1
        trainer.callback_metrics = {"val/top1": torch.tensor(top1)}
        if loss is not None:
            trainer.callback_metrics["val/loss"] = torch.tensor(loss)
        callback.on_validation_end(trainer, None)
    return epochs


@pytest.mark.parametrize(
    "options",
    [
        ["trainer.max_epochs=6"],
        ["trainer.max_epochs=6", "+trainer.val_check_interval=2"],
        ["trainer.max_epochs=6", "callbacks=ema", "callbacks.ema.decay=0.5"],
        ["trainer.max_epochs=6", "+callbacks.checkpoint.every_n_epochs=2"],
        ["trainer.max_epochs=6", "monitor=val/loss", "mode=min"],
        ["trainer.max_epochs=12", "callbacks=early_stopping", "callbacks.early_stopping.patience=2"],
        [
            "trainer.max_epochs=4",
            "+callbacks.more={_target_:lightning.pytorch.callbacks.ModelCheckpoint,save_top_k:-1}",
        ],
    ],
)
def test_what_is_reported_is_what_is_tested(options, composed, tmp_path, caplog):
    caplog.set_level("INFO")
    value = train(composed(*FIVE, *options))
    record, last = records.read(tmp_path), torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert record["best_checkpoint"] == "checkpoints/best.ckpt"
    epoch, scores = measured(tmp_path / "checkpoints" / "best.ckpt")
    monitor = "val/loss" if "mode=min" in options else "val/top1"
    assert scores == {name: record["metrics"][name] for name in scores} and value == scores[monitor]
    (line,) = [line for message in caplog.messages for line in message.splitlines() if line.startswith("best epoch")]
    assert re.match(rf"best epoch +{epoch + 1} of {record['epochs']}  \({monitor} {value:.4f}\)", line)
    # Among all validations the best score; among equal ones the lowest loss, then the first.
    history = last["callbacks"]["RunMetrics"]["history"]
    validations = list(zip(history["val/top1"], history["val/loss"], strict=True))
    if "+callbacks.checkpoint.every_n_epochs=2" in options:
        validations = validations[1::2]
    key = (lambda v: v[1][1]) if monitor == "val/loss" else (lambda v: (-v[0][1], v[1][1]))
    (at, top1), (_, loss) = min(validations, key=key)
    assert (math.ceil(at) - 1, top1, loss) == (epoch, scores["val/top1"], scores["val/loss"])


def test_without_a_best_checkpoint_the_last_validation_is_reported(composed, tmp_path):
    value = train(composed(*FIVE, "trainer.max_epochs=4", "callbacks.checkpoint=null", "optimizer.lr=1"))
    epoch, scores = measured(tmp_path / "checkpoints" / "last.ckpt")
    record = records.read(tmp_path)
    assert (epoch, record["best_checkpoint"]) == (3, None)
    assert scores == {name: record["metrics"][name] for name in scores} and value == scores["val/top1"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["+callbacks.checkpoint.save_top_k=3"],
            r"save_top_k=3: this callback keeps one file.* add a callback: '\+callbacks.more=",
        ),
        (["+callbacks.checkpoint.save_last=true"], "save_last=True: this callback keeps one file"),
        (["+callbacks.checkpoint.save_weights_only=true"], "save_weights_only=True: this callback keeps one file"),
        (["+callbacks.checkpoint.every_n_train_steps=3"], "every_n_train_steps=3: this callback keeps one file"),
        (["callbacks.checkpoint.filename=last"], "filename=last: last.ckpt is the checkpoint to resume from"),
        (["callbacks.checkpoint.monitor=val/loss"], "set it for the run: monitor=val/loss mode=min$"),
        (["callbacks.checkpoint.mode=min"], "callbacks.checkpoint has monitor=val/top1 mode=min, but the run has"),
        (
            ["callbacks=early_stopping", "callbacks.early_stopping.monitor=val/loss"],
            "EarlyStopping has monitor=val/loss mode=max; expected mode=min for a loss",
        ),
        (
            ["callbacks=early_stopping", "callbacks.early_stopping.monitor=val/top", "+trainer.num_sanity_val_steps=0"],
            r"monitor=val/top: no such metric; did you mean val/top\d\?",
        ),
        (
            ["callbacks=early_stopping", "callbacks.early_stopping.monitor=train/top"],
            r"monitor=train/top: no such metric; did you mean train/top1\?",
        ),
        (["callbacks=early_stopping", "+trainer.limit_val_batches=0"], "EarlyStopping: there is no validation in this"),
    ],
)
def test_options_that_contradict_the_run_are_rejected(options, line, composed):
    with pytest.raises(Exception, match=line):
        train(composed(*FIVE, *options, "trainer.max_epochs=1"))


LIGHTNINGS = [
    "callbacks.checkpoint._target_=lightning.pytorch.callbacks.ModelCheckpoint",
    "+callbacks.checkpoint.enable_version_counter=false",
]


@pytest.mark.parametrize("config", [LIGHTNINGS, []], ids=["by its own config", "by a config composed now"])
def test_a_run_of_lightnings_checkpoint_resumes(config, composed, tmp_path):
    """Runs of before BestCheckpoint name Lightning's class in their config, and in the state of last.ckpt."""
    train(composed(*FIVE, *LIGHTNINGS, "trainer.max_epochs=2"))
    last, best = tmp_path / "checkpoints" / "last.ckpt", tmp_path / "checkpoints" / "best.ckpt"
    before, checkpoint = measured(best), torch.load(last, weights_only=True)
    (state,) = (state for name, state in checkpoint["callbacks"].items() if name.startswith("ModelCheckpoint"))
    state["best_model_score"] = state["best_k_models"][str(best)] = torch.tensor(2.0)  # nothing will be better
    torch.save(checkpoint, last)
    value = train(composed(*FIVE, *config, "trainer.max_epochs=3", f"ckpt_path={last}"))
    assert measured(best) == before and value == before[1]["val/top1"]
    assert torch.load(last, weights_only=True)["epoch"] == 2
