"""Prediction: every row is its own file's, whatever the files are; and what cannot be done is said early."""

import csv
import json
import random
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inference import checkpoints
from launch import run_names
from models import LeNet
from predict import check, predict
from results import record as records
from results.errors import ConfigError, is_user_error

ROOT = Path(__file__).parent.parent
NAMES = ['grey, "dark"', "ünï", *(f"level {k}" for k in range(2, 10))]  # names that a CSV must quote


def level(label):
    """The brightness that a class stands for."""
    return 25 * label + 15


def write_checkpoint(path, network, names, preprocessing, **model):
    content = {
        "model": {"_target_": "models.LeNet", "num_classes": len(names), **model},
        "datamodule": {},
        "class_names": names,
        "preprocessing": preprocessing,
        "state_dict": {f"backbone.{name}": value for name, value in network.state_dict().items()},
    }
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A LeNet set by hand, which tells ten levels of brightness apart, as a checkpoint."""
    network = LeNet(1, 10, 16)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.conv1.weight[0, 0, 2, 2] = network.conv2.weight[0, 0, 2, 2] = 1
        network.fc1.weight[0, : network.fc1.in_features // 32] = 32 / network.fc1.in_features  # the mean of a map
        network.fc2.weight[0, 0] = 1
        levels = torch.tensor([level(label) / 255 for label in range(10)])
        network.fc3.weight[:, 0], network.fc3.bias[:] = 400 * levels, -200 * levels**2  # -200 (x - level)² + 200 x²
    preprocessing = {"in_channels": 1, "image_size": 16, "mean": [0.0], "std": [1.0]}
    path = tmp_path_factory.mktemp("judge") / "judge.ckpt"
    return write_checkpoint(path, network, NAMES, preprocessing, in_channels=1, image_size=16)


@pytest.fixture(scope="module")
def chance(tmp_path_factory):
    """(checkpoint, network with its preprocessing) of a random LeNet for RGB images that are cropped."""
    torch.manual_seed(0)
    network = LeNet(3, 4, 24)
    for layer in (network.conv1, network.conv2, network.fc1, network.fc2, network.fc3):
        layer.weight.data *= 3
    preprocessing = {"in_channels": 3, "image_size": 24, "mean": [0.4, 0.5, 0.6], "std": [0.2] * 3, "resize_ratio": 1.2}
    path = tmp_path_factory.mktemp("chance") / "chance.ckpt"
    write_checkpoint(path, network, list("abcd"), preprocessing, in_channels=3, image_size=24)
    return path, checkpoints.load(path)


@pytest.fixture
def told(composed, tmp_path):
    """A function that predicts, and returns the rows of what it wrote."""

    def run(*overrides, output="predictions.csv"):
        path = tmp_path / output
        predict(composed("trainer=cpu", f"output={path}", *overrides, config_name="predict"))
        return read(path)

    return run


def read(path):
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def grey(label, size=(20, 16)):
    return Image.new("L", size, level(label))


def noise(folder, count, size=(40, 33)):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (size[1] // 5, size[0] // 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size).save(folder / f"{number}.png")
    return folder


def expected(network, folder, names, turned=False):
    """The network's probabilities for RGB files of one size; ``turned``: for what it sees, mirrored."""
    images = torch.stack([torch.from_numpy(np.array(Image.open(folder / name))).permute(2, 0, 1) for name in names])
    seen = network.preprocess(images)
    with torch.no_grad():
        return network.backbone(seen.flip(3) if turned else seen).softmax(1)


def test_a_thousand_files_in_random_order_with_broken_ones_among_them_keep_their_rows(judge, forks, tmp_path):
    folder, labels = tmp_path / "images", {}
    folder.mkdir()
    numbers = list(range(1, 1001))
    random.Random(0).shuffle(numbers)
    for number in numbers:
        labels[number] = (7 * number + number // 13) % 10
        grey(labels[number]).save(folder / f"{number}.jpg")
    broken = {129: b"", 500: b"no image", 1000: (folder / "1000.jpg").read_bytes()[:200]}
    for number, content in broken.items():
        (folder / f"{number}.jpg").write_bytes(content)
        del labels[number]
    overrides = [f"ckpt={judge}", f"images={folder}", "output=out/predictions.csv", "num_workers=2", "trainer=cpu"]
    done = forks("predict.py", *overrides, "hydra.run.dir=run", "batch_size=64", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    text = (tmp_path / "out/predictions.csv").read_text()
    assert text == "id,label\n" + "".join(f"{number},{labels[number]}\n" for number in sorted(labels))
    assert "predicted    997 images" in done.out and "broken       3 left out" in done.out
    for number in broken:
        assert f"  {folder}/{number}.jpg cannot be read as an image: " in done.out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.csv"]


def odd_files(folder):
    """name → (a function that writes such a file, the class that it shows)."""
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = Image.new("RGBA", (20, 16), (0, 0, 0, 0))
    fractions = np.full((16, 20), level(2) / 255, np.float32)
    deep = np.full((16, 20), level(3) * 257, np.uint16)
    images = {
        "rgb.jpg": (grey(1).convert("RGB"), 1, {}),
        "RGB.JPEG": (grey(2).convert("RGB"), 2, {"progressive": True}),
        "cmyk.jpg": (grey(3).convert("RGB").convert("CMYK"), 3, {}),
        "turned.jpg": (grey(4), 4, {"exif": exif}),
        "palette.png": (grey(5).convert("P"), 5, {}),
        "bits.png": (Image.new("1", (20, 16), 0), 0, {}),
        "deep.png": (Image.fromarray(deep), 3, {}),
        "clear.png": (clear, 9, {}),
        "alpha.png": (grey(6).convert("LA"), 6, {}),
        "fractions.tif": (Image.fromarray(fractions), 2, {}),
        "x.webp": (grey(7).convert("RGB"), 7, {"lossless": True}),
        "moving.webp": (grey(8).convert("RGB"), 8, {"save_all": True, "append_images": [clear.convert("RGB")]}),
        "x.bmp": (grey(4), 4, {}),
        "x.gif": (grey(6), 6, {}),
        "large.png": (grey(7, (300, 500)), 7, {}),
        "small.png": (grey(8, (3, 2)), 8, {}),
    }
    for name, (image, _, options) in images.items():
        image.save(folder / name, **options)
    return {name: label for name, (_, label, _) in images.items()}


def test_any_kind_of_file_gives_a_sensible_prediction(judge, told, tmp_path):
    folder = tmp_path / "images"
    (folder / "deeper").mkdir(parents=True)
    labels = {"deeper/x.png": 5, **odd_files(folder)}
    grey(5).save(folder / "deeper/x.png")
    for name in (".hidden.png", "._rgb.jpg", "notes.txt"):  # what other programs leave
        (folder / name).write_bytes(b"?")
    rows = told(f"ckpt={judge}", f"images={folder}", "format=full")
    assert {row["file"]: int(row["label"]) for row in rows} == labels
    assert all(row["class_name"] == NAMES[int(row["label"])] for row in rows)
    assert [row["file"] for row in rows][:3] == ["alpha.png", "bits.png", "clear.png"]


def test_probabilities_are_those_of_the_network_and_can_be_read_back(chance, told, tmp_path, composed):
    folder = noise(tmp_path / "images", 7)
    path, network = chance
    names = [f"{i}.png" for i in range(7)]
    values, classes = expected(network, folder, names).topk(3)
    assert classes[:, 0].unique().numel() > 1
    options = [f"ckpt={path}", f"images={folder}", "format=full", "top_k=3", "batch_size=3"]
    rows = told(*options)
    assert list(rows[0]) == "file label class_name probability label_2 class_name_2 probability_2".split() + [
        "label_3",
        "class_name_3",
        "probability_3",
    ]
    for row, name, value, label in zip(rows, names, values.tolist(), classes.tolist(), strict=True):
        assert row["file"] == name
        for place, end in enumerate(("", "_2", "_3")):
            assert float(row[f"probability{end}"]) == pytest.approx(value[place], rel=2e-5)
            assert (int(row[f"label{end}"]), row[f"class_name{end}"]) == (label[place], "abcd"[label[place]])
    for entry, row in zip(told(*options, output="p.json"), rows, strict=True):
        assert entry["file"] == row["file"] and entry["label"] == int(row["label"])
        assert entry["probability"] == pytest.approx(float(row["probability"]))
        assert [other["class_name"] for other in entry["others"]] == [row["class_name_2"], row["class_name_3"]]
    assert len(told(*options, "top_k=9", output="p.json")[0]["others"]) == 3  # there are four classes
    submitted = told(*options, "format=submission", output="p.json")
    assert submitted == [{"id": str(i), "label": row[0]} for i, row in enumerate(classes.tolist())]


def test_flipping_is_the_mean_over_an_image_and_its_mirror_image(chance, told, tmp_path):
    folder, names = noise(tmp_path / "images", 4), [f"{i}.png" for i in range(4)]
    path, network = chance
    plain, mirrored = (expected(network, folder, names, turned) for turned in (False, True))
    rows = told(f"ckpt={path}", f"images={folder}", "format=full", "tta=flip", "top_k=1")
    for row, mean, alone in zip(rows, ((plain + mirrored) / 2).tolist(), plain.tolist(), strict=True):
        assert float(row["probability"]) == pytest.approx(mean[int(row["label"])], rel=2e-5)
        assert abs(max(alone) - max(mean)) > 1e-4


def test_probabilities_of_more_than_two_classes_have_a_column_each(chance, told, tmp_path):
    folder, (path, network) = noise(tmp_path / "images", 11), chance
    (folder / "3.png").write_bytes(b"broken")
    names = [i for i in range(11) if i != 3]  # by number: 2 before 10
    wanted = expected(network, folder, [f"{i}.png" for i in names])
    assert wanted.argmax(1).unique().numel() > 1
    rows = told(f"ckpt={path}", f"images={folder}", "format=probability", "batch_size=4", "top_k=1")
    assert [list(row) for row in rows] == [["id", *"abcd"]] * 10
    assert [row["id"] for row in rows] == list(map(str, names))
    found = torch.tensor([[float(row[name]) for name in "abcd"] for row in rows])
    torch.testing.assert_close(found, wanted, rtol=2e-5, atol=0)
    assert told(f"ckpt={path}", f"images={folder}", "format=probability", output="p.json")[0]["id"] == "0"


@pytest.mark.parametrize("names", [["cat", "dog"], ["id", "label"]])
def test_of_two_classes_the_second_has_its_probability_written(names, told, tmp_path, caplog):
    torch.manual_seed(0)
    network = LeNet(1, 2, 16)
    preprocessing = {"in_channels": 1, "image_size": 16, "mean": [0.0], "std": [0.02]}
    path = write_checkpoint(tmp_path / "two.ckpt", network, names, preprocessing, in_channels=1, image_size=16)
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(10):
        grey(number, (16, 16)).save(folder / f"{number}.png")
    with caplog.at_level("INFO"):
        rows = told(f"ckpt={path}", f"images={folder}", "format=probability")
    assert f"label        the probability of {names[1]}" in caplog.text
    assert list(rows[0]) == ["id", "label"]
    images = torch.tensor([level(number) for number in range(10)], dtype=torch.uint8).view(-1, 1, 1, 1)
    wanted = checkpoints.load(path)(images.expand(-1, 1, 16, 16))[:, 1].tolist()
    assert min(wanted) < 0.5 < max(wanted)
    assert [float(row["label"]) for row in rows] == pytest.approx(wanted, rel=2e-5)


def test_two_columns_with_the_same_name_are_refused(told, tmp_path):
    network, names = LeNet(1, 3, 16), ["a", "id", "b"]
    preprocessing = {"in_channels": 1, "image_size": 16, "mean": [0.0], "std": [1.0]}
    path = write_checkpoint(tmp_path / "three.ckpt", network, names, preprocessing, in_channels=1, image_size=16)
    grey(1).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match="two of them would have the same name; the classes are a, id, b; expected fo"):
        told(f"ckpt={path}", f"images={tmp_path}", "format=probability")
    assert not (tmp_path / "predictions.csv").exists()


def test_features_are_what_the_head_sees(chance, composed, tmp_path):
    folder, path = noise(tmp_path / "images", 5), chance[0]
    (folder / "2.png").write_bytes(b"broken")
    where = [f"ckpt={path}", f"images={folder}", f"output={tmp_path / 'features.NPZ'}"]
    predict(composed("trainer=cpu", "format=features", *where, config_name="predict"))
    with np.load(tmp_path / "features.NPZ", allow_pickle=False) as found:
        features, names = torch.from_numpy(found["features"]), found["files"].tolist()
    assert names == ["0.png", "1.png", "3.png", "4.png"]
    network, seen = checkpoints.load(path), []
    network.backbone.fc3.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    expected(network, folder, names)
    assert features.shape == (4, 84) and features.dtype == torch.float32
    torch.testing.assert_close(features, seen[0])


@pytest.mark.parametrize("option", ["memory_format=foo", "compile=foo"])
def test_how_a_network_cannot_be_computed_is_one_line(option, chance, composed, tmp_path):
    cfg = composed(f"ckpt={chance[0]}", f"images={chance[0]}", f"lit_module.{option}", config_name="predict")
    with pytest.raises(ConfigError, match=f"lit_module: {option}(; expected one of| is neither)"):
        predict(cfg)


def test_a_network_without_a_head_has_no_features(chance, composed, tmp_path, monkeypatch):
    monkeypatch.setattr(LeNet, "head", None)
    folder = noise(tmp_path / "images", 1)
    with pytest.raises(Exception) as caught:
        predict(
            composed("trainer=cpu", f"ckpt={chance[0]}", f"images={folder}", "format=features", config_name="predict")
        )
    assert is_user_error(caught.value)
    assert "LeNet has no attribute head; features are the input of the head" in records.one_line(caught.value)


def test_the_order_is_natural_folder_by_folder(judge, told, tmp_path):
    names = ["a/2.png", "a/10.png", "a/b10/1.png", "a 1/3.png", "b2.png", "b10.png", "B10a.png", "b10-1.png"]
    for name in names:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        grey(1).save(tmp_path / "images" / name)
    rows = told(f"ckpt={judge}", f"images={tmp_path / 'images'}", "format=full")
    assert [row["file"] for row in rows] == [
        "a/2.png", "a/10.png", "a/b10/1.png", "a 1/3.png", "b2.png", "b10.png", "b10-1.png", "B10a.png",
    ]  # fmt: skip
    rows = told(f"ckpt={judge}", f"images={tmp_path / 'images'}/a*/*.png")
    assert [row["id"] for row in rows] == ["2", "3", "10"]
    pattern = f"images='{tmp_path}/images/**/1[0-9].png'"
    assert [row["file"] for row in told(f"ckpt={judge}", pattern, "format=full")] == [f"{tmp_path}/images/a/10.png"]
    (row,) = told(f"ckpt={judge}", f"images={tmp_path / 'images/b2.png'}", "format=full")
    assert (row["file"], row["label"]) == ("b2.png", "1")


def test_a_broken_file_can_be_fatal_and_then_an_earlier_output_stays(judge, told, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        grey(number).save(folder / f"{number}.png")
    (folder / "4.png").write_bytes(b"broken")
    rows = told(f"ckpt={judge}", f"images={folder}", "batch_size=1")  # one batch is nothing but a broken file
    assert [(row["id"], row["label"]) for row in rows] == [(str(n), str(n)) for n in (0, 1, 2, 3, 5)]
    (tmp_path / "predictions.csv").write_text("earlier\n")
    for workers in (0, 1):
        with pytest.raises(ValueError) as caught:
            told(f"ckpt={judge}", f"images={folder}", "broken=fail", f"num_workers={workers}")
        assert is_user_error(caught.value)
        assert records.one_line(caught.value).startswith(f"{folder}/4.png cannot be read as an image: ")
    assert (tmp_path / "predictions.csv").read_text() == "earlier\n"
    for number in range(6):
        (folder / f"{number}.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=f"none of the 6 files could be read; the first: {folder}/0.png cannot be"):
        told(f"ckpt={judge}", f"images={folder}", "batch_size=4")
    assert (tmp_path / "predictions.csv").read_text() == "earlier\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "predictions.csv"]


def test_what_workers_send_keeps_no_files_open(judge, told, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(150):
        grey(number % 10).save(folder / f"{number}.bmp")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 60, hard))
        rows = told(f"ckpt={judge}", f"images={folder}", "batch_size=1", "num_workers=1")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [int(row["label"]) for row in rows] == [number % 10 for number in range(150)]


def test_the_grid_shows_the_first_images_that_could_be_read(judge, told, tmp_path, monkeypatch):
    folder, drawn = tmp_path / "images", []
    folder.mkdir()
    for number in range(6):
        grey(number + 3).save(folder / f"{number}.png")
    (folder / "1.png").write_bytes(b"broken")

    def draw(images, titles):
        drawn.append((images.max((1, 2, 3)).tolist(), titles))
        return original(images, titles)

    import results.pictures

    original = results.pictures.picture_grid
    monkeypatch.setattr(results.pictures, "picture_grid", draw)
    told(f"ckpt={judge}", f"images={folder}", "format=full", f"grid={tmp_path / 'g.png'}", "grid_count=3")
    ((levels, titles),) = drawn
    assert levels == [level(3), level(5), level(6)]
    assert [title.partition(" (")[0] for title in titles] == ["0.png\nlevel 3", "2.png\nlevel 5", "3.png\nlevel 6"]
    pixels = np.asarray(Image.open(tmp_path / "g.png").convert("L"))
    assert pixels.std() > 20 and {level(3), level(5), level(6)} <= set(np.unique(pixels).tolist())


def test_the_summary_counts_classes_and_names_the_first_broken_files(judge, told, tmp_path, caplog):
    caplog.set_level("INFO")
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(5):
        grey(3 if number else 8).save(folder / f"{number}.png")
    for number in range(100, 112):
        (folder / f"{number}.png").write_bytes(b"broken")
    told(f"ckpt={judge}", f"images={folder}")
    said = caplog.messages[-1]
    assert said.startswith("predicted    5 images in ") and "level 3 4" in said and "level 8 1" in said
    assert "broken       12 left out" in said and said.count("cannot be read") == 10 and "  and 2 more\n" in said
    assert said.endswith(f"output       {tmp_path}/predictions.csv")


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_on_a_terminal_else_lines(judge, told, tmp_path, monkeypatch, caplog, capsys, terminal):
    caplog.set_level("INFO")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        grey(3).save(folder / f"{number}.png")
    told(f"ckpt={judge}", f"images={folder}", "batch_size=2", "+progress.line_seconds=0", "+progress.refresh_rate=1")
    written = capsys.readouterr()
    assert ("3/3" in written.err + written.out) == terminal
    assert [m for m in caplog.messages if m.startswith("batch")] == (
        [] if terminal else ["batch 1 of 3", "batch 2 of 3", "batch 3 of 3"]
    )


def test_a_network_that_says_nothing_finite_is_an_error(judge, told, tmp_path):
    content = torch.load(judge, weights_only=True)
    content["state_dict"]["backbone.fc3.bias"][0] = float("nan")
    torch.save(content, tmp_path / "nan.ckpt")
    grey(1).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="the network's output is NaN or infinite"):
        told(f"ckpt={tmp_path / 'nan.ckpt'}", f"images={tmp_path / 'x.png'}")


def test_names_that_are_no_text_are_written_as_they_are(judge, composed, tmp_path):
    (tmp_path / "images").mkdir()
    raw = bytes(tmp_path / "images") + b"/a\xff.png"
    with open(raw, "wb") as file:
        grey(4).save(file, "png")
    grid = f"grid={tmp_path / 'g.png'}"
    settings = ["trainer=cpu", f"ckpt={judge}", f"images={tmp_path / 'images'}"]
    predict(composed(*settings, grid, f"output={tmp_path / 'p.csv'}", config_name="predict"))
    assert (tmp_path / "p.csv").read_bytes() == b"id,label\na\xff,4\n"
    predict(composed(*settings, f"output={tmp_path / 'p.json'}", config_name="predict"))
    assert json.loads((tmp_path / "p.json").read_text(encoding="utf-8")) == [{"id": "a\udcff", "label": 4}]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["format=sumbission"],
            "format=sumbission: expected one of submission, probability, full, features; did you mean submission?",
        ),
        (["tta=rotate"], "tta=rotate: expected one of null, flip"),
        (["broken=ignore"], "broken=ignore: expected one of skip, fail"),
        (["top_k=0"], "top_k=0: expected a whole number, at least 1"),
        (["num_workers=-1"], "num_workers=-1: expected a whole number, at least 0"),
        (["ckpt=jugde.ckpt"], "ckpt=jugde.ckpt: no such file or folder; did you mean judge.ckpt?"),
        (["images=photo"], "images=photo: no such file or folder; did you mean photos?"),
        (["images=empty"], "images=empty has no image files (.jpg"),
        (["images='photos/*.gif'"], "images=photos/*.gif: no file matches"),
        (["images=photos"], "a/1.png and b/1.jpg would have the same id, 1; use format=full"),
        (["images=photos", "format=probability"], "a/1.png and b/1.jpg would have the same id, 1; use format=full"),
        (["output=x.txt"], "output=x.txt: expected a name that ends in .csv or .json"),
        (["output=x.csv", "format=features"], "output=x.csv: expected a name that ends in .npz"),
        (["output=photos/a/1.png/x.csv"], "output=photos/a/1.png/x.csv: no file can be created in"),
        (["output=folder.csv"], "output=folder.csv is a folder"),
        (["grid=x.pdf"], "grid=x.pdf: expected a name that ends in .png"),
        (["grid=x.png", "format=features"], "grid shows predicted classes, and format=features has none"),
        (["iamges=x"], "iamges: no such key; did you mean images"),
    ],
)
def test_a_mistake_is_found_before_anything_is_made(overrides, message, judge, examine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a", "photos/b", "empty", "folder.csv"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "judge.ckpt").symlink_to(judge)
    grey(1).save("photos/a/1.png")
    grey(1).save("photos/b/1.jpg")
    before = sorted(tmp_path.rglob("*"))
    given = {"ckpt": "ckpt=judge.ckpt", "images": "images=photos/a"}
    args = [*overrides, *(o for key, o in given.items() if not any(x.startswith(f"{key}=") for x in overrides))]
    answer = examine(args, "predict", check)
    assert answer.code == 2 and len(answer.lines) == 1
    assert message in answer.error
    assert sorted(tmp_path.rglob("*")) == before


def test_several_processes_are_refused(judge, told, tmp_path):
    grey(1).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="prediction runs in one process, not 2; use trainer.devices=1"):
        told("trainer=ddp", "trainer.accelerator=cpu", f"ckpt={judge}", f"images={tmp_path / 'x.png'}")


@pytest.mark.parametrize("args", [["--help"], ["--cfg", "job"], ["ckpt=nowhere", "images=nowhere"]])
def test_asking_is_not_importing_torch(args):
    command = [sys.executable, "-X", "importtime", "predict.py", *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "hydra" in done.stderr and not any(f"| {name}" in done.stderr for name in ("torch", "lightning", "numpy"))
    assert "lit_modules.Predictor" in done.stdout or "error: ckpt=nowhere: no such file or folder\n" in done.stderr


def test_folders_say_what_was_predicted_and_not_where_to():
    overrides = ["ckpt=runs/digits_lenet/2026-11-25_10-00-00.1", "images=photos", "output=x.csv", "num_workers=2"]
    assert run_names.run_name(None, {"trainer": "default"}, [*overrides, "grid=g.png"]) == "digits_lenet_images-photos"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_predicts_the_same(judge, told, tmp_path):
    (tmp_path / "images").mkdir()
    labels = odd_files(tmp_path / "images")
    rows = told("trainer=gpu", f"ckpt={judge}", f"images={tmp_path / 'images'}", "format=full")
    assert {row["file"]: int(row["label"]) for row in rows} == labels
