"""Paths with any characters, quoted as a shell needs it, mean the same file wherever a script takes one."""

import json

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from PIL import Image

from launch.validation import quote, readable
from results import record as records
from tests.conftest import PLAIN

ODD = "my photos, (x) [1]=ä'q"
TRAIN = [
    *"datamodule=image_folder datamodule.image_size=32 datamodule.batch_size=8 datamodule.num_workers=0".split(),
    *"model=lenet trainer=cpu trainer.max_epochs=1".split(),
    *PLAIN,
]


def value(override):
    found = OverridesParser.create().parse_override(override).value()
    return found.text if isinstance(found, QuotedString) else found


@pytest.mark.parametrize(
    "text",
    [ODD, "it's", "a\\", "a\\'b", "\\\\'", 'x"y', "中文", "a=b", "a#b", "a;b", "[1] x", "x (1)", "a,", "{b}"],
)
def test_any_text_is_one_value(text):
    assert value(f"key={quote(text)}") == text
    assert value(readable(f"ckpt={text}", multirun=False)) == text


@pytest.mark.parametrize(
    ("override", "multirun", "expected"),
    [
        ("data_dir=x,y", False, "data_dir='x,y'"),  # a folder that exists
        ("data_dir=x,y", True, "data_dir=x,y"),
        ("data_dir=y,x", False, "data_dir=y,x"),
        ("images=[1]", False, "images='[1]'"),
        ("images=[2]", False, "images=[2]"),
        ("ckpt=2024", True, "ckpt='2024'"),
        ("seed=2024", False, "seed=2024"),
        ("ckpt=é,b", True, "ckpt='é',b"),
        ("ckpt=é (1),b", True, "ckpt=é (1),b"),  # Hydra refuses it: not every comma need be between two values
        ("hydra.sweep.dir=a,b", True, "hydra.sweep.dir='a,b'"),
        ("hydra.searchpath=[file://a]", False, "hydra.searchpath=[file://a]"),
        ("optimizer.lr=interval(0,1)", True, "optimizer.lr=interval(0,1)"),
        ("data_dir=${name}", False, "data_dir=${name}"),
        ("~optimizer.fused", False, "~optimizer.fused"),
        ("resnet50", False, "resnet50"),
    ],
)
def test_only_what_hydra_would_misread_is_put_in_quotes(override, multirun, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x,y", "[1]", "2024"):
        (tmp_path / name).mkdir()
    assert readable(override, multirun) == expected


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / ODD / label).mkdir(parents=True)
        for number in range(20):
            Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8)).save(tmp_path / ODD / label / f"{number}.png")
    return tmp_path


def test_every_script_takes_such_paths(photos, forks):
    def run(*args):
        done = forks(*args, cwd=photos)
        assert done.code == 0, done.err
        return done

    run("train.py", *TRAIN, f"datamodule.data_dir={ODD}", f"hydra.run.dir=run {ODD}")
    scored = run("evaluate.py", f"ckpt=run {ODD}", f"hydra.run.dir=scores {ODD}", "trainer=cpu")
    assert f"folder       {photos / ODD}" in scored.out
    scores = json.loads((photos / f"scores {ODD}" / "metrics.json").read_text())
    assert scores["metrics"]["test/top1"] == records.read(photos / f"run {ODD}")["metrics"]["test/top1"]
    assert scores["folder"] == str(photos / ODD)
    moved = (photos / ODD).rename(photos / f"moved {ODD}")
    scored = run("evaluate.py", f"ckpt=run {ODD}", f"datamodule.data_dir={moved.name}", "trainer=cpu")
    assert f"folder       {moved}" in scored.out
    moved.rename(photos / ODD)
    given = [f"ckpt=run {ODD}/checkpoints/best.ckpt", f"output={ODD}.csv", f"grid={ODD}.png", "trainer=cpu"]
    run("predict.py", *given, f"images={ODD}/a")
    assert len((photos / f"{ODD}.csv").read_text().splitlines()) == 21 and (photos / f"{ODD}.png").exists()
    run("predict.py", *given, f"images={ODD}/a/1*.png")
    assert len((photos / f"{ODD}.csv").read_text().splitlines()) == 12
    again = [f"ckpt_path=run {ODD}/checkpoints/last.ckpt", "trainer.max_epochs=2", f"hydra.run.dir=again {ODD}"]
    run("train.py", *TRAIN, f"datamodule.data_dir={ODD}", *again)
    assert "is completed" in run("train.py", f"resume=again {ODD}").out
    run("train.py", "-m", *TRAIN, f"datamodule.data_dir={ODD}", "seed=0,1", f"hydra.sweep.dir=sweep {ODD}")
    assert {records.read(photos / f"sweep {ODD}" / f"seed-{seed}")["status"] for seed in (0, 1)} == {"completed"}
    assert "is completed" in run("train.py", f"resume=sweep {ODD}").out
    run("report.py", f"sweep {ODD}")


def test_relative_paths_start_where_they_were_typed_even_with_chdir(photos, forks):
    for args, folder in (
        (["hydra.run.dir=run"], "run"),
        (["-m", "seed=0,1", "hydra.sweep.dir=sweep"], "sweep/seed-1"),
    ):
        done = forks("train.py", *TRAIN, *args, f"datamodule.data_dir={ODD}", "hydra.job.chdir=true", cwd=photos)
        assert done.code == 0, done.err
        assert f"hydra.job.chdir=true: relative paths still start from {photos}" in done.out
        assert records.read(photos / folder)["status"] == "completed"
    assert sorted(path.name for path in photos.iterdir()) == [ODD, "run", "sweep"]
    assert (photos / "sweep" / "report.md").exists()


@pytest.mark.parametrize("folder", ["my conf", "conf_ä", ODD])
def test_a_config_folder_may_have_any_name_and_line_ends(folder, tmp_path, lean):
    (tmp_path / folder / "experiment").mkdir(parents=True)
    (tmp_path / folder / "experiment" / "mine.yaml").write_bytes(
        b"# @package _global_\r\noptimizer:\r\n  lr: 0.123\r\n"
    )
    done = lean("train.py", "experiment=mine", "--config-dir", folder, "--cfg", "job", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "  lr: 0.123\n" in done.out
    done = lean("train.py", "experiment=mine", "mode=min", "--config-dir", folder, cwd=tmp_path)
    assert done.code == 2 and "mode=min with monitor=val/top1" in done.err, done.err  # it was composed
