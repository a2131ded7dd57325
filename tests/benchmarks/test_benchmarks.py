"""Benchmarks run, and compare like with like. Their figures are not tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = [path.stem for path in sorted((ROOT / "benchmarks").glob("*.py")) if path.stem not in ("__init__", "common")]


def benchmark(name, *args):
    command = [sys.executable, "-m", f"benchmarks.{name}", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_says_how_it_is_used(name):
    done = benchmark(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"python -m benchmarks.{name}" in done.stdout


def test_the_trainer_and_the_bare_loop_learn_the_very_same_weights(tmp_path):
    config = ["datamodule=synthetic", "datamodule.num_images=200", "datamodule.batch_size=32", "trainer=cpu"]
    args = [word for override in config for word in ("--config", override)]
    done = benchmark("trainer_overhead", *args, "--epochs", "2", "--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert row["same weights"]
    assert row["runs"] == 2
    assert row["trainer"] > 0 and row["bare"] > 0
    assert f"| {row['trainer ÷ bare']:.3f} |" in done.stdout
