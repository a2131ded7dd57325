"""Temperature scaling: the fit, the file beside the checkpoint, and what applies it."""

import json
import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from datamodules import Digits
from inference import checkpoints
from inference.calibration import divide_logits, fit_temperature, store_temperature, stored_temperature


def test_the_fit_finds_the_factor_by_which_logits_are_too_large():
    torch.manual_seed(0)
    logits = torch.randn(20_000, 4)
    labels = torch.distributions.Categorical(logits=logits).sample()
    temperature = fit_temperature(3 * logits, labels)
    assert temperature == pytest.approx(3, rel=0.05)
    losses = {t: F.cross_entropy(3 * logits / (t * temperature), labels).item() for t in (0.99, 1, 1.01)}
    assert min(losses, key=losses.get) == 1


@pytest.mark.parametrize("label", [0, 1])
def test_without_mistakes_or_without_hits_there_is_none(label):
    logits = torch.tensor([[2.0, 0.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match=f"for the 2 validation images, of which {2 - 2 * label} are classified corr"):
        fit_temperature(logits, torch.full((2,), label))


def test_a_network_needs_a_head():
    with pytest.raises(ValueError, match="Linear has no attribute head, the layer to scale by the temperature"):
        divide_logits(nn.Linear(2, 2), 2.0)


def test_what_opens_a_checkpoint_applies_its_temperature(trained, tmp_path, caplog):
    file = shutil.copy(trained / "checkpoints/best.ckpt", tmp_path / "best.ckpt")
    images = Digits(10, 1, 32).load("test").images[:9]
    plain = checkpoints.load(file)(images)
    assert stored_temperature(file) is None
    store_temperature(file, 2.5)
    expected = (plain.log() / 2.5).softmax(1)
    torch.testing.assert_close(checkpoints.load(file)(images), expected)
    content = torch.load(file, weights_only=True)
    torch.save(content | {"global_step": 10**6}, file)  # a better epoch of a resumed run
    again = checkpoints.load(file)(images)
    assert "best.temperature.json belongs to an earlier best.ckpt; the temperature is not applied" in caplog.text
    torch.testing.assert_close(again, plain)


@pytest.mark.parametrize("content", ["{", "[]", '{"temperature": "hot"}', '{"temperature": -1, "checkpoint": ""}'])
def test_a_damaged_file_is_named(content, tmp_path):
    (tmp_path / "a.temperature.json").write_text(content)
    with pytest.raises(ValueError, match=r"a.temperature.json holds no temperature from 0.05 to 20; delete it"):
        stored_temperature(tmp_path / "a.ckpt")


def test_the_checkpoint_stays_as_it_is(trained, tmp_path):
    file = shutil.copy(trained / "checkpoints/best.ckpt", tmp_path / "best.ckpt")
    before = file.read_bytes()
    store_temperature(file, 1.5)
    assert file.read_bytes() == before
    assert json.loads((tmp_path / "best.temperature.json").read_text())["temperature"] == 1.5
