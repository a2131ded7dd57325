"""Ours against torchvision, number by number, and the switches."""

import math

import pytest
import torch
import torchvision
from hydra.utils import instantiate
from torch import nn

from models import ResNet, resnet_config
from models.resnet import NORMS, Block

# Ours → torchvision's name of the same network.
PRESETS = {
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "resnet152": "resnet152",
    "resnext50": "resnext50_32x4d",
    "resnext101": "resnext101_32x8d",
    "wide_resnet50": "wide_resnet50_2",
    "wide_resnet101": "wide_resnet101_2",
}


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_is_torchvisions_network(preset, composed):
    cfg = composed(f"model={preset}", "model.num_classes=1000", "model.in_channels=3", "model.image_size=64")
    theirs = getattr(torchvision.models, PRESETS[preset])()
    for module in theirs.modules():  # statistics as after training, so that they too are compared
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    with torch.device("meta"):  # no time for weights that are not kept
        ours = instantiate(cfg.model)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(ours.eval()(images), theirs.eval()(images))


@pytest.mark.parametrize("preset", ["resnet18", "resnext50"])
def test_same_seed_gives_torchvisions_initial_weights(preset, composed):
    cfg = composed(f"model={preset}", "model.num_classes=1000", "model.in_channels=3", "model.image_size=64")
    torch.manual_seed(3)
    theirs = getattr(torchvision.models, PRESETS[preset])()
    torch.manual_seed(3)
    ours = instantiate(cfg.model)
    for (name, weight), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.equal(weight, other), name


def test_initial_convolutions_have_the_deviation_of_kaimings_fan_out():
    for name, module in ResNet(depth=50, groups=32, width_per_group=4).named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            std = math.sqrt(2 / fan_out)
            # the deviation of n normal numbers is known to about 1/√(2n); five times that is allowed
            assert abs(module.weight.std().item() / std - 1) < 5 / math.sqrt(2 * module.weight.numel()), name


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)  # He et al. 2015, table 6
def test_cifar_form_has_the_papers_sizes(depth, millions, composed):
    net = instantiate(composed("model=resnet_cifar", f"model.depth={depth}", "datamodule=cifar10").model)
    count = sum(p.numel() for p in net.parameters()) / 1e6
    assert count == pytest.approx(millions, abs=0.055 if depth == 110 else 0.0076)
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    convolutions = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and "downsample" not in n]
    assert len(convolutions) + 1 == depth


def test_resnext29_8x64d_is_one_line_and_has_the_papers_size(composed):
    overrides = "model.depth=29 model.block=bottleneck model.groups=8 model.width_per_group=64".split()
    cfg = composed("model=resnet_cifar", "datamodule=cifar10", *overrides, "model.widths=[64,128,256]")
    net = instantiate(cfg.model)
    assert net.layer1[0].conv2.weight.shape == (512, 64, 3, 3)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(34.4, abs=0.05)  # Xie et al. 2017, table 7


def test_groups_without_a_width_split_the_width_that_is_there():
    net = ResNet(depth=50, groups=32)
    assert net.layer1[0].conv2.weight.shape == (64, 2, 3, 3)
    assert net.layer4[2].conv2.weight.shape == (512, 16, 3, 3)


@pytest.mark.parametrize(("groups", "width"), [(1, 64), (2, 40), (4, 24), (8, 14), (32, 4)])
def test_matched_widths_are_those_of_the_resnext_paper(groups, width):  # Xie et al. 2017, table 2
    net = ResNet(depth=50, groups=groups, width_per_group="matched")
    assert net.layer1[0].conv2.weight.shape == (groups * width, width, 3, 3)
    assert net.layer4[2].conv2.weight.shape == (groups * 8 * width, 8 * width, 3, 3)
    ungrouped = sum(p.numel() for p in ResNet(depth=50).parameters())
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(ungrouped, rel=0.03)


def test_matched_widths_of_narrow_stages_give_whole_channels():
    net = ResNet(29, "bottleneck", 4, "matched", (16, 32, 64), "cifar", num_classes=10, image_size=32)
    assert net.layer1[0].conv2.weight.shape == (24, 6, 3, 3)
    assert net.layer3[0].conv2.weight.shape == (96, 24, 3, 3)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("depth", [20, 29])
def test_norms_train_in_the_cifar_form(norm, depth):
    net = ResNet(depth, norm=norm, widths=(16, 32, 64), stem="cifar", num_classes=10, image_size=32)
    loss = net(torch.randn(2, 3, 32, 32)).square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_norms_average_over_what_they_say():
    x = torch.randn(4, 64, 6, 6) * torch.arange(1, 5).view(4, 1, 1, 1) + torch.arange(64).view(1, 64, 1, 1)
    groups_of_two = x.view(4, 32, 2, 6, 6)
    means = {
        "batch": (x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)),
        "layer": (x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), keepdim=True, correction=0)),
        "instance": (x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, correction=0)),
    }
    for norm, (mean, var) in means.items():
        expected = (x - mean) / (var + 1e-5).sqrt()
        torch.testing.assert_close(NORMS[norm](64)(x), expected, rtol=1e-4, atol=1e-4)
    mean, var = groups_of_two.mean((2, 3, 4), keepdim=True), groups_of_two.var((2, 3, 4), keepdim=True, correction=0)
    expected = ((groups_of_two - mean) / (var + 1e-5).sqrt()).view_as(x)
    torch.testing.assert_close(NORMS["group"](64)(x), expected, rtol=1e-4, atol=1e-4)


def test_norm_names_for_checks_without_torch_are_the_keys_of_the_table():
    """A norm is added in two places: ``models.resnet.NORMS`` and ``models.resnet_config.NORM_NAMES``."""
    assert tuple(NORMS) == resnet_config.NORM_NAMES


def test_every_norm_has_a_gain_and_a_bias_per_channel():
    for build in NORMS.values():
        layer = build(64)
        assert layer.weight.shape == layer.bias.shape == (64,)


def test_without_shortcuts_a_block_is_its_branch_alone():
    net = ResNet(depth=18, residual=False, num_classes=10)
    assert not any("downsample" in name for name in net.state_dict())
    block, x = net.layer1[0].eval(), torch.randn(1, 64, 8, 8)
    expected = torch.relu(block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x))))))
    assert torch.equal(block(x), expected)


@pytest.mark.parametrize("depth", [18, 50])
def test_zero_init_makes_blocks_the_identity(depth):
    net = ResNet(depth=depth, zero_init_residual=True)
    block = net.layer1[-1]
    x = torch.rand(2, block.get_submodule(block.last_norm).num_features, 8, 8)
    torch.testing.assert_close(block(x), x)


def test_without_a_top_the_output_is_the_last_map():
    net = ResNet(depth=50, include_top=False)
    assert net(torch.randn(2, 3, 64, 64)).shape == (2, net.num_features, 2, 2) == (2, 2048, 2, 2)
    assert not any(name.startswith("fc") for name in net.state_dict())


CIFAR = {"widths": (16, 32, 64), "stem": "cifar", "image_size": 32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 19}, r"depth=19 .* 18 and 34"),
        ({"depth": 60}, r"depth=60 .* 34 and 50"),
        ({"depth": 18, "block": "bottleneck"}, r"depth=18 .* bottleneck .* 50"),
        ({"depth": 21, **CIFAR}, r"depth=21 .* 20"),
        ({"depth": 20, "block": "basik"}, r"block=basik .* did you mean basic"),
        ({"depth": 18, "groups": 32}, r"groups=32 needs bottleneck"),
        ({"depth": 34, "width_per_group": 128}, r"width_per_group=128 needs bottleneck"),
        ({"depth": 50, "groups": 3}, r"groups=3 does not divide the width 64.* 2 and 4"),
        ({"depth": 50, "groups": 0}, r"groups=0 .* 1 and 2"),
        ({"depth": 29, "groups": 8, "width_per_group": 2, **CIFAR}, r"width_per_group=2 .* groups=8 of 4"),
        ({"depth": 50, "groups": 2, "width_per_group": "mached"}, r"width_per_group=mached .* did you mean matched"),
        ({"depth": 29, "groups": 8, "width_per_group": "matched", **CIFAR}, r"groups=8 .* nearest, 12, costs 0.85"),
        ({"depth": 50, "groups": 0, "width_per_group": "matched"}, r"groups=0; expected at least 1"),
        ({"depth": 18, "groups": 2, "width_per_group": "matched"}, r"groups=2 needs bottleneck"),
        ({"norm": "bach"}, r"norm=bach .* did you mean batch"),
        ({"stem": "cifer"}, r"stem=cifer .* did you mean cifar"),
        ({"image_size": 16}, r"image_size=16 .* 17, or use stem=cifar"),
        ({"image_size": 32, "norm": "instance"}, r"image_size=32 .* 33, or use stem=cifar"),
        ({"residual": False, "zero_init_residual": True}, r"zero_init_residual=True needs residual"),
        ({"widths": (64, 128)}, r"widths has 2 entries"),
    ],
)
def test_what_means_nothing_is_refused_with_the_nearest_that_works(options, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**options)


@pytest.mark.parametrize("options", [{"image_size": 17}, {"image_size": 33, "norm": "instance"}])
def test_the_smallest_image_that_is_named_works(options):
    net = ResNet(depth=18, num_classes=3, **options)
    net(torch.randn(2, 3, options["image_size"], options["image_size"])).sum().backward()


def test_drop_path_leaves_out_the_branch_of_some_images_and_scales_that_of_the_others():
    network = ResNet(depth=20, widths=(8, 16, 32), stem="cifar", in_channels=1, image_size=32, drop_path=0.6)
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    assert [block.drop_path.p for block in blocks] == pytest.approx([0.6 * n / 9 for n in range(1, 10)])
    block = blocks[-1]
    x = torch.randn(2000, 32, 2, 2)
    with torch.no_grad():
        branch = block.branch(x)
        out = block(x)
        left_out = torch.isclose(out, x.relu(), atol=1e-6).flatten(1).all(1)
        kept = torch.isclose(out, (x + branch / 0.4).relu(), atol=1e-5).flatten(1).all(1)
        assert (left_out ^ kept).all()
        assert left_out.float().mean().item() == pytest.approx(0.6, abs=0.04)
        block.eval()
        torch.testing.assert_close(block(x), (x + block.branch(x)).relu())


def test_without_drop_path_nothing_is_drawn():
    network = ResNet(depth=8, widths=(8, 16, 32), stem="cifar", image_size=32)
    before = torch.get_rng_state()
    network(torch.randn(2, 3, 32, 32, generator=torch.Generator()))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("switches", "words"),
    [
        ({"drop_path": 1.0}, r"drop_path=1\.0; expected a prob"),
        ({"drop_path": 0.1, "residual": False}, "needs residual=True"),
    ],
)
def test_impossible_drop_paths_are_refused(switches, words):
    with pytest.raises(ValueError, match=words):
        ResNet(depth=18, **switches)
