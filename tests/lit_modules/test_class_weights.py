"""Weights of classes: their values, and the loss that they give."""

import pytest
import torch
from lightning import LightningDataModule
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lit_modules import Classifier
from lit_modules.class_weights import check_class_weights, class_weights
from tests.lit_modules.test_classifier import CLASSES, Logits, data, sgd, trainer


class Counted(LightningDataModule):
    def __init__(self, images, labels, counts, batch_size):
        super().__init__()
        self.loader, self.counts = DataLoader(TensorDataset(images, labels), batch_size), counts

    def train_dataloader(self):
        return self.loader

    val_dataloader = train_dataloader

    def class_counts(self):
        return torch.tensor(self.counts)


@pytest.mark.parametrize(
    ("weights", "counts", "expected"),
    [
        ("balanced", [90, 10], [100 / (2 * 90), 100 / (2 * 10)]),  # n / (k · count), as in scikit-learn
        ("balanced", [5, 5], [1.0, 1.0]),
        ("balanced", [30, 0], [1.0, 0.0]),
        ({"dog": 3.5}, [50, 50], [1 / 2.25, 3.5 / 2.25]),  # the mean of 1 and 3.5 is 2.25
        ({"cat": 2, "dog": 2}, [70, 30], [1.0, 1.0]),
        ({"cat": 1, "dog": 9}, [90, 10], [100 / 180, 900 / 180]),
    ],
)
def test_the_mean_weight_of_the_training_images_is_one(weights, counts, expected):
    found = class_weights(weights, ("cat", "dog"), torch.tensor(counts))
    assert found.tolist() == pytest.approx(expected)
    assert (found @ torch.tensor(counts).float()).item() == pytest.approx(sum(counts), rel=1e-6)


@pytest.mark.parametrize("mixed", [False, True])
def test_the_training_loss_is_the_documented_sum_and_that_of_validation_has_no_weights(mixed):
    logits, labels, _ = data(count=50)
    shares = F.one_hot(labels, CLASSES).float()
    if mixed:
        shares = 0.7 * shares + 0.3 * shares.roll(1, 0)
    counts = [1, 2, 4, 8, 16, 19]
    w = torch.tensor([50 / (6 * count) for count in counts])
    classifier = Classifier(Logits(), CLASSES, sgd, label_smoothing=0.1, class_weights="balanced")
    run = trainer(num_sanity_val_steps=0, limit_val_batches=0 if mixed else 1.0)
    logged = logits.flatten(1).log_softmax(1)
    smooth = 0.9 * shares + 0.1 / CLASSES
    expected = -(w * smooth * logged).sum() / 50
    if mixed:  # the images in one batch, so that the loss is that before the first step
        run.fit(classifier, datamodule=Counted(logits, shares, counts, 50))
    else:
        frozen = Classifier(
            Logits(), CLASSES, lambda g: torch.optim.SGD(g, lr=0.0), label_smoothing=0.1, class_weights="balanced"
        )
        run.fit(frozen, datamodule=Counted(logits, labels, counts, 7))  # batches of 7, the last of 1: divided by N
        assert run.callback_metrics["val/loss"].item() == pytest.approx(-(shares * logged).sum().item() / 50, abs=1e-6)
    assert run.callback_metrics["train/loss"].item() == pytest.approx(expected.item(), abs=1e-6)
    assert "loss_weights" not in classifier.state_dict()


def test_weights_need_data_that_count_their_classes():
    with pytest.raises(ValueError, match=r"class_weights=balanced needs a data module with class_counts\(\)"):
        trainer().fit(Classifier(Logits(), CLASSES, sgd, class_weights="balanced"), data()[2])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("balance", "class_weights=balance; expected balanced, or numbers by class"),
        ([1, 2], r"class_weights=\[1, 2\]; expected balanced"),
        ({"dgo": 2}, "class_weights has dgo, which is not a class; did you mean dog?"),
        ({"x": 2}, "class_weights has x, which is not a class; the first of 3 is cat"),
        ({"cat": 0}, "class_weights has cat: 0; expected a number above 0"),
        ({"cat": True}, "class_weights has cat: True; expected a number above 0"),
        ({"7": float("inf")}, "class_weights has 7: inf; expected a number above 0"),
    ],
)
def test_bad_weights_are_named(weights, message):
    with pytest.raises(ValueError, match=message):
        check_class_weights(weights, ("cat", "dog", "7"))
    check_class_weights({7: 1.5}, ("cat", "dog", "7"))  # a number on the command line
