"""Loss, metrics and optimisation of a backbone that is known exactly."""

import pytest
import torch
from lightning import Trainer, seed_everything
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassCohenKappa, MulticlassConfusionMatrix

from lit_modules import Classifier, Evaluator
from results.metrics import METRICS

CLASSES = 6


class Logits(nn.Module):
    """Gives the images back as logits, shifted by a parameter that starts at zero."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1, 1))
        self.bias = nn.Parameter(torch.zeros(CLASSES))

    def forward(self, x):
        return x.flatten(1) + self.bias + self.scale


def sgd(groups):
    return torch.optim.SGD(groups, lr=0.1, weight_decay=0.5)


def trainer(**options):
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False} | options
    return Trainer(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, **options)


def data(count=50, batch_size=7):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, CLASSES, 1, 1, generator=generator)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return logits, labels, DataLoader(TensorDataset(logits, labels), batch_size=batch_size)


def test_metrics_are_what_they_say():
    logits, labels, loader = data()
    run = trainer()
    run.test(Classifier(Logits(), CLASSES, sgd, class_names="abcdef"), loader, verbose=False)
    got = {name: value.item() for name, value in run.callback_metrics.items()}
    flat = logits.flatten(1)
    predicted = flat.argmax(1)
    expected = {
        "test/loss": F.cross_entropy(flat, labels),
        "test/top1": (predicted == labels).float().mean(),
        "test/top5": (flat.topk(5).indices == labels[:, None]).any(1).float().mean(),
    }
    scores = []
    for label, name in enumerate("abcdef"):
        hits = ((predicted == label) & (labels == label)).sum()
        expected[f"test/accuracy/{name}"] = hits / (labels == label).sum()
        scores.append(2 * hits / ((predicted == label).sum() + (labels == label).sum()))
    expected["test/f1_macro"] = torch.stack(scores).mean()
    assert got == pytest.approx({name: value.item() for name, value in expected.items()}, abs=1e-6)


def test_further_metrics_are_logged_beside_them():
    logits, labels, loader = data()
    run = trainer()
    kappa = MulticlassCohenKappa(CLASSES)
    run.validate(Classifier(Logits(), CLASSES, sgd, metrics={"kappa": kappa}), loader, verbose=False)
    counts = torch.zeros(CLASSES, CLASSES)
    for label, predicted in zip(labels, logits.flatten(1).argmax(1), strict=True):
        counts[label, predicted] += 1 / 50
    chance = (counts.sum(0) * counts.sum(1)).sum()
    torch.testing.assert_close(run.callback_metrics["val/kappa"], (counts.trace() - chance) / (1 - chance))
    assert set(run.callback_metrics) == {f"val/{name}" for name in ("loss", "top1", "top5", "f1_macro", "kappa")}


@pytest.mark.parametrize(
    ("name", "metric", "message"),
    [
        (
            "top1",
            MulticlassCohenKappa(CLASSES),
            "metrics.top1: this name is taken; expected a name other than loss, top1",
        ),
        ("kappa", MulticlassCohenKappa(CLASSES - 1), "metrics.kappa fails for logits and labels of 6 classes: "),
        (
            "counts",
            MulticlassConfusionMatrix(CLASSES),
            r"metrics.counts returns torch.Size.*6, 6.*; expected one number",
        ),
    ],
)
def test_a_metric_that_cannot_be_logged_is_refused(name, metric, message):
    with pytest.raises(ValueError, match=message):
        Classifier(Logits(), CLASSES, sgd, metrics={name: metric})


def test_a_class_without_test_images_has_no_accuracy():
    logits, labels, _ = data()
    loader = DataLoader(TensorDataset(logits, labels.clamp(max=CLASSES - 2)), batch_size=16)
    run = trainer()
    run.test(Classifier(Logits(), CLASSES, sgd, class_names="abcdef"), loader, verbose=False)
    accuracies = {name for name in run.callback_metrics if name.startswith("test/accuracy/")}
    assert accuracies == {f"test/accuracy/{name}" for name in "abcde"}


def test_mixed_labels_are_learnt_in_their_shares_and_scored_by_the_larger():
    logits = torch.randn(4, CLASSES, 1, 1, generator=torch.Generator().manual_seed(1))
    shares = torch.zeros(4, CLASSES)
    for row, (first, second, share) in enumerate([(0, 1, 0.7), (2, 2, 1.0), (3, 5, 0.2), (4, 0, 0.6)]):
        shares[row, first] += share
        shares[row, second] += 1 - share
    run = trainer()
    classifier = Classifier(Logits(), CLASSES, sgd, label_smoothing=0.1)
    run.fit(classifier, DataLoader(TensorDataset(logits, shares), batch_size=4))
    smooth = 0.9 * shares + 0.1 / CLASSES
    expected = -(smooth * logits.flatten(1).log_softmax(1)).sum(1).mean()
    assert run.callback_metrics["train/loss"].item() == pytest.approx(expected.item(), abs=1e-6)
    hits = logits.flatten(1).argmax(1) == torch.tensor([0, 2, 5, 4])
    assert run.callback_metrics["train/top1"].item() == pytest.approx(hits.float().mean().item())


def test_top1_and_top5_stay_apart_although_the_first_batch_has_them_equal():
    labels = torch.zeros(4, dtype=torch.long)
    logits = torch.zeros(4, CLASSES, 1, 1)
    logits[:2, 0] = 1.0  # right
    logits[2:, 1], logits[2:, 0] = 2.0, 1.0  # right at rank two
    run = trainer()
    run.test(Classifier(Logits(), CLASSES, sgd), DataLoader(TensorDataset(logits, labels), batch_size=2), verbose=False)
    assert run.callback_metrics["test/top5"].item() == 1.0
    assert run.callback_metrics["test/top1"].item() == 0.5


def test_confusion_counts_true_classes_by_predicted_ones():
    logits, labels, loader = data()
    classifier = Classifier(Logits(), CLASSES, sgd)
    for _ in range(2):  # a second test does not add to the first
        trainer().test(classifier, loader, verbose=False)
    counts = torch.zeros(CLASSES, CLASSES, dtype=torch.long)
    for true, predicted in zip(labels, logits.flatten(1).argmax(1), strict=True):
        counts[true, predicted] += 1
    assert torch.equal(classifier.confusion.compute(), counts)


def test_few_classes_have_no_top5():
    assert "top5" not in Classifier(Logits(), 5, sgd).val_metrics
    assert "top5" in Classifier(Logits(), 6, sgd).val_metrics


def test_gains_and_biases_do_not_decay():
    classifier = Classifier(Logits(), CLASSES, sgd)
    optimizer = classifier.configure_optimizers()
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {id(classifier.backbone.scale): 0.5, id(classifier.backbone.bias): 0.0}


def test_a_step_descends_the_smoothed_loss():
    logits, labels, loader = data(count=20, batch_size=20)
    classifier = Classifier(Logits(), CLASSES, sgd, label_smoothing=0.2)
    trainer().fit(classifier, loader)
    target = F.one_hot(labels, CLASSES) * 0.8 + 0.2 / CLASSES
    gradient = (logits.flatten(1).softmax(1) - target).mean(0)
    torch.testing.assert_close(classifier.backbone.bias.detach(), -0.1 * gradient)


def test_schedule_steps_every_batch_for_the_trainers_length():
    seen = {}

    def schedule(optimizer, total_steps):
        seen["total"] = total_steps
        seen["scheduler"] = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda at: 1 / (1 + at))
        return seen["scheduler"]

    _, _, loader = data(count=50, batch_size=10)
    trainer(max_epochs=3).fit(Classifier(Logits(), CLASSES, sgd, schedule), loader)
    assert seen["total"] == 15
    assert seen["scheduler"].last_epoch == 15


def test_an_endless_training_has_no_schedule():
    _, _, loader = data()
    classifier = Classifier(Logits(), CLASSES, sgd, lambda optimizer, total_steps: None)
    with pytest.raises(ValueError, match="scheduler=none"):
        trainer(max_epochs=-1, max_time="00:00:00:05").fit(classifier, loader)


def test_a_checkpoint_is_plain_and_says_what_it_is(tmp_path):
    classifier = Classifier(Logits(), CLASSES, sgd)
    classifier.description = {"class_names": list("abcdef")}
    run = trainer()
    run.fit(classifier, data()[2])
    run.save_checkpoint(tmp_path / "x.ckpt")
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert checkpoint["class_names"] == list("abcdef")
    assert set(checkpoint["state_dict"]) == {"backbone.scale", "backbone.bias"}


def test_a_compiled_backbone_keeps_its_keys_and_its_results(monkeypatch):
    seed_everything(0, verbose=False)
    _, _, loader = data()
    plain, compiled = Classifier(Logits(), CLASSES, sgd), Classifier(Logits(), CLASSES, sgd, compile=True)
    called = []
    compile_module = nn.Module.compile
    monkeypatch.setattr(  # the eager backend: the graph is captured, no C++ compiler is needed
        nn.Module, "compile", lambda self, mode: (called.append(mode), compile_module(self, backend="eager"))
    )
    for classifier in (plain, compiled):
        trainer().fit(classifier, loader)
    assert called == [None]  # once, in the usual mode
    assert list(compiled.state_dict()) == list(plain.state_dict())
    torch.testing.assert_close(compiled.backbone.bias, plain.backbone.bias)


def test_channels_last_reaches_weights_and_images():
    class Seen(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, CLASSES, 3)

        def forward(self, x):
            self.format = x.is_contiguous(memory_format=torch.channels_last)
            return self.conv(x).mean((2, 3))

    classifier = Classifier(Seen(), CLASSES, sgd, memory_format="channels_last")
    classifier(torch.randn(2, 3, 8, 8))
    assert classifier.backbone.format
    assert classifier.backbone.conv.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "options", [{"memory_format": "channels_lost"}, {"compile": "maybe"}, {"label_smoothing": 1.0}]
)
def test_bad_options_are_refused(options):
    (name, value) = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Classifier(Logits(), CLASSES, sgd, **options)


def test_training_logs_loss_and_accuracy_over_all_images_of_the_epoch():
    logits, labels, loader = data(count=50, batch_size=7)  # the last batch has one image
    run = trainer()
    run.fit(Classifier(Logits(), CLASSES, lambda groups: torch.optim.SGD(groups, lr=0.0)), loader)
    flat = logits.flatten(1)
    assert run.callback_metrics["train/loss"].item() == pytest.approx(F.cross_entropy(flat, labels).item(), abs=1e-6)
    assert run.callback_metrics["train/top1"].item() == pytest.approx((flat.argmax(1) == labels).float().mean().item())


def test_each_logged_metric_has_an_entry_in_the_table_of_metrics():
    """A metric is added in two places: ``_scores`` in lit_modules/classifier.py and ``results.metrics.METRICS``."""
    run = trainer()
    run.test(Evaluator(Logits(), CLASSES, tta="flip", class_names="abcdef"), data()[2], verbose=False)
    logged = {name.rpartition("/")[2] for name in run.callback_metrics if "/accuracy/" not in name}
    assert logged == set(METRICS)
    assert set(Classifier(Logits(), CLASSES, sgd).train_metrics) <= set(METRICS)
