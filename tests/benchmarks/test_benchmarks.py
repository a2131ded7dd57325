"""Benchmarks run, and compare like with like. Their figures are not tested."""

import json
import runpy
import sys
from argparse import Namespace
from pathlib import Path

import hydra
import pytest
import torch

from benchmarks import common, data, predict

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = [path.stem for path in sorted((ROOT / "benchmarks").glob("*.py")) if path.stem not in ("__init__", "common")]


@pytest.fixture
def benchmark(forks):
    return lambda name, *args: forks(f"benchmarks/{name}.py", *args, cwd=ROOT, timeout=300)


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_says_how_it_is_used(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    assert end.value.code == 0
    assert f"python -m benchmarks.{name}" in capsys.readouterr().out


@pytest.mark.slow
def test_the_trainer_and_the_bare_loop_learn_the_very_same_weights(benchmark, tmp_path):
    config = ["datamodule=synthetic", "datamodule.num_images=600", "datamodule.batch_size=32", "trainer=cpu"]
    args = [word for override in config for word in ("--config", override)]
    done = benchmark("trainer_overhead", *args, "--epochs", "2", "--json", str(tmp_path / "found.json"))
    assert done.code == 0, done.err
    (table,) = json.loads((tmp_path / "found.json").read_text())["tables"]
    (row,) = table["rows"]
    assert row["same weights"]
    assert row["runs"] == 2
    assert row["trainer"] > 0 and row["bare"] > 0
    assert f"| {row['trainer ÷ bare']:.3f} |" in done.out


@pytest.mark.slow
def test_a_run_that_is_watched_learns_what_one_does_that_is_not(benchmark, tmp_path):
    config = ["datamodule=synthetic", "datamodule.num_images=200", "datamodule.batch_size=32", "trainer=cpu"]
    args = [word for override in config for word in ("--config", override)]
    done = benchmark("monitoring", *args, "--epochs", "1", "--runs", "2", "--json", str(tmp_path / "found.json"))
    assert done.code == 0, done.err
    ratios, drawings = json.loads((tmp_path / "found.json").read_text())["tables"]
    (row,) = ratios["rows"]
    assert row["same weights"] and row["runs"] == 2
    assert row["watched"] > 0 and row["bare"] > 0
    assert drawings["rows"][0]["median, s"] > 0


@pytest.mark.slow
def test_exports_are_compared_in_each_format(benchmark, tmp_path):
    done = benchmark("export", "--only", "LeNet, 32 px", "--epochs", "1", "--json", str(tmp_path / "found.json"))
    assert done.code == 0, done.err
    (table,) = json.loads((tmp_path / "found.json").read_text())["tables"]
    (row,) = table["rows"]
    assert all(float(row[form]) <= 1e-4 for form in ("onnx", "torch_export"))


def test_without_a_gpu_there_is_nothing_to_measure_on_one(benchmark):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = benchmark("accelerator")
    assert done.code == 0, done.err
    assert done.out.startswith("no CUDA GPU here")


def test_both_loaders_of_a_folder_are_timed_over_the_same_files():
    (row,) = data.in_files(runs=2, count=160, workers=0)
    assert row["what"].startswith("160 JPEGs")
    assert row["usual"] > 0 and row["ours"] > 0


def test_each_transform_is_timed_beside_torchvisions():
    rows = data.augmentation(runs=2, batches=1)
    assert len(rows) == 12 and all(row["one by one"] > 0 and row["ours, µs an image"] > 0 for row in rows)


@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities")
def test_prediction_and_the_plain_loop_say_the_same(tmp_path):
    (tmp_path / "images").mkdir()
    options = Namespace(workers=None, images=300, runs=2)
    with hydra.initialize_config_dir(str(common.CONF), version_base="1.3"):
        images = predict.write_images(tmp_path / "images", "jpg", 300)
        rows = predict.compare("LeNet", ["model=lenet"], tmp_path / "images", images, options)  # it compares labels
    assert [row["what"].removeprefix("LeNet, against ") for row in rows] == ["torchvision", "PIL", "our decoding"]
    assert all(row["ours"] > 0 and row["plain"] > 0 for row in rows)


def test_sides_take_turns_and_warm_up_is_not_counted():
    turns = []
    seconds = common.take_turns({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, runs=2, warmup=1)
    assert turns == list("ababab")
    assert [len(values) for values in seconds.values()] == [2, 2]


def test_a_ratio_is_the_median_of_neighbours_ratios():
    row = common.ratio("x", "slow", [4.0, 6.0, 30.0], "quick", [2.0, 2.0, 3.0])
    assert row["slow ÷ quick"] == 3.0  # of 2, 3 and 10
    assert row["slow"] == 6.0 and row["quick"] == 2.0
