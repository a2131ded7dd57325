"""Dogs vs. Cats from the photographs to an answer, with the experiment's own network and recipe."""

import pytest

from evaluate import evaluate
from inference import checkpoints
from predict import predict
from results import record as records
from results.errors import ConfigError, is_user_error
from train import train


def test_a_wrong_order_or_a_shifted_label_would_show(contest):
    """Of 35 answers that are right but in a wrong place, at most 26 are right where they are."""
    ids = sorted(contest.labels)
    right = [contest.labels[i] for i in ids]
    by_name = [contest.labels[i] for i in sorted(ids, key=str)]
    for wrong in (by_name, right[1:] + right[:1], right[-1:] + right[:-1], [1 - label for label in right], 35 * [1]):
        assert sum(a == b for a, b in zip(right, wrong, strict=True)) <= 26


def test_the_experiment_learns_cats_and_dogs(contest_run):
    record = records.read(contest_run)
    assert record["status"] == "completed"
    assert record["params"] == 1_335_506  # 34 layers; with all channels 21,285,698
    assert record["steps"] == 7 * (132 // 16)
    assert record["metrics"]["test/top1"] > 0.9
    assert min(record["metrics"][f"test/accuracy/{animal}"] for animal in ("cat", "dog")) > 0.8


def test_the_submission_names_every_image_in_natural_order_with_its_label(contest, contest_run, composed, tmp_path):
    assert checkpoints.load(contest_run).class_names == ["cat", "dog"]
    where = (f"ckpt={contest_run}", f"images={contest.folder / 'test1'}", f"output={tmp_path / 'submission.csv'}")
    predict(composed(*where, "trainer=cpu", config_name="predict"))
    header, *rows = (tmp_path / "submission.csv").read_text().splitlines()
    assert header == "id,label"
    said = [tuple(map(int, row.split(","))) for row in rows]
    assert [number for number, _ in said] == list(range(1, 36))
    assert sum(label == contest.labels[number] for number, label in said) >= 32


def test_a_checkpoint_finds_its_cats_and_dogs_again(contest_run, composed):
    cfg = composed(f"ckpt={contest_run}", "trainer=cpu", config_name="evaluate")
    assert evaluate(cfg) == pytest.approx(records.read(contest_run)["metrics"]["test/top1"])


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nowhere", "datamodule.data_dir={} is not a folder"),
        ("empty", "{} has no cats and dogs; expected {}/cat/1.jpg, cat.1.jpg or cat_1.jpg, and dogs likewise"),
    ],
)
def test_a_wrong_folder_is_one_line(folder, message, composed, tmp_path):
    (tmp_path / "empty").mkdir()
    cfg = composed("experiment=cats_vs_dogs_resnet34", f"datamodule.data_dir={tmp_path / folder}", "trainer=cpu")
    with pytest.raises(ConfigError) as caught:
        train(cfg)
    assert is_user_error(caught.value)
    assert records.read(tmp_path)["error"] == "datamodule: " + message.replace("{}", str(tmp_path / folder))
