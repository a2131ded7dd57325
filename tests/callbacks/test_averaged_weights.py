"""Averaged weights: what they are, and that they are what is validated, kept and tested."""

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.ema import EMA
from callbacks.swa import SWA


class Counter(LightningModule):
    """Its weight is the number of optimizer steps; its buffer ten times that."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.register_buffer("statistic", torch.zeros(()))
        self.seen = {"val": [], "test": []}

    def training_step(self, batch, batch_idx):
        self.statistic += 10
        return -self.weight

    def validation_step(self, batch, batch_idx):
        self.seen["val"].append(self.weight.item())
        self.log("val/top1", self.weight)

    def test_step(self, batch, batch_idx):
        self.seen["test"].append((self.weight.item(), self.statistic.item()))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def averages(values, decay):
    found = [values[0]]
    for number, value in enumerate(values[1:], start=1):
        kept = min(decay, (1 + number) / (10 + number))
        found.append(kept * found[-1] + (1 - kept) * value)
    return found


class SaveAtEpochEnd(Checkpoint):
    """Writes a checkpoint at the epoch's end, when the training has not ended yet."""

    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path)


def test_a_run_resumed_after_its_last_step_has_the_average(tmp_path):
    loader, file = DataLoader(TensorDataset(torch.zeros(4)), batch_size=1), tmp_path / "last.ckpt"
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    for ckpt_path in (None, file):
        counter = Counter()
        trainer = Trainer(accelerator="cpu", max_epochs=1, callbacks=[EMA(decay=0.3), SaveAtEpochEnd(file)], **silent)
        trainer.fit(counter, loader, ckpt_path=ckpt_path, weights_only=True)
        assert counter.weight.item() == pytest.approx(averages([1.0, 2.0, 3.0, 4.0], 0.3)[-1])
    assert trainer.global_step == 4  # none of them here


@pytest.mark.parametrize("every", [1, 2])
def test_validation_checkpoint_and_test_see_the_average(every, tmp_path):
    loader = DataLoader(TensorDataset(torch.zeros(4)), batch_size=1)  # four steps an epoch
    one = DataLoader(TensorDataset(torch.zeros(1)))
    best = ModelCheckpoint(tmp_path, monitor="val/top1", mode="max")
    ema = EMA(decay=0.3, update_every_n_steps=every)
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", max_epochs=3, callbacks=[ema, best], num_sanity_val_steps=0, **silent)
    counter = Counter()
    trainer.fit(counter, loader, one)
    expected = averages([float(step) for step in range(1, 13) if step % every == 0], 0.3)
    assert counter.seen["val"] == pytest.approx([expected[4 // every * epoch - 1] for epoch in (1, 2, 3)])
    assert counter.weight.item() == pytest.approx(expected[-1])  # after training it is what the network has
    checkpoint = torch.load(best.best_model_path, weights_only=True)
    assert checkpoint["state_dict"]["weight"].item() == pytest.approx(expected[-1])
    assert checkpoint["current_model_state"]["weight"].item() == 12
    trainer.test(counter, one, ckpt_path=best.best_model_path, weights_only=True, verbose=False)
    weight, statistic = counter.seen["test"][0]
    assert weight == pytest.approx(expected[-1])
    assert statistic == pytest.approx(10 * expected[-1])


def test_swa_validates_the_current_weights_and_then_their_mean_over_the_last_epochs(tmp_path):
    loader, one = (DataLoader(TensorDataset(torch.zeros(n)), batch_size=1) for n in (4, 1))
    best = ModelCheckpoint(tmp_path, monitor="val/top1", mode="max")
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", max_epochs=5, callbacks=[SWA(0.5), best], num_sanity_val_steps=0, **silent)
    counter = Counter()
    trainer.fit(counter, loader, one)
    mean = (12 + 16 + 20) / 3  # of the weights at the end of the last three of five epochs of four steps
    assert counter.seen["val"] == pytest.approx([4, 8, 12, (12 + 16) / 2, mean])
    trainer.test(counter, one, ckpt_path=best.best_model_path, weights_only=True, verbose=False)
    assert counter.seen["test"][0] == pytest.approx((mean, 10 * mean))


def test_swa_needs_a_share_and_a_number_of_epochs():
    with pytest.raises(ValueError, match="start=1; expected a share"):
        SWA(start=1)
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", max_epochs=-1, max_steps=3, callbacks=[SWA()], **silent)
    with pytest.raises(ValueError, match="set trainer.max_epochs"):
        trainer.fit(Counter(), DataLoader(TensorDataset(torch.zeros(4)), batch_size=1))


@pytest.mark.parametrize(("options", "words"), [({"decay": 1.0}, "decay=1"), ({"update_every_n_steps": 0}, "=0; exp")])
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        EMA(**options)


def test_a_training_too_short_for_an_update_is_refused():
    loader = DataLoader(TensorDataset(torch.zeros(4)), batch_size=1)
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", max_epochs=2, callbacks=[EMA(update_every_n_steps=9)], **silent)
    with pytest.raises(ValueError, match="update_every_n_steps=9, but the training has 8 steps"):
        trainer.fit(Counter(), loader)
