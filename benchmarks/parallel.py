"""Jobs one after another ÷ side by side: a whole sweep with Hydra's basic launcher and with hydra/launcher=parallel.

Side by side, each job has a share of the cores. One after another, it has all cores, or the same share.
Start-up is included everywhere.

python -m benchmarks.parallel                     four LeNets on Fashion-MNIST, two at a time
python -m benchmarks.parallel --config seed=range(12)                   on the digits, mostly start-up
"""

import argparse
import os
import tempfile
from functools import partial

from benchmarks import common


def sweep(*overrides: str, threads: int | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        env = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
        common.train("-m", *overrides, f"hydra.sweep.dir={folder}", env=os.environ | env)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="sweeps of each side")
    parser.add_argument("--jobs", type=int, default=2, help="jobs at a time")
    parser.add_argument("--config", action="append", help="an override for train.py; several make one sweep")
    common.add_output(parser)
    args = parser.parse_args()
    config = args.config or ["datamodule=fashion_mnist", "seed=range(4)", "trainer.max_epochs=2"]
    share = max(1, len(os.sched_getaffinity(0)) // args.jobs)
    parallel = ["hydra/launcher=parallel", f"hydra.launcher.n_jobs={args.jobs}"]
    sides = {
        "all cores": partial(sweep, *config),
        f"threads: {share}": partial(sweep, *config, threads=share),
        "side by side": partial(sweep, *config, *parallel),
    }
    seconds = common.take_turns(sides, args.runs, warmup=0)
    together = seconds.pop("side by side")
    rows = [common.ratio(name, "one after another", alone, "side by side", together) for name, alone in seconds.items()]
    common.table(f"Seconds a sweep, {args.jobs} jobs at a time: {' '.join(config)}", rows, args)


if __name__ == "__main__":
    main()
