"""How often a report's comparisons are right and wrong, on simulated sweeps, and how long a report takes.

python -m benchmarks.report                        2,000 simulated sweeps a row; a report of 2,000 records

Other work on the machine disturbs processor seconds less than elapsed seconds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from benchmarks import common
from results import report, statistics

# (configurations, seeds, true lead of the first)
CASES = [(2, 8, 0.0), (10, 8, 0.0), (40, 8, 0.0), (10, 4, 0.0), (2, 8, 1.0), (2, 4, 1.0)]
BARS = {(2, 8, 0.0): "≤ 7", (10, 8, 0.0): "≤ 10", (2, 8, 1.0): "≥ 60"}


def simulate(configurations: int, seeds: int, lead: float, rng: np.random.Generator) -> tuple[bool, bool]:
    """Whether any configuration is distinguished from the best: (as reports do it, by Holm's procedure).

    Args:
        lead: of the first configuration, in standard deviations of the paired differences between two.
    """
    noise = rng.standard_normal((seeds, configurations)) / np.sqrt(2)  # differences have a deviation of 1
    noise[:, 0] += lead
    scores = pd.DataFrame(noise + rng.standard_normal((seeds, 1)))  # the effect of a seed on all
    p = statistics.compare(scores, scores.mean().idxmax())["p"].min()
    pairs = configurations * (configurations - 1) / 2
    by_holm = p < 1 and p / pairs * (configurations - 1) <= statistics.ALPHA  # the correction ends at 1
    return p <= statistics.ALPHA, by_holm


def write_records(folder: Path, configurations: int, seeds: int) -> None:
    """A grid of two keys and the seed, each record as long as a run's of ten classes and ten epochs."""
    rng = np.random.default_rng(0)
    facts = {"params": 103162, "flops_per_image": 25318912, "train_seconds": 41.6, "images_per_second": 985.2}
    facts |= {"device": "cpu, 2 threads", "versions": {"torch": "2.15.0"}, "findings": [], "status": "completed"}
    for number in range(configurations):
        for seed in range(seeds):
            lr, decay = f"optimizer.lr={10 ** (number // 25 - 5)}", f"optimizer.weight_decay={number % 25 / 1e4}"
            top1 = 0.8 + number / 1e4 + rng.normal(0, 0.005)
            metrics = {"val/top1": top1, "test/top1": top1, "val/loss": 1 - top1, "train/loss": 0.5, "train/top1": top1}
            metrics |= {f"test/accuracy/class {label}": top1 for label in range(10)}
            history = {name: [[epoch, top1] for epoch in range(1, 11)] for name in ("val/top1", "val/loss")}
            record = {"overrides": [lr, decay, f"seed={seed}"], "seed": seed, "metrics": metrics, "history": history}
            job = folder / f"{number}_{seed}"
            job.mkdir(parents=True)
            (job / "result.json").write_text(json.dumps(record | facts, indent=2))


def seconds(folder: Path, *options: str) -> tuple[float, float]:
    """(elapsed seconds, processor seconds) of ``python report.py folder``."""
    began, used = time.perf_counter(), os.times()
    script = Path(report.__file__).parents[1] / "report.py"
    subprocess.run([sys.executable, script, folder, *options], check=True, capture_output=True)
    after = os.times()
    processor = after.children_user + after.children_system - used.children_user - used.children_system
    return time.perf_counter() - began, processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=2_000, help="simulated sweeps of each case (%(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="measured reports (%(default)s)")
    common.add_output(parser)
    args = parser.parse_args()
    rng, rows = np.random.default_rng(0), []
    for case in CASES:
        found = 100 * np.mean([simulate(*case, rng) for _ in range(args.sweeps)], axis=0)
        what = f"{case[0]} configurations, {case[1]} shared seeds, {'a lead of one deviation' if case[2] else 'equal'}"
        row = {"what": what, "bar, %": BARS.get(case, "–"), "distinguished, %": found[0]}
        rows.append(row | {"by Holm's procedure, %": found[1]})
    common.table(f"Sweeps in which any configuration is distinguished from the best, of {args.sweeps}", rows, args)
    with tempfile.TemporaryDirectory() as scratch:
        write_records(Path(scratch), configurations=250, seeds=8)
        rows = []
        for name, options in {"with plots": [], "--no-plots": ["--no-plots"]}.items():
            passed, processor = zip(*(seconds(Path(scratch), *options) for _ in range(args.runs)), strict=True)
            row = {"what": name, "bar, s": "≤ 3", "median, s": median(passed)}
            rows.append(row | {"spread": f"{min(passed):.2f}–{max(passed):.2f}", "processor, s": median(processor)})
    common.table("`python report.py` of 2,000 records, 250 configurations", rows, args)


if __name__ == "__main__":
    main()
