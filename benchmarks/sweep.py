"""The cost of a sweep's job beyond training: instantiating, loading the data, testing, plots, the record.

Two sweeps of equal jobs, one with few and one with many, each in one process; the difference is the cost of further
jobs, without start-up. The training time in it is taken from the jobs' records.

python -m benchmarks.sweep                       LeNet on the digits and on Fashion-MNIST
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import common

FEW, MANY = 1, 6
CONFIGS = {
    "LeNet, digits": ["trainer.max_epochs=2"],
    "LeNet, Fashion-MNIST": ["datamodule=fashion_mnist", *common.short_run(100)],
}


def sweep(overrides: list[str], jobs: int) -> tuple[float, float]:
    """Seconds of a whole sweep of ``jobs`` seeds, and of training in it."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        common.train("-m", f"seed=range({jobs})", *overrides, f"hydra.sweep.dir={folder}")
        seconds = time.perf_counter() - began
        records = [json.loads(path.read_text()) for path in Path(folder).glob("*/result.json")]
    assert [r["status"] for r in records] == ["completed"] * jobs
    return seconds, sum(r["train_seconds"] for r in records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="pairs of sweeps")
    common.add_output(parser)
    args = parser.parse_args()
    rows = []
    for name, overrides in CONFIGS.items():
        beyond, training = [], []
        for _ in range(args.runs):
            (few, few_training), (many, many_training) = sweep(overrides, FEW), sweep(overrides, MANY)
            training.append((many_training - few_training) / (MANY - FEW))
            beyond.append((many - few) / (MANY - FEW) - training[-1])
        row = {"what": name, "training, s a job": statistics.median(training)}
        rows.append(
            row | {"beyond it, s a job": statistics.median(beyond), "spread": f"{min(beyond):.2f}–{max(beyond):.2f}"}
        )
    common.table(f"A job of a sweep, from sweeps of {FEW} and {MANY}", rows, args)


if __name__ == "__main__":
    main()
