"""Losses that are infinite or no number: where the run ends, what is left, and what is as if they had never been."""

import warnings

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from callbacks.ema import EMA
from callbacks.resume_checkpoint import ResumeCheckpoint
from launch.main import quiet_lightning
from lit_modules import Classifier, cosine

CLASSES = 3


class Bursting(nn.Module):
    """Linear after batch norm; what it gives at the chosen training batches, counted from 1, is too large."""

    def __init__(self, *batches):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.linear = nn.BatchNorm1d(4), nn.Linear(4, CLASSES)
        self.batches, self.seen = batches, 0

    def forward(self, x):
        self.seen += self.training
        return self.linear(self.norm(x * torch.inf if self.training and self.seen in self.batches else x))


def loader(batches=5):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8 * batches, 4, generator=generator)
    labels = torch.randint(CLASSES, (8 * batches,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size=8)


def sgd(groups):
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def fit(backbone, batches=5, nonfinite="stop", callbacks=(), **options):
    optimizer, scheduler = options.pop("optimizer", sgd), options.pop("scheduler", None)
    classifier = Classifier(backbone, CLASSES, optimizer, scheduler, nonfinite=nonfinite)
    saving = any(isinstance(callback, ModelCheckpoint | ResumeCheckpoint) for callback in callbacks)
    options = {"max_epochs": 2, "logger": False, "enable_checkpointing": saving} | options
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", callbacks=list(callbacks), **quiet, **options)
    trainer.fit(classifier, loader(batches), loader(1))
    return trainer, classifier


@pytest.fixture
def on_a_device(monkeypatch):
    """As on a GPU: the sum of the losses is checked every ``log_every_n_steps``."""
    monkeypatch.setattr(Classifier, "_on_one_cpu", lambda self: False)


def test_a_run_stops_in_the_very_step(tmp_path):
    backbone = Bursting(8)
    with pytest.raises(
        ValueError, match=r"the running loss is nan after batch 3 of epoch 2 \(step 8\).* lower optimizer.lr"
    ):
        fit(backbone, callbacks=[ResumeCheckpoint(tmp_path, every_n_train_steps=1)])
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert last["global_step"] == 7
    assert all(torch.equal(last["state_dict"][f"backbone.{k}"], v) for k, v in backbone.named_parameters())
    assert all(value.isfinite().all() for value in last["state_dict"].values())


def test_with_accumulation_the_step_is_the_optimizers():
    with pytest.raises(ValueError, match=r"batch 4 of epoch 2 \(step 5\)"):  # 3 steps an epoch: 2, 2 and 1 batches
        fit(Bursting(9), accumulate_grad_batches=2)


def test_on_a_device_it_stops_at_the_fiftieth_batch(on_a_device):
    backbone = Bursting(7)
    with pytest.raises(ValueError, match=r"the running loss is nan after batch 50 of epoch 1 \(step 50\)"):
        fit(backbone, batches=60)
    assert backbone.seen == 50


def test_on_a_device_without_step_logging_it_stops_at_the_end_of_the_epoch(on_a_device):
    with pytest.raises(ValueError, match="train/loss is nan after batch 60 of epoch 1"):
        fit(Bursting(7), batches=60, log_every_n_steps=0)


def test_on_a_device_it_is_looked_at_before_a_checkpoint_is_written(on_a_device, tmp_path):
    with pytest.raises(ValueError, match=r"the running loss is nan after batch 4 of epoch 1 \(step 4\)"):
        fit(Bursting(3), batches=60, callbacks=[ResumeCheckpoint(tmp_path, every_n_train_steps=4)])
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 0


def test_on_a_device_no_network_of_nans_takes_a_good_ones_place(on_a_device, tmp_path):
    best = ModelCheckpoint(tmp_path, "best", monitor="val/top1", mode="max", enable_version_counter=False)
    with pytest.raises(ValueError, match=r"train/loss is nan after batch 5 of epoch 2 \(step 10\)"):
        fit(
            Bursting(8), callbacks=[best, ResumeCheckpoint(tmp_path)]
        )  # short epochs: looked at when it is to be written
    for name in ("best", "last"):
        found = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)
        assert found["global_step"] == 5
        assert all(value.isfinite().all() for value in found["state_dict"].values())


def test_nor_where_only_the_gradient_was_no_number(tmp_path):
    class Root(nn.Linear):
        def forward(self, x):
            return super().forward(x) + (x[0, 0] * 0).sqrt() * (self.bias[0] * 0).abs().sqrt()  # + 0

    with pytest.raises(ValueError, match=r"weights are not finite after batch 1 of epoch 1 \(step 1\)"):
        fit(Root(4, CLASSES), callbacks=[ResumeCheckpoint(tmp_path, every_n_train_steps=1)])
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 0


@pytest.mark.parametrize("where", ["cpu", "device"])
def test_what_is_finite_goes_on_to_the_end(where, request):
    if where == "device":
        request.getfixturevalue("on_a_device")
    assert fit(Bursting(), batches=55)[0].global_step == 110


@pytest.mark.parametrize("where", ["cpu", "device"])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_step_left_out_is_as_if_it_had_never_been(accumulated, where, request):
    """The second of five batches in the first epoch, the last in the second; a step takes all that it accumulated."""
    if where == "device":
        request.getfixturevalue("on_a_device")
    trainer, classifier = fit(Bursting(2, 10), nonfinite="skip", accumulate_grad_batches=accumulated)
    backbone = Bursting()
    optimizer, batches = sgd(backbone.parameters()), list(loader())
    left_out = {1: [{1}, {4}], 2: [{0, 1}, {4}]}[accumulated]
    sums = [0, 0]
    for epoch in range(2):
        optimizer.zero_grad()
        sums[1] = 0.0
        for number, (images, labels) in enumerate(batches):
            if number in left_out[epoch]:
                if accumulated == 2 and number == 0:  # it was seen, and learnt nothing from
                    with torch.no_grad():
                        kept = {k: v.clone() for k, v in backbone.state_dict().items()}
                        sums[1] += F.cross_entropy(backbone(images), labels).item()
                        backbone.load_state_dict(kept)
                continue
            loss = F.cross_entropy(backbone(images), labels)
            (loss / accumulated).backward()
            sums[1] += loss.item()
            if (number + 1) % accumulated == 0 or number == 4:
                optimizer.step()
                optimizer.zero_grad()
    for (name, ours), theirs in zip(
        classifier.backbone.state_dict().items(), backbone.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, msg=name)
    momenta = [[s["momentum_buffer"] for s in o.state.values()] for o in (trainer.optimizers[0], optimizer)]
    torch.testing.assert_close(sorted(momenta[0], key=torch.numel), sorted(momenta[1], key=torch.numel))
    assert classifier.guard.skipped_steps == 2
    assert trainer.global_step == 2 * (5 if accumulated == 1 else 3)  # it counts on
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(sums[1] / 4, abs=1e-6)


def test_the_scale_of_float16_is_untouched_by_a_step_left_out():
    """Two steps without an overflow double it: of steps 1 to 5 without 2, the second and the fourth."""
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    _, classifier = fit(Bursting(2), nonfinite="skip", max_epochs=1, plugins=[plugin])
    assert classifier.guard.skipped_steps == 1
    assert scaler.get_scale() == 64.0 * 4
    assert all(p.isfinite().all() for p in classifier.backbone.parameters())


def test_averaged_weights_know_nothing_of_a_step_left_out(tmp_path):
    class Weights(Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, pl_module, *args):
            self.seen.append({k: v.clone() for k, v in pl_module.backbone.state_dict().items()})

    weights = Weights()
    fit(Bursting(3), nonfinite="skip", callbacks=[weights, EMA(0.1), ResumeCheckpoint(tmp_path)], max_epochs=1)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    for name in ("norm.running_mean", "norm.running_var", "linear.weight"):
        expected = weights.seen[0][name]
        for number, value in enumerate((seen[name] for seen in weights.seen[1:]), 1):
            assert torch.equal(value, weights.seen[1][name]) or number != 2  # the third step was left out
            decay = min(0.1, (1 + number) / (10 + number))
            expected = decay * expected + (1 - decay) * value
        torch.testing.assert_close(saved[f"backbone.{name}"], expected)


def test_a_first_step_left_out_is_no_mistake_of_the_schedule():
    with warnings.catch_warnings(record=True) as said:
        quiet_lightning()
        fit(Bursting(1), nonfinite="skip", scheduler=cosine)
    assert not [warning for warning in said if "lr_scheduler" in str(warning.message)]


def test_the_count_goes_on_with_the_run(tmp_path):
    _, classifier = fit(Bursting(2), nonfinite="skip", max_epochs=1, callbacks=[ResumeCheckpoint(tmp_path)])
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    other = Classifier(Bursting(), CLASSES, sgd, nonfinite="skip")
    other.on_load_checkpoint(last)
    assert other.guard.skipped_steps == classifier.guard.skipped_steps == 1


def test_an_epoch_of_nothing_else_is_an_error():
    with pytest.raises(ValueError, match="train/loss is nan after batch 5 of epoch 2"):
        fit(Bursting(6, 7, 8, 9, 10), nonfinite="skip")


def test_another_choice_is_refused():
    with pytest.raises(ValueError, match="nonfinite=never is neither stop nor skip"):
        Classifier(Bursting(), CLASSES, sgd, nonfinite="never")
