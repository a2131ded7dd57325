"""How long commands take to answer or to finish one training step, and how much memory a run needs.

python -m benchmarks.start_up
"""

import argparse
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks import common
from results import record

ANSWERS = {
    "--help": ["--help"],
    "--cfg job": ["--cfg", "job"],
    "a misspelt option": ["model=resnet81"],
    "a misspelt key": ["optimizer.lrr=1"],
}
LIBRARIES = """
import resource, torch, torchvision, lightning
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
DATA_MIB = 70_000 * 28 * 28 / 2**20


def run(command: list[str]) -> None:
    subprocess.run(command, cwd=common.CONF.parent, capture_output=True, check=False)


def peak_memory() -> list[dict[str, Any]]:
    """Peak MiB: the libraries, the images themselves, and what a run of LeNet needs beyond them."""
    command = [sys.executable, "-c", LIBRARIES]
    libraries = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024
    with tempfile.TemporaryDirectory() as folder:
        common.train("datamodule=fashion_mnist", "trainer.max_epochs=1", f"hydra.run.dir={folder}")
        whole = record.read(folder)["peak_memory_mb"]
    parts = {"torch, torchvision, lightning": libraries, "Fashion-MNIST": DATA_MIB}
    parts["beyond them"] = whole - sum(parts.values())
    return [{"what": name, "MiB": round(value)} for name, value in parts.items()]


def one_step() -> None:
    """A run of one training step on the digits, with validation and test."""
    with tempfile.TemporaryDirectory() as folder:
        common.train("debug=one_batch", f"hydra.run.dir={folder}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="measured runs of each command")
    common.add_output(parser)
    args = parser.parse_args()
    imports = [sys.executable, "-c", "import torch, torchvision, lightning, torchmetrics"]
    sides = {name: lambda a=a: run([sys.executable, "train.py", *a]) for name, a in ANSWERS.items()}
    sides |= {"import of torch, torchvision, lightning": lambda: run(imports), "a run of one step": one_step}
    found = common.take_turns(sides, args.runs)
    rows = [common.spread(name, values, "s") for name, values in found.items()]
    common.table("Seconds of whole commands", rows, args)
    common.table("Peak memory of LeNet on Fashion-MNIST", peak_memory(), args)


if __name__ == "__main__":
    main()
