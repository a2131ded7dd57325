"""Weights from files: torchvision's own, and those of a run; what fits is loaded, what cannot is said."""

import argparse
import hashlib
import logging

import pytest
import safetensors.torch
import torch
import torchvision
from hydra.utils import instantiate

from models import ResNet
from models.pretrained import other_channels
from models.resnet_config import PUBLISHED, VERSIONS, check_weights, published_name, resnet_form

# The homework's files, and the configs that they are for.
HOMEWORK = {
    "resnet34-333f7ec4.pth": "resnet34",
    "resnet50-19c8e357.pth": "resnet50",
    "resnet101-5d3b4d8f.pth": "resnet101",
    "resnext50_32x4d-7cdf4587.pth": "resnext50",
    "resnext101_32x8d-8ba56ff5.pth": "resnext101",
}


def torchvisions(name, seed=0, **options):
    """torchvision's own network, every tensor of it other than at the start."""
    torch.manual_seed(seed)
    network = getattr(torchvision.models, name)(**options).eval()
    for key, value in network.state_dict().items():
        if key.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return network


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    """(torchvision's network, the file with its weights)."""
    network = torchvisions("resnet18")
    file = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(network.state_dict(), file)
    return network, file


@pytest.mark.parametrize(("name", "model"), HOMEWORK.items())
def test_the_homeworks_files_answer_here_as_in_torchvision(name, model, composed, tmp_path):
    theirs = torchvisions(name.partition("-")[0])
    old = {key: value for key, value in theirs.state_dict().items() if not key.endswith("num_batches_tracked")}
    file = tmp_path / name
    torch.save(old, file, _use_new_zipfile_serialization=False)  # as such files were written then
    cfg = composed(f"model={model}", f"model.weights='{file}'", "model.num_classes=1000", "model.in_channels=3")
    ours = instantiate(cfg.model).eval()
    file.unlink()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)


def test_another_number_of_classes_gets_a_new_head_and_all_else(resnet18, caplog):
    theirs, file = resnet18
    with caplog.at_level(logging.INFO):
        ours = ResNet(18, num_classes=2, weights=str(file))
    assert "122 tensors; fc is new, for 2 classes instead of 1000" in caplog.text
    assert ours.fc.weight.shape == (2, 512) and 0 < ours.fc.weight.abs().max() < 0.05  # as at a start
    expected = theirs.state_dict()
    for name, value in ours.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(value, expected[name]), name


def test_a_head_of_as_many_classes_is_kept(resnet18, caplog):
    theirs, file = resnet18
    with caplog.at_level(logging.INFO):
        ours = ResNet(18, weights=str(file))
    assert torch.equal(ours.fc.weight, theirs.fc.weight)
    assert caplog.messages == ["weights      mine.pth: 122 tensors"]


PREFIXES = ["", "module.", "_orig_mod.", "net.", "model.", "backbone.", "module._orig_mod.", "a.b."]
KEYS = [["state_dict"], ["model"], ["model_state_dict"], ["model_ema"], ["model", "state_dict"]]


@pytest.mark.parametrize(("prefix", "keys"), [(p, []) for p in PREFIXES] + [("module.", keys) for keys in KEYS])
def test_weights_of_other_training_scripts_will_do(prefix, keys, resnet18, tmp_path, caplog):
    theirs, _ = resnet18
    content = {prefix + k: v for k, v in theirs.state_dict().items()}
    if prefix:  # what Lightning or an average adds
        content |= {"loss.weight": torch.ones(2), "n_averaged": torch.tensor(3)}
    for key in reversed(keys):
        content = {"epoch": 3, "optimizer": {"state": {}}, "args": argparse.Namespace(lr=0.1), key: content}
    torch.save(content, tmp_path / "a.pth")
    with caplog.at_level(logging.INFO):
        ours = ResNet(18, weights=str(tmp_path / "a.pth"))
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in theirs.state_dict().items())
    news = ["122 tensors", *[f"under {key}" for key in keys[-1:]], *[f"without the prefix {prefix}"] * bool(prefix)]
    assert caplog.messages == [f"weights      a.pth: {'; '.join(news)}"]


def test_the_plain_weights_come_before_their_average(resnet18, tmp_path):
    theirs, _ = resnet18
    average = {name: torch.zeros_like(value) for name, value in theirs.state_dict().items()}
    torch.save({"model_ema": average, "model": theirs.state_dict()}, tmp_path / "a.pth")
    assert torch.equal(ResNet(18, weights=str(tmp_path / "a.pth")).conv1.weight, theirs.conv1.weight)


def test_without_a_top_the_head_is_left(resnet18, caplog):
    theirs, file = resnet18
    with caplog.at_level(logging.INFO):
        ours = ResNet(18, include_top=False, weights=str(file)).eval()
    assert "120 tensors; no head" in caplog.text
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(theirs.fc(ours(images).mean((2, 3))), theirs(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_a_first_convolution_for_other_channels_sees_a_grey_image_alike(channels, resnet18, caplog):
    theirs, file = resnet18
    with caplog.at_level(logging.INFO):
        ours = ResNet(18, in_channels=channels, weights=str(file)).eval()
    assert (f"conv1 is adapted from 3 to {channels} channels" in caplog.text) == (channels != 3)
    grey = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        expected = theirs(grey.expand(-1, 3, -1, -1))
        if channels % 3 == 0 or channels == 1:
            torch.testing.assert_close(ours(grey.expand(-1, channels, -1, -1)), expected, rtol=1e-4, atol=1e-4)
    assert other_channels(theirs.conv1.weight, channels).shape == (64, channels, 7, 7)


def test_repeated_channels_take_the_colours_in_turn_and_keep_the_scale():
    weight = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    assert torch.allclose(other_channels(weight, 4).flatten(), torch.tensor([1.0, 2, 3, 1]) * 3 / 4)


def test_a_runs_own_checkpoint_is_a_start_too(trained, composed, tmp_path):
    checkpoint = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    network = ResNet(20, widths=(16, 32, 64), stem="cifar", in_channels=1, num_classes=10, image_size=32)
    prefixed = {f"backbone.{name}": value for name, value in network.state_dict().items()}
    torch.save(checkpoint | {"state_dict": prefixed}, tmp_path / "best.ckpt")
    cfg = composed("model=resnet_cifar", f"model.weights='{tmp_path}/best.ckpt'", "datamodule=cifar100")
    ours = instantiate(cfg.model)
    assert torch.equal(ours.layer3[2].conv2.weight, network.layer3[2].conv2.weight)
    assert ours.fc.out_features == 100 and ours.conv1.in_channels == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"depth": 34},
            "is for another network, depth=18 groups=1 width_per_group=64: layer1.2.conv1.weight is absent",
        ),
        (
            {"depth": 50},
            "depth=18 groups=1 width_per_group=64: layer1.0.conv1.weight is (64, 64, 3, 3), expected (64",
        ),
        ({"depth": 152}, "is for another network, depth=18 groups=1"),
        ({"depth": 18, "stem": "cifar"}, ": conv1.weight is (64, 3, 7, 7), expected (64, 3, 3, 3)"),
        ({"depth": 18, "norm": "group"}, ": bn1.running_mean is (64,), expected absent"),
        ({"depth": 18, "residual": False}, ": layer2.0.downsample.0.weight is (128, 64, 1, 1), expected absent"),
    ],
)
def test_weights_of_another_network_are_one_line(options, words, resnet18):
    with pytest.raises(ValueError) as caught:
        ResNet(weights=str(resnet18[1]), **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_weights_are_of_is_said_of_grouped_ones_too(tmp_path):
    torch.save(torchvisions("resnext50_32x4d").state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="depth=50 groups=32 width_per_group=4"):
        ResNet(101, weights=str(tmp_path / "w.pth"))


CYCLE: dict = {}
CYCLE["model"] = CYCLE


class Hostile:
    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"no such thing", "is not a complete checkpoint"),
        ({"a": 1}, "holds no weights; expected a state dict, or one under state_dict, .*; it has a"),
        ([1, 2], "holds no weights; .*; it is a list"),
        ({"state_dict": {}}, "holds no weights"),
        ({"student": {"conv1.weight": torch.ones(2)}}, "holds no weights; .*; it has student"),
        ({"state_dict": CYCLE}, "holds no weights"),
        (
            {
                f"{part}.{name}": value
                for part in "qk"
                for name, value in ResNet(18, widths=(2,) * 4).state_dict().items()
            },
            "holds 2 networks, under q. and k.; save one of them separately",
        ),
        ({"state_dict": Hostile()}, "holds code"),
        ({"x": Hostile()}, "holds code"),
    ],
)
def test_a_file_that_is_none_is_one_line_and_runs_nothing(content, words, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    file = tmp_path / "w.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(ValueError, match=words):
        ResNet(18, weights=str(file))


def test_a_truncated_file_is_not_a_complete_checkpoint(resnet18, tmp_path):
    whole = resnet18[1].read_bytes()
    (tmp_path / "w.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a complete checkpoint"):
        ResNet(18, weights=str(tmp_path / "w.pth"))


def test_safetensors_are_read_and_a_truncated_one_is_named(resnet18, tmp_path):
    theirs, file = resnet18
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(theirs.state_dict(), path)
    ours = ResNet(18, num_classes=1000, weights=str(path)).state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.state_dict().items())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="model.safetensors is not a complete safetensors file"):
        ResNet(18, num_classes=1000, weights=str(path))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch's cache, empty."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def publish(monkeypatch):
    """A function that has torchvision publish a file as its ResNet-18."""

    def published(url):
        monkeypatch.setattr(torchvision.models.ResNet18_Weights.DEFAULT.value, "url", url)

    return published


def test_published_weights_are_downloaded_once_and_their_hash_is_checked(resnet18, hub, publish, tmp_path):
    content = resnet18[1].read_bytes()
    source = tmp_path / f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    source.write_bytes(content)
    publish(source.as_uri())
    ours = ResNet(18, weights="DEFAULT")
    assert torch.equal(ours.conv1.weight, resnet18[0].conv1.weight)
    assert (hub / source.name).read_bytes() == content
    source.unlink()
    ResNet(18, weights="DEFAULT")  # from the cache

    (hub / source.name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"{source.name} is damaged"):
        ResNet(18, weights="DEFAULT")


def test_a_download_of_other_content_is_refused(resnet18, hub, publish, tmp_path):
    source = tmp_path / "resnet18-00000000.pth"
    source.write_bytes(resnet18[1].read_bytes())
    publish(source.as_uri())
    with pytest.raises(OSError, match="invalid hash"):
        ResNet(18, weights="DEFAULT")
    assert not any(hub.iterdir())


def test_without_a_network_it_says_which_file_to_put_where(hub, publish, tmp_path):
    publish((tmp_path / "gone" / "resnet18-f37072fd.pth").as_uri())
    with pytest.raises(OSError) as caught:
        ResNet(18, weights="DEFAULT")
    assert f"put it into {hub}, or use weights=PATH" in str(caught.value)
    assert "needs resnet18-f37072fd.pth" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_auto_takes_published_weights_if_they_can_be_had(resnet18, hub, publish, tmp_path, caplog):
    caplog.set_level("INFO")
    publish((tmp_path / "gone" / "resnet18-f37072fd.pth").as_uri())
    network = ResNet(18, weights="auto")
    assert network.weights is None and network.published == "resnet18"
    assert caplog.messages[-1].startswith(
        "weights      random: weights=DEFAULT needs resnet18-f37072fd.pth, which could"
    )
    assert ResNet(18, stem="cifar", weights="auto").weights is None
    assert caplog.messages[-1] == "weights      random: torchvision publishes none for this network"

    content = resnet18[1].read_bytes()
    source = tmp_path / f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    source.write_bytes(content)
    publish(source.as_uri())
    network = ResNet(18, weights="auto")
    assert network.weights == "DEFAULT" and torch.equal(network.conv1.weight, resnet18[0].conv1.weight)


def test_the_table_of_published_weights_is_torchvisions():
    weights = {name: torchvision.models.get_model_weights(name).__members__ for name in PUBLISHED}
    found = {
        n for n in torchvision.models.list_models(module=torchvision.models) if n.startswith(("resn", "wide_resn"))
    }
    assert set(PUBLISHED) == found
    for name, (depth, groups, width, versions) in PUBLISHED.items():
        assert set(VERSIONS[: 1 + versions]) == set(weights[name])
        form = (depth, None, groups, width, (64, 128, 256, 512), "imagenet", "batch", True, False, 0.0, 224)
        assert published_name(depth, groups, resnet_form(*form)[2], "imagenet", "batch", True) == name


@pytest.mark.parametrize(
    ("weights", "published", "words"),
    [
        ("DEFAULT", None, "torchvision publishes none for this network; only for resnet18, resnet34"),
        ("IMAGENET1K_V2", "resnet34", "resnet34 has DEFAULT, IMAGENET1K_V1"),
        ("DEFUALT", "resnet34", "weights=DEFUALT: no such file; did you mean DEFAULT?"),
        ("nowhere", None, "weights=nowhere: no such file; expected a file"),
        ("nowhere", "resnet50", "expected a file or one of DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2"),
    ],
)
def test_weights_that_do_not_exist_are_refused_with_those_that_do(weights, published, words):
    with pytest.raises(ValueError) as caught:
        check_weights(weights, published)
    assert words in str(caught.value)


def test_a_slip_in_a_files_name_names_the_file(tmp_path):
    (tmp_path / "resnet34-333f7ec4.pth").touch()
    with pytest.raises(ValueError, match="did you mean .*/resnet34-333f7ec4.pth?"):
        check_weights(str(tmp_path / "resnet34-333f7ec.pth"), "resnet34")
