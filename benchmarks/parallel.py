"""Jobs one after another ÷ side by side: a whole sweep with Hydra's basic launcher and with hydra/launcher=parallel.

One after another each job has all cores; side by side each has its share. Start-up is included on both sides.

python -m benchmarks.parallel                     LeNets on the digits and on Fashion-MNIST, two at a time
"""

import argparse
import tempfile
from functools import partial

from benchmarks import common

CONFIGS = {
    "12 LeNets, digits": ["seed=range(12)"],
    "8 LeNets, Fashion-MNIST": ["datamodule=fashion_mnist", "seed=range(8)", "trainer.max_epochs=3"],
}


def sweep(*overrides: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        common.train("-m", *overrides, f"hydra.sweep.dir={folder}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="pairs of sweeps")
    parser.add_argument("--jobs", type=int, default=2, help="at a time")
    common.add_output(parser)
    args = parser.parse_args()
    launcher = ["hydra/launcher=parallel", f"hydra.launcher.n_jobs={args.jobs}"]
    rows = []
    for name, overrides in CONFIGS.items():
        sides = {"one after another": partial(sweep, *overrides), "side by side": partial(sweep, *launcher, *overrides)}
        seconds = common.take_turns(sides, args.runs, warmup=0)
        rows.append(common.ratio(name, *(part for side in seconds.items() for part in side)))
    common.table(f"Seconds a sweep, {args.jobs} jobs at a time", rows, args)


if __name__ == "__main__":
    main()
