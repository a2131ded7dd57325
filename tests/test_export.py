"""Export: a file that other programs open computes what the checkpoint does, and no other file is left."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import safetensors.torch
import torch
import torchvision
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image

from datamodules import Digits, Preprocessing
from datamodules.image_paths import find_images
from export import check, export
from inference import checkpoints, exporters
from inference.safe_build import MODELS, safe_build

ROOT = Path(__file__).parent.parent
FORMATS = {"onnx": ".onnx", "torch_export": ".pt2"}
NAMES = [*"012345678", "neun “9”"]


def checkpoint_of(folder, *overrides, **preprocessing):
    """A checkpoint on digits of a network that tells images apart, its weights and statistics far from the first."""
    torch.manual_seed(0)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", [f"run_dir={folder}", *overrides])
    model, data = (OmegaConf.to_container(cfg[part], resolve=True) for part in ("model", "datamodule"))
    network = safe_build(model, "model", MODELS)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1  # its statistics become those of the images below
            torch.nn.init.uniform_(module.weight, 0.1, 0.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    channels, size = data["in_channels"], data["image_size"]
    seen = {"in_channels": channels, "image_size": size, "mean": [0.3], "std": [0.4]} | preprocessing
    images = Digits(10, channels, size).load("train").images[:64]
    images = Preprocessing(**seen).normalize(images.expand(-1, len(seen["mean"]), -1, -1))
    with torch.no_grad():
        network.train()(images)
        logits = network.eval()(images)
        network.head.weight *= 0.1 / logits.std(0).mean()  # more would be more than float32 can tell of random features
        network.head.bias -= network(images).mean(0)
    weights = {f"backbone.{name}": value for name, value in network.state_dict().items()}
    content = {"model": model, "datamodule": data, "class_names": list("0123456789"), "state_dict": weights}
    path = folder / "some.ckpt"
    torch.save(content | {"preprocessing": seen}, path)
    return path


def opened(path):
    """(the network in a file, its metadata), opened without this project."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        about = session.get_modelmeta().custom_metadata_map
        return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0]), about
    about = dict.fromkeys(["class_names", "preprocessing", "preprocessing_inside", "checkpoint"], "")
    return torch.export.load(path, extra_files=about).module(), about


@pytest.fixture
def exports(composed, tmp_path):
    """A function that exports, and opens what came of it."""

    def exports(form, *overrides):
        path = tmp_path / f"out{FORMATS[form]}"
        export(composed(f"format={form}", f"output={path}", *overrides, config_name="export"))
        return opened(path)

    return exports


NETWORKS = {
    "lenet": "model=lenet",
    "resnet18": "model=resnet18",
    "resnext": "model=resnet_cifar model.depth=11 model.groups=4 model.width_per_group=16",  # three bottlenecks
}
PEOPLES = {name: f"model={name}" for name in ("resnet50", "resnext50")}


@pytest.fixture(scope="module", params=[*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in PEOPLES)])
def network(request, tmp_path_factory):
    """A checkpoint of one of the networks that people export, or of a smaller one of its kind."""
    options = (NETWORKS | PEOPLES)[request.param].split()
    folder = tmp_path_factory.mktemp(request.param)
    return checkpoint_of(folder, *options, "datamodule.in_channels=3", "datamodule.image_size=64")


@pytest.mark.parametrize("form", FORMATS)
def test_the_file_gives_the_checkpoints_logits_for_real_images_at_any_batch(form, network, exports):
    found, _ = exports(form, f"ckpt={network}")
    images = Digits(10, 3, 64).load("test").images[:20].expand(-1, 3, -1, -1)
    images = (images / 255 - 0.3) / 0.4
    backbone = checkpoints.load(network).backbone
    with torch.no_grad():
        expected = backbone(images)
        assert expected.std(0).min() > 0.02  # images differ by far more than 1e-4
        for batch in (images[:1], images[:7], images):
            got = found(batch)
            assert got.dtype == torch.float32
            torch.testing.assert_close(got, backbone(batch), atol=1e-4, rtol=0)


def test_weights_are_loaded_strictly_by_torchvision_and_timm(composed, tmp_path):
    ckpt = checkpoint_of(tmp_path, "model=resnet18", "datamodule.in_channels=3", "model.stem=imagenet")
    path = tmp_path / "out.safetensors"
    assert export(composed("format=weights", f"ckpt={ckpt}", f"output={path}", config_name="export")) == 0
    weights, backbone = safetensors.torch.load_file(path), checkpoints.load(ckpt).backbone
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    network = torchvision.models.resnet18(num_classes=10).eval()
    network.load_state_dict(weights, strict=True)
    torch.testing.assert_close(network(images), backbone(images))
    with safetensors.safe_open(path, "pt") as opened:
        assert json.loads(opened.metadata()["class_names"]) == list("0123456789")
    again = safe_build(
        {"_target_": "models.ResNet", "depth": 18, "in_channels": 3, "num_classes": 10, "image_size": 32,
         "weights": str(path)}, "model", MODELS,
    )  # fmt: skip
    torch.testing.assert_close(again.eval()(images), backbone(images))
    timm = pytest.importorskip("timm")
    network = timm.create_model("resnet18", num_classes=10, checkpoint_path=str(path)).eval()  # strict by default
    torch.testing.assert_close(network(images), backbone(images))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("channels", "mean"), [(1, [0.4, 0.5, 0.6]), (3, [0.4, 0.5, 0.6]), (3, [0.3])])
def test_with_preprocessing_inside_it_takes_grey_and_coloured_pixels(form, channels, mean, exports, tmp_path):
    std = [0.2, 0.2, 0.3][: len(mean)]
    ckpt = checkpoint_of(tmp_path, f"datamodule.in_channels={channels}", mean=mean, std=std)
    found, about = exports(form, f"ckpt={ckpt}", "preprocessing=true")
    assert about["preprocessing_inside"] == "true"
    prepare, backbone = Preprocessing(channels, 32, mean, std), checkpoints.load(ckpt).backbone
    generator = torch.Generator().manual_seed(0)
    for seen in (1, 3):
        for batch in (1, 7):
            pixels = torch.randint(256, (batch, seen, 32, 32), dtype=torch.uint8, generator=generator)
            with torch.no_grad():
                torch.testing.assert_close(found(pixels), backbone(prepare(pixels)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", FORMATS)
def test_class_names_and_preprocessing_travel_and_folders_of_this_machine_do_not(form, trained, exports, tmp_path):
    content = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    content["class_names"] = NAMES
    torch.save(content, tmp_path / "some.ckpt")
    picture = tmp_path / "three.png"
    Image.new("RGB", (40, 30), "teal").save(picture)
    _, about = exports(form, f"ckpt={tmp_path / 'some.ckpt'}", f"images={picture}")
    assert {name: json.loads(text) for name, text in about.items()} == {
        "class_names": NAMES,
        "preprocessing": content["preprocessing"],
        "preprocessing_inside": False,
        "checkpoint": str(tmp_path / "some.ckpt"),
    }
    (file,) = tmp_path.glob("out.*")  # nothing beside it
    assert str(ROOT / "models").encode() not in file.read_bytes()


FAULTS = {
    "far": lambda logits: logits + 2e-4,
    "far for one image": lambda logits: logits + 2e-4 * (torch.arange(len(logits)) == 63)[:, None],
    "far at batch 1": lambda logits: logits + 2e-4 * (len(logits) == 1),
    "far at batch 7": lambda logits: logits - 2e-4 * (len(logits) == 7),
    "no number": lambda logits: logits * torch.nan,
    "other metadata": lambda logits: logits,
    None: lambda logits: logits + 5e-5,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_differs_is_not_kept_and_the_earlier_one_stays(fault, trained, composed, tmp_path, monkeypatch):
    network = checkpoints.load(trained).backbone

    def write(network, like, metadata, file):
        file.write_text(json.dumps({} if fault == "other metadata" else metadata))

    def open_again(file, backbone):
        return lambda images: FAULTS[fault](network(images)), json.loads(file.read_text())

    monkeypatch.setitem(exporters.FORMATS, "onnx", (write, open_again))
    path = tmp_path / "out.onnx"
    path.write_text("earlier")
    cfg = composed(f"ckpt={trained}", f"output={path}", config_name="export")
    if fault is None:  # within the tolerance
        assert export(cfg) == pytest.approx(5e-5, rel=0.1)
    else:
        with pytest.raises(SystemExit, match="format=onnx wrote .*; the file is discarded") as caught:
            export(cfg)
        assert ("wrote different metadata" in str(caught.value)) == (fault == "other metadata")
    assert (path.read_text() == "earlier") == (fault is not None)
    assert os.listdir(tmp_path) == ["out.onnx"]


@pytest.mark.parametrize(("factor", "kept"), [(1 + 6e-7, True), (1 + 3e-6, False)])
def test_logits_beyond_what_float32_can_tell_apart_by_the_tolerance(factor, kept, trained, tmp_path, monkeypatch):
    content = checkpoints.read_checkpoint(trained / "checkpoints/best.ckpt")
    network = checkpoints.build_backbone(content).eval()
    with torch.no_grad():
        network.head.weight *= 1e4
    pair = (lambda network, like, metadata, file: file.write_text(json.dumps(metadata)),)
    pair += (lambda file, backbone: (lambda images: network(images) * factor, json.loads(file.read_text())),)
    monkeypatch.setitem(exporters.FORMATS, "onnx", pair)
    facts = {key: content[key] for key in ("class_names", "preprocessing")}
    facts |= {"preprocessing_inside": False, "checkpoint": "some.ckpt"}
    pixels, _ = exporters.real_images(content, (), ())
    if kept:
        assert exporters.save(tmp_path / "a.onnx", "onnx", network, pixels, facts, 1e-4)[0] > 1e-3
    else:
        with pytest.raises(exporters.Disagreement):
            exporters.save(tmp_path / "a.onnx", "onnx", network, pixels, facts, 1e-4)


def test_the_images_compared_are_from_all_over(trained, tmp_path):
    content = checkpoints.read_checkpoint(trained / "checkpoints/best.ckpt")
    pixels, whose = exporters.real_images(content, (), ())
    test = Digits(10, 1, 32).load("test").images
    assert whose == "64 test images of Digits" and torch.equal(pixels[[0, -1]], test[[0, -1]])
    for number in range(150):
        (tmp_path / "deep").mkdir(exist_ok=True)
        Image.new("RGB", (20, 44), (number, 0, 0)).save(tmp_path / "deep" / f"{number:03}.PNG")
    folder, names = find_images(str(tmp_path))
    pixels, _ = exporters.real_images(content, [str(folder / name) for name in names], ())
    assert pixels.shape == (50, 3, 32, 32) and pixels[:, 0, 0, 0].tolist() == list(range(0, 150, 3))


def test_where_the_data_are_gone_other_images_will_do(exports, tmp_path):
    ckpt = checkpoint_of(tmp_path)
    content = torch.load(ckpt, weights_only=True)
    content["datamodule"] = {"_target_": "datamodules.ImageFolder", "data_dir": str(tmp_path / "gone")}
    torch.save(content, ckpt)
    with pytest.raises(OSError, match="gone is not a folder; images=PATH compares on other images"):
        exports("torch_export", f"ckpt={ckpt}")
    Image.new("L", (20, 44), 77).save(tmp_path / "a.png")
    exports("torch_export", f"ckpt={ckpt}", f"images={tmp_path}")
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(ValueError, match=r"b\.png cannot be read as an image"):
        exports("torch_export", f"ckpt={ckpt}", f"images={tmp_path}/*.png")


def test_weights_that_one_onnx_file_cannot_hold_are_refused(trained, exports, tmp_path, monkeypatch):
    monkeypatch.setattr(exporters, "ONNX_LIMIT", 1000)
    with pytest.raises(ValueError, match="bytes of weights are too many for one ONNX file; format=torch_export"):
        exports("onnx", f"ckpt={trained}")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "ckpt has no value; give it one: ckpt=…"),
        (["ckpt=digits_lnet"], "ckpt=digits_lnet: no such file or folder; did you mean digits_lenet?"),
        (["format=onx"], "format=onx: expected one of onnx, torch_export, weights; did you mean onnx?"),
        (["fromat=onnx"], "fromat: no such key; did you mean format?"),
        (["output=a.pt2"], "output=a.pt2: expected a name that ends in .onnx"),
        (["format=torch_export", "output=a"], "output=a: expected a name that ends in .pt2"),
        (["images=pets"], "images=pets: no such file or folder"),
        (["preprocessing=inside"], "preprocessing=inside: expected true or false, such as false"),
        (
            ["format=weights", "preprocessing=true"],
            "preprocessing=true: format=weights contains only weights; expected another format",
        ),
        (["tolerance=-1"], "tolerance=-1: expected 0 or more"),
        (["tolerance=null"], "tolerance=null: expected a number, such as 0.0001"),
    ],
)
def test_a_mistake_is_found_before_anything_is_made(args, message, trained, examine, tmp_path, monkeypatch):
    (tmp_path / "digits_lenet").mkdir()
    monkeypatch.chdir(tmp_path)
    if args and not args[0].startswith("ckpt"):
        args = [f"ckpt={trained}", *args]
    answer = examine(args, "export", check)
    assert (answer.code, answer.error, len(answer.lines)) == (2, message, 1)


def test_a_missing_package_is_named_with_the_command_that_installs_it(composed, trained, monkeypatch):
    monkeypatch.setattr("export.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ValueError) as caught:
        check(composed(f"ckpt={trained}", config_name="export"))
    assert str(caught.value) == "format=onnx needs onnxscript, not installed: pip install -e '.[export]'"
    check(composed(f"ckpt={trained}", "format=torch_export", config_name="export"))


@pytest.mark.parametrize("args", [["--help"], ["--cfg", "job"], ["ckpt=/", "format=onx"]])
def test_asking_is_not_importing_torch(args):
    command = [sys.executable, "-X", "importtime", "export.py", *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "hydra" in done.stderr and "| torch" not in done.stderr and "| onnx" not in done.stderr
    assert "tolerance: 0.0001" in done.stdout or "did you mean onnx?" in done.stderr


def test_a_checkpoint_that_means_harm_is_refused(trained, exports, tmp_path):
    content = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    content["model"] = {"_target_": "os.mkdir", "path": str(tmp_path / "harm")}
    torch.save(content, tmp_path / "some.ckpt")
    with pytest.raises(ValueError, match=r"the checkpoint's model names os\.mkdir"):
        exports("onnx", f"ckpt={tmp_path / 'some.ckpt'}")
    assert os.listdir(tmp_path) == ["some.ckpt"]


def test_from_a_run_on_digits_to_class_names_as_the_readme_says(trained, forks, tmp_path):
    done = forks("export.py", f"ckpt={trained}", "preprocessing=true", "hydra.run.dir=here", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    said = [line.split()[0] for line in done.out.splitlines()]
    assert said == ["checkpoint", "compared", "exported"]
    differs = re.search(r"64 test images of Digits, .* logits of up to [\d.]+ differ by up to (\S+)", done.out)
    assert 0 <= float(differs[1]) < 1e-4
    path = tmp_path / "here/digits.onnx"
    assert f"exported     here/digits.onnx ({path.stat().st_size / 1e6:.1f} MB)" in done.out

    (example,) = re.findall(r"```python\n(import json.*?)```", (ROOT / "docs" / "use.md").read_text(), re.DOTALL)
    assert sum(bool(line) for line in example.splitlines()) <= 8
    images = Digits(10, 1, 32).load("test")
    space = {"pixels": images.images[:7].numpy()}
    exec(example.replace("digits_lenet.onnx", str(path)), space)
    expected = checkpoints.load(trained)(images.images[:7]).argmax(1).tolist()
    assert space["names"] == [str(i) for i in expected] and len(set(expected)) > 1


def test_in_a_sweep_each_format_has_its_folder_and_a_difference_ends_in_one_line_and_code_1(trained, forks, tmp_path):
    options = ["format=torch_export,onnx", "tolerance=0", "hydra.sweep.dir=sweep"]  # which ONNX cannot meet
    done = forks("export.py", "-m", f"ckpt={trained}", *options, cwd=tmp_path)
    assert done.code == 1 and done.err.count("\n") == 1
    assert re.match("error: format=onnx wrote a different network: .*; tolerance=0; the file is discarded", done.err)
    found = [str(path.relative_to(tmp_path)) for path in tmp_path.glob("sweep/*/*digits.*")]
    assert found == ["sweep/format-torch_export/digits.pt2"]
