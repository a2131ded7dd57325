"""Shared by the benchmarks: composing configs, waiting for the device, medians, tables."""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig

from results.record import git_commit, versions

TABLES: list[dict[str, Any]] = []  # what a script has printed so far
CONF = Path(__file__).parent.parent / "conf"


def composed(*overrides: str) -> DictConfig:
    return hydra.compose("train", list(overrides))


def train(*overrides: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """``python train.py`` with overrides, in a separate process."""
    command = [sys.executable, str(CONF.parent / "train.py"), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode != 0:
        raise RuntimeError(f"train.py {' '.join(overrides)} ended with {done.returncode}: {done.stderr or done.stdout}")
    return done


def short_run(batches: int) -> list[str]:
    """Overrides for a run of ``batches`` training batches, one validation batch and one test batch."""
    limits = {"train": batches, "val": 1, "test": 1}
    return ["trainer.max_epochs=1", *(f"+trainer.limit_{split}_batches={n}" for split, n in limits.items())]


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line for line in lines if line.startswith("model name")]
    name = names[0].partition(": ")[2] if names else platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} threads"


def take_turns(
    sides: dict[str, Callable[[], Any]], runs: int, warmup: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each side's runs; the sides take turns, so that a busy machine slows all alike.

    Args:
        clock: ``time.process_time`` counts processor seconds of this process only.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-warmup, runs):
        for name, run in sides.items():
            synchronize()
            began = clock()
            run()
            synchronize()
            if turn >= 0:
                seconds[name].append(clock() - began)
    return seconds


def ratio(name: str, a: str, a_seconds: list[float], b: str, b_seconds: list[float]) -> dict[str, Any]:
    """Medians of A, of B and of the ratios of consecutive runs, with the middle half of those ratios."""
    ratios = [x / y for x, y in zip(a_seconds, b_seconds, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else 3 * ratios
    return {
        "what": name,
        a: statistics.median(a_seconds),
        b: statistics.median(b_seconds),
        f"{a} ÷ {b}": median,
        "middle half": f"{low:.3f}–{high:.3f}",
        "runs": len(ratios),
    }


def spread(name: str, values: list[float], unit: str) -> dict[str, Any]:
    """Median, minimum and maximum."""
    return {
        "what": name,
        f"median, {unit}": statistics.median(values),
        "spread": f"{min(values):.2f}–{max(values):.2f}",
    }


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def table(title: str, rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Print rows as a Markdown table with command, device and versions; write them as JSON if asked."""

    def cell(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    facts = {"device": device(), "versions": versions(), "git_commit": git_commit()}
    command = " ".join(["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    print(f"{title}\n\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(map(cell, row.values()))} |")
    used = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    print(f"\n`{command}` on {facts['device']}; {used}\n", flush=True)
    TABLES.append({"title": title, "rows": rows})
    if args.json:
        args.json.write_text(json.dumps({"command": command, "tables": TABLES} | facts, indent=2) + "\n")
