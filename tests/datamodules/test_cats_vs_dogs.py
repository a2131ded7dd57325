"""Cats and dogs in every form in which they come: which label a file gets, which files get none, and what is said."""

import logging
import re

import pytest
from PIL import Image

from datamodules import CatsVsDogs, ImageFolder
from datamodules.cats_vs_dogs import class_of
from datamodules.image_paths import visible

# The animal and the number of each image, 14 cats and 21 dogs; by name, 10 comes before 2.
ANIMALS = [("dog", n) for n in range(21)] + [("cat", n) for n in range(14)]
FORMS = {
    "flat": "{animal}.{n}.jpg",
    "flat with _": "{animal}_{n}.jpg",
    "flat with - in capitals": "{animal}-{n}.JPG",
    "flat without": "{animal}{n}.png",
    "flat, named by a file manager": "{Animal} ({n}).JPEG",
    "folders": "{animal}/{n}.jpg",
    "folders of PetImages": "{Animal}/{n}.jpg",
    "folders in the plural, with flat names": "{animal}s/{animal}.{n}.jpg",
    "folders in folders": "{Animal}s/{n}/x.jpg",
}


def write(folder, *names):
    """Small images; the label is in the name alone."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)


def write_all(folder, form, animals=ANIMALS):
    write(folder, *(form.format(animal=animal, Animal=animal.title(), n=n) for animal, n in animals))


def ready(folder, **options):
    data = CatsVsDogs(str(folder), image_size=16, num_workers=0, **options)
    data.setup("fit")
    data.setup("test")
    return data


def found(data):
    """Of each split: {path below ``data_dir``: label}."""
    below = len(data.data_dir) + 1
    return {split: {path[below:]: label for path, label in part.samples} for split, part in data.sets.items()}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_file_gets_its_label_and_one_place_in_the_split(form, tmp_path):
    write_all(tmp_path, form)
    parts = found(ready(tmp_path, val_fraction=0.25, test_fraction=1 / 7))
    together = {path: label for part in parts.values() for path, label in part.items()}
    assert together == {form.format(animal=a, Animal=a.title(), n=n): int(a == "dog") for a, n in ANIMALS}
    counts = {split: [list(part.values()).count(label) for label in (0, 1)] for split, part in parts.items()}
    assert all(min(of_classes) >= 1 for of_classes in counts.values()) and min(counts["train"]) >= 5, counts


def test_the_split_is_a_function_of_the_seed_and_the_names(tmp_path):
    write_all(tmp_path / "one", FORMS["flat"])
    write_all(tmp_path / "two" / "train", FORMS["flat"], ANIMALS[::-1])  # written the other way round, elsewhere
    one, two, other = (found(ready(tmp_path / name, seed=seed)) for name, seed in (("one", 3), ("two", 3), ("one", 4)))
    names = {split: [path.removeprefix("train/") for path in part] for split, part in two.items()}
    assert {split: list(part) for split, part in one.items()} == names
    assert set(one["test"]) != set(other["test"])
    assert set(one["val"]) != set(other["val"])


def test_folders_and_flat_names_may_stand_side_by_side_and_a_folder_counts_for_more(tmp_path):
    write(tmp_path / "train", "dogs/cat.1.jpg", "cat/1.jpg", "Cats/1.jpg", "dog.1.jpg", "cat.1.jpg")
    samples = CatsVsDogs(str(tmp_path)).samples("train", [])
    labels = {path.removeprefix(f"{tmp_path}/train/"): label for path, label in samples}
    assert labels == {"dogs/cat.1.jpg": 1, "cat/1.jpg": 0, "Cats/1.jpg": 0, "dog.1.jpg": 1, "cat.1.jpg": 0}


def test_parts_with_labels_are_kept_each_in_its_own_form(tmp_path):
    write_all(tmp_path / "train", FORMS["flat"])
    write(tmp_path / "val", "dog/1.jpg", "cat/2.jpg", "cat/3.jpg")
    write(tmp_path / "test", "cat_1.jpg", "dog_2.jpg")
    parts = found(ready(tmp_path))
    assert len(parts["train"]) == 35
    assert parts["val"] == {"val/cat/2.jpg": 0, "val/cat/3.jpg": 0, "val/dog/1.jpg": 1}
    assert parts["test"] == {"test/cat_1.jpg": 0, "test/dog_2.jpg": 1}


@pytest.mark.parametrize("name", ["test", "test1"])
@pytest.mark.parametrize("below", [".", "train"])
def test_a_contests_images_without_labels_are_left_aside_in_one_line(name, below, tmp_path, caplog):
    write_all(tmp_path / below, FORMS["flat"])
    write(tmp_path / name, *(f"{n}.jpg" for n in range(1, 13)))
    with caplog.at_level(logging.INFO):
        parts = found(ready(tmp_path, test_fraction=0.2))
    assert sum(len(part) for part in parts.values()) == 35
    assert 3 <= len(parts["test"]) <= 12  # split from the training images
    assert not any(path.startswith(f"{name}/") for part in parts.values() for path in part)
    assert [record.message for record in caplog.records] == [
        f"unused       {tmp_path / name}: no names of cats or dogs"
    ]


@pytest.mark.parametrize(
    ("name", "animal"),
    [
        *((name, "cat") for name in ("cat (1).jpg", "cat(1).jpg", "Cat 12.JPEG", "cat.1 copy.jpg", "CATS_007.png")),
        *((name, "dog") for name in ("dog - 3.png", "dog.3 - Copy (2).jpg", "dogs+3.webp", "dog_٣.jpg")),
        *((name, None) for name in ("category.jpg", "catfish.1.jpg", "cat_and_dog.jpg", "cat1_dog2.jpg", "cat.jpg")),
        *((name, None) for name in ("bobcat (1).jpg", "cat1.txt", "cat é1.jpg", "dogma 1.jpg")),
    ],
)
def test_which_names_say_what_they_show(name, animal, tmp_path):
    (tmp_path / name).write_bytes(b"x")
    (entry,) = visible(tmp_path)
    assert class_of(entry) == animal


def test_what_is_neither_cat_nor_dog_is_counted_and_named_once(tmp_path, caplog):
    strange = ["1.jpg", "cat_and_dog.jpg", "category.jpg", "dogma1.jpg", "cat.jpg", "bobcat.1.jpg", "catfish/1.jpg"]
    write_all(tmp_path, FORMS["flat"])
    write(tmp_path, *strange)
    (tmp_path / "cat.99.csv").write_text("no image")
    for name in ("._cat.1.jpg", "__MACOSX/cat.1.jpg"):  # of other programs
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    parts = found(ready(tmp_path))
    assert sum(len(part) for part in parts.values()) == 35
    assert [record.message for record in caplog.records] == [
        f"neither cat nor dog, left out: 7 in {tmp_path}, the first 1.jpg"
    ]


@pytest.mark.parametrize("module", [CatsVsDogs, ImageFolder])
def test_empty_files_are_left_out_and_named_once(module, tmp_path, caplog):
    write_all(tmp_path, FORMS["folders of PetImages"])
    empty = ["Cat/6.jpg", "Dog/11.jpg"]  # PetImages has two such
    for name in empty:
        (tmp_path / name).write_bytes(b"")
    data = module(str(tmp_path), image_size=16, num_workers=0)
    data.setup("fit")
    data.setup("test")
    paths = [path for part in found(data).values() for path in part]
    assert len(paths) == 33
    assert not set(empty) & set(paths)
    assert [record.message for record in caplog.records] == [
        f"empty files, left out: 2 in {tmp_path}, the first Cat/6.jpg"
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "{} has no cats and dogs; expected {}/cat/1.jpg, cat.1.jpg or cat_1.jpg, and dogs likewise"),
        (["1.jpg", "category.jpg"], "{} has no cats and dogs"),
        (["train/1.jpg", "test/cat.1.jpg"], "{}/train has no cats and dogs; expected {}/train/cat/1.jpg"),
        (["test/cat.1.jpg", "test/dog.1.jpg"], "{} has a folder test, but none named train"),
        (["cat.1.jpg", "cat.2.jpg"], "{} has no images of the class dog"),
        (["train/dogs/1.jpg", "train/dogs/2.jpg", "train/cat/1.txt"], "{}/train has no images of the class cat"),
    ],
)
def test_a_folder_without_both_is_refused_in_one_line(names, message, tmp_path):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"not looked into")
    with pytest.raises(OSError, match=re.escape(message.replace("{}", str(tmp_path)))) as caught:
        ready(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", [CatsVsDogs, ImageFolder])
def test_a_class_of_empty_files_alone_is_missing(module, tmp_path):
    write_all(tmp_path, FORMS["folders"])
    for path in (tmp_path / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="no images of the class dog"):
        module(str(tmp_path)).setup("fit")
