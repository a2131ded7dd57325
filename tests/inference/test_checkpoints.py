"""Checkpoints: found, opened and built; hostile ones do no harm."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import inference
from datamodules import Digits
from inference import checkpoints, safe_build
from results.run_folder import find_checkpoint

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def content(trained):
    return torch.load(trained / "checkpoints/best.ckpt", weights_only=True)


def saved(content, path):
    torch.save(content, path)
    return path


def targets(node):
    if isinstance(node, dict):
        yield from ([node["_target_"]] if "_target_" in node else [])
        for value in node.values():
            yield from targets(value)


def test_one_line_loads_a_network_that_sees_images_as_evaluation_does(trained, content):
    network = checkpoints.load(trained)
    assert network.class_names == list("0123456789")
    assert not network.backbone.training
    data = Digits(10, 1, 32)
    images = data.load("test").images
    probabilities = network(images)
    assert probabilities.shape == (382, 10) and probabilities.dtype == torch.float32
    with torch.no_grad():
        expected = network.backbone(data.normalize(images)).softmax(1)
    assert torch.equal(probabilities, expected)
    assert (probabilities.argmax(1) == data.load("test").labels).float().mean() > 0.5
    weights = network.backbone.state_dict()
    assert all(torch.equal(content["state_dict"][f"backbone.{name}"], value) for name, value in weights.items())


def test_it_takes_any_size_and_colour_but_bytes_only(trained):
    network = checkpoints.load(trained)
    grey = torch.randint(256, (3, 1, 40, 24), dtype=torch.uint8)
    torch.testing.assert_close(network(grey.expand(-1, 3, -1, -1)), network(grey), atol=0.02, rtol=0)
    for images in (grey.float(), grey[0], grey.expand(-1, 2, -1, -1)):
        with pytest.raises(ValueError, match=r"expected uint8 of \(N, 1 or 3, height, width\)"):
            network(images)


def test_a_grey_image_may_meet_a_network_of_three_means():
    from datamodules import Preprocessing

    prepare = Preprocessing(3, 8, [0.4, 0.5, 0.6], [0.2, 0.2, 0.4], resize_ratio=2.0)
    images = prepare(torch.full((2, 1, 20, 30), 255, dtype=torch.uint8))
    assert images.shape == (2, 3, 8, 8)
    torch.testing.assert_close(images[0, :, 0, 0], torch.tensor([3.0, 2.5, 1.0]))


def test_which_checkpoint_a_path_means(trained, tmp_path):
    best = trained / "checkpoints/best.ckpt"
    assert find_checkpoint(trained) == find_checkpoint(trained / "checkpoints") == find_checkpoint(best) == (best, None)
    run = tmp_path / "name" / "a_run"
    shutil.copytree(trained, run)
    (run / "checkpoints/best.ckpt").rename(run / "checkpoints/other.ckpt")
    (run / "result.json").write_text('{"status": "completed", "best_checkpoint": "checkpoints/other.ckpt"}')
    assert find_checkpoint(run) == (run / "checkpoints/other.ckpt", None)
    (run / "result.json").write_text("{")
    assert find_checkpoint(run) == (run / "checkpoints/last.ckpt", f"{run} has no best.ckpt; using last.ckpt")
    with pytest.raises(FileNotFoundError, match="name holds no checkpoints/best.ckpt or last.ckpt, and no completed r"):
        find_checkpoint(tmp_path / "name")


def test_of_a_folder_of_runs_it_is_the_newest_completed_one(trained, tmp_path):
    for name, status, day in (("a/old", "completed", 1), ("a/new", "completed", 3), ("b/c/0", "completed", 2)):
        shutil.copytree(trained / "checkpoints", tmp_path / name / "checkpoints")
        record = tmp_path / name / "result.json"
        record.write_text(f'{{"status": "{status}", "best_checkpoint": "checkpoints/best.ckpt"}}')
        os.utime(record, (day, day))
    (tmp_path / "a/killed").mkdir()
    (tmp_path / "a/killed/result.json").write_text('{"status": "running", "best_checkpoint": null}')
    for folder, newest in (("", "a/new"), ("a", "a/new"), ("b", "b/c/0")):
        file, remark = find_checkpoint(tmp_path / folder)
        assert file == tmp_path / newest / "checkpoints/best.ckpt"
        assert remark == f"run          {tmp_path / newest}, the newest completed run in {tmp_path / folder}"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "digits_lnet/a/best.ckpt",
            "ckpt=digits_lnet/a/best.ckpt: no such file or folder; did you mean digits_lenet/a/",
        ),
        ("xyz", "ckpt=xyz: no such file or folder"),
        ("empty", "ckpt=empty holds no checkpoints/best.ckpt or last.ckpt"),
        ("https://example.org/best.ckpt", "is a URL; expected a file or folder on this machine"),
    ],
)
def test_a_path_that_means_none(path, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("digits_lenet", "empty"):
        Path(folder).mkdir()
    with pytest.raises((ValueError, OSError)) as caught:
        checkpoints.load(path)
    assert message in str(caught.value)


def write_broken(kind, content, path):
    """A file that is not a checkpoint of train.py."""
    if kind == "truncated":
        saved(content, path)
        os.truncate(path, path.stat().st_size // 2)
    elif isinstance(kind, bytes):
        path.write_bytes(kind)
    else:
        saved(kind(content), path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04 and no more", "is not a complete checkpoint"),
        (b"a text\n" * 100, "is not a complete checkpoint"),
        ("truncated", "is not a complete checkpoint"),
        (lambda c: [1, 2], "holds a list"),
        (lambda c: c["state_dict"], "holds only weights, without the network's config"),
        (lambda c: {"state_dict": c["state_dict"]}, "it lacks model, datamodule, class_names, preprocessing"),
        (lambda c: c | {"model": "LeNet"}, "it lacks model"),
        (lambda c: c | {"preprocessing": {"image_size": 32}}, "has an invalid preprocessing"),
        (lambda c: c | {"preprocessing": c["preprocessing"] | {"std": [0.0]}}, "has an invalid preprocessing"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_said_in_one_line(kind, message, content, tmp_path):
    path = tmp_path / "some.ckpt"
    write_broken(kind, content, path)
    with pytest.raises(ValueError) as caught:
        checkpoints.load(path)
    assert message in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Harm:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_never_run_whatever_the_environment_says(zipped, content, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, harm = tmp_path / "harm.ckpt", tmp_path / "harm"
    torch.save(content | {"extra": Harm(harm)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"holds code \((posix|nt).mkdir\)"):
        checkpoints.load(path)
    assert not harm.exists()
    with pytest.warns(UserWarning, match="TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        torch.load(path)
    assert harm.exists()  # it would have


@pytest.mark.parametrize(
    ("part", "harm"),
    [
        ("model", lambda run: run),
        ("model", lambda run: {"_target_": "models.LeNet", "num_classes": run}),
        ("model", lambda run: {"_target_": "models.LeNet", "in_channels": [[run]]}),
        ("datamodule", lambda run: {"_target_": "datamodules.Digits", "augmentation": {"crop": {"x": run}}}),
    ],
)
def test_a_config_builds_nothing_but_what_is_on_the_list(part, harm, content, tmp_path):
    run = {"_target_": "os.mkdir", "path": str(tmp_path / "harm")}
    content[part] = harm(run)
    content["class_names"] = content["class_names"] if part == "datamodule" else []
    with pytest.raises(ValueError, match=f"the checkpoint's {part} names os.mkdir, which is not on the allow-list"):
        if part == "model":
            safe_build.safe_build(content["model"], "model", safe_build.MODELS)
        else:
            checkpoints.build_datamodule(content, OmegaConf.create({}))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("datamodules.Digits", "names datamodules.Digits, which is not on the allow-list; refused"),
        ("models.resnet.nn.Linear", "allow it with 'trust=[models.resnet.nn.Linear]'"),
        ("modelsx.LeNet", "refused"),
        (["models.LeNet"], "refused"),
        (None, "refused"),
    ],
)
def test_a_target_must_be_what_the_part_is(target, message):
    with pytest.raises(ValueError) as caught:
        safe_build.safe_build({"_target_": target}, "model", safe_build.MODELS)
    assert message in str(caught.value)


def test_trust_is_for_classes_of_this_project_only():
    for name, message in (
        ("os.mkdir", "only a class of models"),
        ("models.resnet.F", "not a class of this project"),
    ):
        with pytest.raises(ValueError, match=message):
            safe_build.safe_build({"_target_": name}, "model", safe_build.MODELS, trust=[name])
    with pytest.raises(ValueError, match="DataLoader is not a class of this project"):  # imported there
        safe_build.safe_build(
            {"_target_": "datamodules.base.DataLoader"}, "x", (), trust=["datamodules.base.DataLoader"]
        )


def test_a_checkpoint_with_an_older_path_of_a_class_opens(content, tmp_path, monkeypatch):
    monkeypatch.setitem(safe_build.ALIASES, "models.networks.LeNet", "models.LeNet")
    content["model"]["_target_"] = "models.networks.LeNet"
    network = checkpoints.load(saved(content, tmp_path / "old.ckpt")).backbone
    assert type(network).__name__ == "LeNet"


def test_aliases_lead_to_classes_on_the_list():
    assert set(safe_build.ALIASES.values()) <= {*safe_build.MODELS, *safe_build.DATAMODULES, *safe_build.TRANSFORMS}


class Tiny(nn.Linear):
    def __init__(self, width):
        super().__init__(width, 10)


def test_a_backbone_of_ones_own_needs_to_be_trusted(content, tmp_path, monkeypatch):
    module = ModuleType("models.tiny")
    module.Tiny = Tiny
    monkeypatch.setattr(Tiny, "__module__", "models.tiny")
    monkeypatch.setitem(sys.modules, "models.tiny", module)
    content["model"] = {"_target_": "models.tiny.Tiny", "width": 4, "_convert_": "all"}
    content["state_dict"] = {f"backbone.{name}": value for name, value in Tiny(4).state_dict().items()}
    path = saved(content, tmp_path / "tiny.ckpt")
    with pytest.raises(ValueError, match=r"models.tiny.Tiny.* allow it with 'trust=\[models.tiny.Tiny\]'"):
        checkpoints.load(path)
    assert isinstance(checkpoints.load(path, trust=["models.tiny.Tiny"]).backbone, Tiny)
    content["model"]["width"] = "many"
    with pytest.raises(ValueError, match="the checkpoint's model cannot be built: TypeError"):
        checkpoints.load(saved(content, path), trust=["models.tiny.Tiny"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["model"].update(image_size=28),
            "the checkpoint's model has image_size=28, but the data has image_size=32",
        ),
        (lambda c: c["class_names"].pop(), "the checkpoint's model has num_classes=10, but the data has num_classes=9"),
        (
            lambda c: c["state_dict"].update({"backbone.fc2.weight": torch.zeros(3, 4)}),
            "the network in the config, models.LeNet: fc2.weight is (3, 4), expected (84, 120)",
        ),
        (lambda c: c["state_dict"].pop("backbone.fc1.bias"), "fc1.bias is absent, expected (120,)"),
        (lambda c: c["state_dict"].update({"backbone.fc4.bias": torch.zeros(3)}), "fc4.bias is (3,), expected absent"),
        (lambda c: c["state_dict"].update({"backbone.fc1.bias": "x"}), "fc1.bias is (), expected (120,)"),
        (
            lambda c: c.update(
                model={"_target_": "models.ResNet", "depth": 18, "num_classes": 10, "in_channels": 1, "image_size": 32}
            ),
            "models.ResNet: conv1.weight is (16, 1, 5, 5), expected (64, 1, 7, 7)",
        ),
    ],
)
def test_weights_of_another_network_are_said_by_the_first_that_differs(change, message, content, tmp_path):
    change(content)
    with pytest.raises(ValueError) as caught:
        checkpoints.load(saved(content, tmp_path / "changed.ckpt"))
    assert message in str(caught.value)


def test_a_checkpoint_from_before_precision_was_kept_means_the_plain_one(content, tmp_path):
    assert content.pop("numerics") == checkpoints.PLAIN
    assert checkpoints.read_checkpoint(saved(content, tmp_path / "old.ckpt"))["numerics"] == checkpoints.PLAIN


def test_every_network_and_data_set_of_conf_may_be_built():
    for group, allowed in (("model", safe_build.MODELS), ("datamodule", safe_build.DATAMODULES)):
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
            if "_target_" in config:
                first, *held = targets(config)
                assert first in allowed and set(held) <= set(safe_build.TRANSFORMS), path
    for path in (ROOT / "conf" / "experiment").glob("*.yaml"):
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        assert set(targets(config.get("datamodule", {}))) <= set(safe_build.TRANSFORMS), path


@pytest.mark.parametrize("target", safe_build.TRANSFORMS)
def test_every_transform_on_the_list_is_a_class(target):
    assert safe_build._class(target).__name__ == target.rpartition(".")[2]


def test_importing_it_does_not_import_torch():
    code = "import sys; from inference import checkpoints; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_network_trained_in_float16_is_computed_in_float32_on_a_cpu(composed):
    cfg = composed("ckpt=any", "trainer=cpu", config_name="evaluate")
    checkpoint = {"numerics": checkpoints.PLAIN | {"precision": "16-mixed"}}
    resolved = checkpoints.apply_training_numerics(cfg, checkpoint, torch.nn.Identity())
    assert (cfg.trainer.precision, resolved.trainer.precision) == ("trained", "32-true")


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("datamodules", "datamodules/__init__.py"),
        ("models", "models/__init__.py"),
        ("models", "models/net.py"),  # a folder without __init__.py
        ("results", "results.py"),
    ],
)
def test_a_programs_own_package_of_the_same_name_is_reported_at_once(name, own, tmp_path):
    (tmp_path / own).parent.mkdir(exist_ok=True)
    (tmp_path / own).touch()
    (tmp_path / "program.py").write_text(f"import sys, {name}\nsys.path.append({str(ROOT)!r})\nimport inference\n")
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    other = tmp_path / (own if own != "models/net.py" else "models")
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: inference needs the package {name} in {ROOT}, but 'import {name}' finds {other}; rename that "
        "package, or load the network in a program without it"
    )


def test_no_other_package_of_a_program_is_in_the_way(trained, forks, tmp_path):
    """What loading a network imports of this project is what ``NEEDED`` names."""
    for name in ("callbacks", "lit_modules"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OWN = True")
    (tmp_path / "program.py").write_text(f"""
import sys
def ours():
    files = {{name: str(getattr(module, "__file__", None)) for name, module in sys.modules.items()}}
    return {{name for name, file in files.items() if file.startswith({str(ROOT)!r}) and name != "__main__"}}
for name in ours():  # the fork has imported them before
    del sys.modules[name]
sys.path.insert(0, {str(tmp_path)!r})
import callbacks, lit_modules
from inference import load_trained
network = load_trained({str(trained)!r})
assert callbacks.OWN and lit_modules.OWN and len(network.class_names) == 10
print(*sorted(name for name in ours() if "." not in name))
""")
    done = forks(str(tmp_path / "program.py"), cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.out.split() == sorted(["inference", *inference.NEEDED])
