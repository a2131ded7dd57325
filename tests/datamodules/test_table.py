"""Labels in a table: which row is which file, what is left out, and groups that stay together."""

import pandas as pd
import pytest
from PIL import Image

from datamodules import Table
from datamodules.sampling import split_by_group
from datamodules.table import match_files, read_table
from inference.checkpoints import build_datamodule, trained_on


@pytest.fixture
def folder(tmp_path):
    """40 files in two folders; ``images/7.png`` and so on."""
    for number in range(40):
        path = tmp_path / ("images" if number < 30 else "more") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    return tmp_path


def table(folder, *rows, name="labels.csv", head="file_name,label"):
    (folder / name).write_text("\n".join([head, *rows]).replace(",", "\t" if name.endswith("tsv") else ","))
    return name


def module(folder, name="labels.csv", **options):
    return Table(str(folder), name, image_size=8, num_workers=0, **options)


def ready(data):
    data.setup("fit")
    data.setup("test")
    return data


def numbers(images):
    """Which of the 40 files these are."""
    return sorted(int(path.rpartition("/")[2][:-4]) for path, _ in images.samples)


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv"])
@pytest.mark.parametrize("form", ["{n}", "{n}.png", "{f}/{n}", "./{f}/{n}.png", "{f}\\{n}.png"])
def test_rows_find_their_files_with_or_without_folder_and_suffix(form, name, folder):
    rows = [f"{form.format(n=n, f='images' if n < 30 else 'more')},{10 if n % 2 else 2}" for n in range(40)]
    data = ready(module(folder, table(folder, *rows, name=name), test_fraction=0.25, val_fraction=0.25))
    assert data.class_names == ("2", "10")
    assert sorted(sum(map(numbers, data.sets.values()), [])) == list(range(40))
    for images in data.sets.values():
        assert all(label == int(path[:-4].rpartition("/")[2]) % 2 for path, label in images.samples)


def test_columns_have_any_names_and_splits_are_those_of_the_table(folder):
    splits = ["Train"] * 20 + ["valid"] * 8 + ["test"] * 12
    rows = [f"{'cat' if n % 2 else 'dog'},{n},{split}" for n, split in enumerate(splits)]
    table(folder, *rows, head="kind,id,part")
    data = ready(module(folder, file="id", label="kind", split="part"))
    assert data.class_names == ("cat", "dog")
    found = {split: numbers(images) for split, images in data.sets.items()}
    assert found == {"train": [*range(20)], "val": [*range(20, 28)], "test": [*range(28, 40)]}
    assert data.splits_by_name == ()


def test_the_unusable_is_counted_and_named_in_one_line(folder, caplog):
    rows = [f"{n},{'cat' if n % 2 else 'dog'}" for n in range(35)]
    table(folder, *rows, "77,cat", "78,cat", "35,", "34,dog", "36,cow")
    data = module(folder)
    assert len(data.rows) == 36
    assert [line.split(maxsplit=1)[1] for line in caplog.messages] == [
        f"{folder}/labels.csv: 36 images; rows without a file: 2 (first 77); rows without a label: 1 (first 35); "
        "files without a row: 3 (first more/37.png); second rows of a file: 1 (first 34); "
        "labels that occur once: 1 (first cow)"
    ]


@pytest.mark.parametrize(("rows", "level"), [(["1,cat", "2,cat"], "INFO"), (["1,cat", "2,"], "WARNING")])
def test_a_warning_is_of_lost_rows(rows, level, folder, caplog):
    caplog.set_level("INFO")
    path = folder / table(folder, *rows)
    found = match_files(read_table(path, {"file": "file_name", "label": "label"}), folder, path, [])
    assert len(found) == {"INFO": 2, "WARNING": 1}[level]
    assert [record.levelname for record in caplog.records] == [level]


def test_a_group_is_in_one_split_only_and_new_files_move_no_other_group(folder):
    rows = [f"{n},{'cat' if n % 2 else 'dog'},patient {n // 4}" for n in range(40)]
    table(folder, *rows, head="file_name,label,patient")
    data = ready(module(folder, group="patient", test_fraction=0.3, val_fraction=0.3))
    groups = {split: {n // 4 for n in numbers(images)} for split, images in data.sets.items()}
    assert sum(map(len, groups.values())) == 10 == len(set.union(*groups.values()))
    assert all(len(images) == 4 * len(groups[split]) > 0 for split, images in data.sets.items())
    table(folder, *rows[:36], head="file_name,label,patient")  # without patient 9
    fewer = ready(module(folder, group="patient", test_fraction=0.3, val_fraction=0.3))
    assert all({n // 4 for n in numbers(fewer.sets[split])} == groups[split] - {9} for split in groups)


@pytest.mark.parametrize("group", [None, "patient"])
def test_over_the_folds_each_image_is_tested_or_validated_once_and_groups_stay_together(group, folder):
    rows = [f"{n},{'cat' if n % 2 else 'dog'},patient {n // 4}" for n in range(40)]
    table(folder, *rows, head="file_name,label,patient")
    parts = [ready(module(folder, group=group, test_fraction=0.3, folds=4, fold=fold)).sets for fold in range(4)]
    validated = sum((numbers(part["val"]) for part in parts), [])
    assert sorted(validated + numbers(parts[0]["test"])) == list(range(40))
    for part in parts:
        assert numbers(part["test"]) == numbers(parts[0]["test"])
        together = [{n // 4 for n in numbers(part[split])} for split in ("train", "val", "test")]
        assert group is None or sum(map(len, together)) == 10 == len(set.union(*together))


def test_folds_need_data_without_a_validation_set(folder):
    splits = ["train"] * 20 + ["val"] * 8 + ["test"] * 12
    table(folder, *(f"{n},{n % 2},{split}" for n, split in enumerate(splits)), head="file_name,label,split")
    with pytest.raises(ValueError, match="folds=5 splits the training set, but the data has a validation set"):
        module(folder, split="split", folds=5).setup("fit")


@pytest.mark.parametrize(("fraction", "rest", "sizes"), [(0.5, 1, range(40, 61)), (0.001, 1, [1]), (0.999, 2, [98])])
def test_groups_are_split_by_their_hash_with_some_in_both_parts(fraction, rest, sizes):
    groups = [f"g{i % 100}" for i in range(300)]
    first, second = split_by_group(groups, fraction, 0, "val", rest)
    assert len(second) // 3 in sizes and sorted([*first.tolist(), *second.tolist()]) == [*range(300)]
    assert not {groups[i] for i in first} & {groups[i] for i in second}
    with pytest.raises(ValueError, match="there are 2 groups; splitting off test needs 3"):
        split_by_group(["a", "b", "a"], 0.5, 0, "test", 2)


HEAD = "file_name,label,split,patient"


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            ["1,cat,train,a"],
            {"label": "kind"},
            "no column datamodule.label=kind; it has file_name, label,",
        ),
        (["99,cat,train,a"], {}, r"names 1 files, such as 99; none of them is an image file below"),
        ([], {}, "names 0 files; none of them"),
        (["1,cat,train,a", "images/1.png,dog,train,a"], {}, "gives .*images/1.png the labels cat and dog"),
        (["1,cat,dev,a"], {"split": "split"}, "has the split 'dev'; expected train, val or test"),
        (["1,cat,test,a"], {"split": "split"}, "has no rows for the split train"),
        (["1,cat,train,a", "2,dog,val,b"], {"split": "split"}, "val has the class dog, which train lacks"),
        (
            ["1,cat,train,a", "2,cat,val,a"],
            {"split": "split", "group": "patient"},
            r"groups in several splits: 1 \(first a\)",
        ),
        (["1,cat,train,a", "2,cat,val,"], {"group": "patient"}, "rows without a datamodule.group=patient: 1"),
    ],
)
def test_bad_tables_are_one_line(rows, options, message, folder):
    table(folder, *rows, head=HEAD)
    with pytest.raises((ValueError, OSError), match=message) as caught:
        module(folder, **options)
    assert "\n" not in str(caught.value)


def test_a_name_that_fits_two_files_a_missing_table_and_one_that_is_none(folder):
    Image.new("RGB", (8, 8)).save(folder / "more" / "1.png")
    table(folder, "1,cat")
    with pytest.raises(ValueError, match="the name 1 in the table matches .*/images/1.png and .*/more/1.png"):
        module(folder)
    with pytest.raises(
        FileNotFoundError, match=r"datamodule.table=label.csv is not a file; did you mean .*labels.csv\?"
    ):
        module(folder, "label.csv")
    (folder / "bad.csv").write_bytes(b"")
    with pytest.raises(ValueError, match="bad.csv cannot be read as a table: "):
        read_table(folder / "bad.csv", {})


def test_parquet_keeps_numbers_and_a_missing_value_is_empty(tmp_path):
    pytest.importorskip("pyarrow")
    rows = pd.DataFrame({"file_name": ["a", "b", "c"], "label": pd.array([7, None, 10], dtype="Int64")})
    rows.to_parquet(tmp_path / "labels.parquet")
    found = read_table(tmp_path / "labels.parquet", {"file": "file_name", "label": "label", "split": None})
    assert found.to_dict("list") == {"file": ["a", "b", "c"], "label": ["7", "", "10"]}


def test_a_checkpoint_rebuilds_its_data(folder):
    table(folder, *(f"{n},{n % 2}" for n in range(40)))
    config = {"_target_": "datamodules.Table", "data_dir": str(folder), "table": "labels.csv", "image_size": 8}
    from omegaconf import OmegaConf

    found = build_datamodule({"datamodule": config, "class_names": ["1", "0"]}, OmegaConf.create({}))
    assert found.class_names == ("1", "0")
    assert trained_on({"datamodule": config}) is None
