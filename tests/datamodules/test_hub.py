"""Data sets in the forms of the Hugging Face hub, from a folder that is made here; nothing is downloaded."""

import io
import sys

import pytest
from PIL import Image

from datamodules import Hub
from datamodules.hub import safe_name

datasets = pytest.importorskip("datasets")


@pytest.fixture
def copy(tmp_path):
    """A folder with Parquet files: 30 images to train on, 6 to test, of which one has no label."""

    def rows(count):
        for number in range(count):
            content = io.BytesIO()
            Image.new("RGB", (8, 8), (number, 0, 0)).save(content, "PNG")
            yield {"image": {"bytes": content.getvalue(), "path": None}, "label": number % 3, "twins": 0}

    names = {"label": ["b/c", "a", ".."], "twins": ["x/y", "x_y"]}
    features = {key: datasets.ClassLabel(names=value) for key, value in names.items()}
    features = datasets.Features({"image": datasets.Image()} | features)
    (tmp_path / "copy").mkdir()
    for split, count in (("train", 30), ("test", 6)):
        found = [*rows(count)]
        if split == "test":
            found[5]["label"] = -1
        columns = {key: [row[key] for row in found] for key in found[0]}
        datasets.Dataset.from_dict(columns, features).to_parquet(tmp_path / "copy" / f"{split}.parquet")
    return tmp_path / "copy"


def test_images_are_written_once_and_read_as_a_folder(copy, tmp_path):
    def module():
        return Hub(str(tmp_path / "data"), str(copy), image_size=8, num_workers=0, cache="none", val_fraction=0.2)

    data = module()
    data.setup("fit")
    data.setup("test")
    assert data.class_names == ("_", "a", "b_c")
    assert len(data.sets["train"]) + len(data.sets["val"]) == 30 and len(data.sets["test"]) == 5
    for path, label in (sample for images in data.sets.values() for sample in images.samples):
        folder, name = path.split("/")[-2:]
        pixels = Image.open(path).getpixel((0, 0))
        assert pixels[0] == int(name[:-4]) and folder == data.class_names[label] == ("b_c", "a", "_")[pixels[0] % 3]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "data" / "hub").rglob("*.png")}
    (copy / "train.parquet").unlink()
    module()
    assert {path: path.stat().st_mtime_ns for path in written} == written and len(written) == 35


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "kind"}, "has no column datamodule.label=kind; it has image, label, twins"),
        ({"label": "twins"}, "two classes of twins would share a folder; the names are x/y, x_y"),
        ({"image": "img"}, "has no column datamodule.image=img; it has image, label, twins"),
        (
            {"subset": "large"},
            "cannot be loaded: .*large.*; without a network, set datamodule.dataset to the path",
        ),
    ],
)
def test_errors_are_one_line_and_leave_no_folder(options, message, copy, tmp_path):
    with pytest.raises((ValueError, OSError), match=message):
        Hub(str(tmp_path / "data"), str(copy), image_size=8, **options)
    assert not [path for path in (tmp_path / "data" / "hub").iterdir() if not path.name.startswith(".")]


def test_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"datamodule=hub needs the extra hub: pip install -e '.\[hub\]'"):
        Hub(str(tmp_path), "user/flowers")


@pytest.mark.parametrize(
    ("text", "name"), [("../../etc", "etc"), ("..", "_"), ("user/flowers", "user_flowers"), ("c++ 1.5", "c++ 1.5")]
)
def test_a_name_stays_inside_its_folder(text, name):
    assert safe_name(text) == name
