"""Explanations: of networks of which it is known what they look at, and of a trained one."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import evaluate as script
import models
from callbacks.explanation import METHODS, chosen, explained, last_feature_map, overlaid
from datamodules import Digits
from evaluate import check, evaluate
from tests.conftest import SCORED, TINY

pytest.importorskip("captum", reason="captum is not installed: pip install -e '.[explain]'")


class Signs(nn.Module):
    """Class 0 is how much is above 0 in the image, class 1 how much is below."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.conv.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.conv(x)).mean((2, 3))


class Corner(nn.Module):
    """Class 0 is how bright the upper left quadrant of 20×20 pixels is; the other classes are always 0."""

    def forward(self, x):
        brightness = x[:, :, :10, :10].mean((1, 2, 3))
        return torch.stack([brightness, *2 * [torch.zeros_like(brightness)]], 1)


def test_gradcam_is_that_of_a_calculation_by_hand():
    image = torch.zeros(1, 1, 8, 8)
    image[..., :4, :4], image[..., 4:, 4:] = 3.0, -2.0
    maps = explained(Signs(), image.expand(2, -1, -1, -1).clone(), torch.tensor([0, 1]), "gradcam")
    expected = torch.zeros(2, 8, 8)  # activation times the gradient of the mean, 1/64
    expected[0, :4, :4], expected[1, 4:, 4:] = 3 / 64, 2 / 64
    torch.testing.assert_close(maps, expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_occlusion_finds_where_a_network_looks_and_what_speaks_against(channels):
    maps = explained(Corner(), torch.ones(2, channels, 20, 20), torch.tensor([0, 1]), "occlusion")
    assert (maps[0, :10, :10] > 0).all() and (maps[1, :10, :10] < 0).all()
    far = maps.clone()
    far[:, :12, :12] = 0  # windows of 4 pixels, 2 apart, reach so far
    assert (maps != 0).any() and not far.any()
    # A window within the corner takes 16 of its 100 pixels away.
    full, less = (torch.tensor([b, 0, 0]).log_softmax(0)[0] for b in (1.0, 0.84))
    torch.testing.assert_close(maps[0, 4, 4], full - less)


def test_the_last_feature_map_is_before_the_pooling_and_behind_the_residual_sum():
    lenet, resnet = models.LeNet(1, image_size=28), models.ResNet(18, stem="cifar", in_channels=1, image_size=28)
    assert last_feature_map(lenet, torch.zeros(1, 1, 28, 28)) is lenet.conv2
    assert last_feature_map(resnet, torch.zeros(1, 1, 28, 28)) is resnet.layer4
    own = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 2))
    assert last_feature_map(own, torch.zeros(1, 3, 16, 16)) is own[1]
    with pytest.raises(ValueError, match="the last one is 1×1; use explain_by=occlusion"):
        last_feature_map(models.ResNet(18, image_size=32).eval(), torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="this one has no convolution"):
        last_feature_map(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), torch.zeros(1, 3, 1, 1))


@pytest.mark.parametrize("by", METHODS)
def test_what_a_trained_network_looks_at_matters_to_it(by, trained):
    from inference import checkpoints

    network = checkpoints.load(trained)
    images = network.preprocess(Digits(10, 1, 32).load("test").images[:40])
    before = network.backbone(images).softmax(1)
    confidence, answers = before.detach().max(1)
    maps = explained(network.backbone, images.clone(), answers, by).flatten(1)
    place = maps.argsort(1, descending=True).argsort(1)  # 0 where it speaks for the answer most

    def drop(hidden):
        shown = images.masked_fill(hidden.view(-1, 1, 32, 32), 0)
        return (confidence - network.backbone(shown).softmax(1).gather(1, answers[:, None])[:, 0]).mean().item()

    assert drop(place < 200) > 2 * abs(drop(place >= 1024 - 200)) + 0.05


def test_half_are_the_most_confident_mistakes_and_the_others_are_right():
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9], [0.7, 0.3], [0.3, 0.7]])
    labels = torch.tensor([0, 0, 0, 0, 0, 1])  # wrong: 3 (0.9), 1 (0.8), 2 (0.6)
    found = chosen(probabilities, labels, 4, seed=0)
    assert found[:2].tolist() == [3, 1] and len(set(found[2:].tolist()) & {0, 4, 5}) == 2
    assert {tuple(chosen(probabilities, labels, 4, seed)[2:].tolist()) for seed in range(20)} > {(0, 4), (5, 0)}
    assert sorted(chosen(probabilities, labels, 99, 0).tolist()) == [0, 1, 2, 3, 4, 5]
    assert chosen(probabilities, 1 - labels, 5, 0)[:2].tolist() == [0, 4]  # 3 mistakes, of which two
    assert chosen(probabilities[:1], labels[:1], 2, 0).tolist() == [0]  # no mistake


def test_a_map_is_red_and_blue_over_a_grey_image():
    pixels = torch.full((1, 3, 1, 3), 100, dtype=torch.uint8)
    shown = overlaid(pixels, torch.tensor([[[4.0, 0.0, -2.0]]]))[0, :, 0].T.tolist()
    red = [round(0.3 * 100 + 0.7 * c) for c in (215, 25, 28)]
    blue = [round(0.65 * 100 + 0.35 * c) for c in (44, 123, 182)]
    assert shown == [red, [100, 100, 100], blue]
    assert (overlaid(pixels, torch.zeros(1, 1, 3)) == 100).all()


@pytest.mark.parametrize("by", METHODS)
def test_an_evaluation_draws_them_whatever_the_numerics(by, trained, composed, tmp_path):
    numerics = ["trainer.precision=bf16-mixed", "lit_module.memory_format=channels_last"]
    given = [*SCORED, f"ckpt={trained}", "explain=3", f"explain_by={by}", *numerics]
    evaluate(composed(*given, config_name="evaluate"))
    pixels = np.asarray(Image.open(tmp_path / "explain.png").convert("RGB")).astype(int)
    assert (pixels[..., 0] - pixels[..., 2] > 60).mean() > 0.005, "there is no red"
    assert ((pixels[..., 2] - pixels[..., 0] > 10).mean() > 0.001) == (by == "occlusion"), "blue is for occlusion"


def test_so_it_does_of_coloured_files(composed, tmp_path):
    from train import train

    run = tmp_path / "run"
    train(composed(*TINY, "datamodule.in_channels=3", "model=resnet_cifar", "model.depth=8", f"run_dir={run}"))
    evaluate(composed(*SCORED, f"ckpt={run}", "explain=2", "explain_by=gradcam", config_name="evaluate"))
    assert (tmp_path / "explain.png").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("explain_by=gradcan", "explain_by=gradcan: expected one of occlusion, gradcam; did you mean gradcam?"),
        ("explain=-1", "explain=-1: expected a whole number, at least 0"),
        ("explain=true", "explain=true: expected a whole number, such as 0"),
    ],
)
def test_a_mistake_is_one_line(given, message, trained, examine):
    answer = examine([f"ckpt={trained}", given], "evaluate", check)
    assert (answer.code, answer.error) == (2, message)


def test_without_captum_it_says_what_to_install(trained, examine, composed, monkeypatch):
    monkeypatch.setattr(script, "find_spec", lambda name: None)
    answer = examine([f"ckpt={trained}", "explain=8"], "evaluate", check)
    assert answer.error == "explain=8 needs captum, not installed: pip install -e '.[explain]'"
    check(composed(f"ckpt={trained}", config_name="evaluate"))  # without it nothing is needed
