"""Training metrics are means over images, and a resumed epoch ends with the same ones."""

import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.resume_checkpoint import ResumeCheckpoint
from lit_modules import Classifier
from lit_modules.train_metrics import Mean


def fit(folder, epochs=1, steps=-1, **options):
    torch.manual_seed(0)
    images, labels = torch.randn(50, 4), torch.randint(3, (50,))
    classifier = Classifier(nn.Linear(4, 3), 3, lambda groups: torch.optim.SGD(groups, lr=0.1))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    callbacks = [ResumeCheckpoint(folder, every_n_train_steps=1)]
    trainer = Trainer(accelerator="cpu", max_epochs=epochs, max_steps=steps, callbacks=callbacks, **quiet)
    trainer.fit(classifier, DataLoader(TensorDataset(images, labels), batch_size=8), **options)
    return {name: value.item() for name, value in trainer.callback_metrics.items()}, classifier


def test_a_mean_weights_batches_by_their_images():
    mean = Mean()
    mean.update(torch.tensor(30 * 1.0), 30)
    mean.update(torch.tensor(10 * 4.0), 10)
    assert mean.compute().item() == 1.75


@pytest.mark.parametrize("key", ["partial_epoch", "epoch_so_far"])  # and as older versions named it
def test_a_checkpoint_within_an_epoch_holds_the_sums(key, tmp_path):
    fit(tmp_path, steps=3)
    path = tmp_path / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    sums = checkpoint.pop("partial_epoch")
    assert sums["loss"][1] == sums["top1"][1] == 24
    classifier = Classifier(nn.Linear(4, 3), 3, None)
    classifier.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    classifier.on_load_checkpoint(checkpoint | {key: sums})
    for name, mean in classifier.train_metrics.items():
        assert (mean.total, mean.images) == sums[name]


def test_each_epoch_starts_from_zero(tmp_path):
    _, classifier = fit(tmp_path, epochs=2)
    assert all(mean.images == 0 for mean in classifier.train_metrics.values())  # Lightning has reset them
