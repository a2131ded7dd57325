"""The cost of monitoring: epochs with everything that is logged and drawn by default ÷ epochs without.

Both sides train the same network through the same Trainer, from the same seed, on the same batches, and write the same
checkpoints. One side has the default logger and callbacks; the other has no logger, and only the callbacks that write
checkpoints. They take turns, with alternating order; the first epoch of each run is not counted. A second table has
the cost of what is drawn once a run, before the first step and after the end.

python -m benchmarks.monitoring                     LeNet and ResNet-18 on Fashion-MNIST
python -m benchmarks.monitoring --config datamodule=synthetic --config model=resnet_cifar --runs 5
"""

import argparse
import tempfile
import time

import hydra
import torch
from hydra.utils import instantiate
from lightning import Callback, seed_everything
from omegaconf import OmegaConf

from benchmarks import common
from benchmarks.trainer_overhead import part_of_an_epoch
from callbacks import plots
from callbacks.loggers import log_start
from callbacks.run_metrics import RunMetrics
from launch.main import quiet_lightning
from lit_modules import numerics

KEPT = ("checkpoint", "last")  # the callbacks of both sides
DRAWING = {  # what is drawn once a run, and in which hooks
    plots.NetworkPictures: ("on_train_batch_start", "on_test_end"),
    plots.CurvesPlot: ("on_train_end",),
    plots.ConfusionMatrixPlot: ("on_test_epoch_end",),
    plots.MistakesPlot: ("on_test_epoch_end",),
    plots.PrecisionRecall: ("on_test_epoch_end",),
}


class Epochs(Callback):
    """Seconds of all epochs but the first, validations and checkpoints included."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            common.synchronize()
            self.began = time.perf_counter()

    def on_train_end(self, trainer, pl_module):
        common.synchronize()
        self.seconds = time.perf_counter() - self.began


def run(overrides: list[str], epochs: int, watched: bool) -> tuple[float, float, list[torch.Tensor]]:
    """Seconds of the counted epochs, seconds of drawing, and the trained weights."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = common.composed(*overrides, f"trainer.max_epochs={epochs + 1}", f"run_dir={folder}")
        if not watched:
            cfg.logger, cfg.callbacks = {}, {name: cfg.callbacks[name] for name in KEPT}
        quiet_lightning()
        seed_everything(cfg.seed, verbose=False)
        data = instantiate(cfg.datamodule)
        backbone = instantiate(cfg.model)
        cfg = numerics.resolve_auto(cfg, backbone)
        classifier = instantiate(
            cfg.lit_module,
            backbone=backbone,
            optimizer=instantiate(cfg.optimizer),
            scheduler=instantiate(cfg.scheduler),
            class_names=data.class_names,
        )
        found, clock, drawing = list(instantiate(cfg.callbacks).values()), Epochs(), []
        for callback in found:
            for name in DRAWING.get(type(callback), ()):
                setattr(callback, name, timed(getattr(callback, name), drawing))
        loggers = list(instantiate(cfg.logger).values())
        timed(log_start, drawing)(loggers, {"model": OmegaConf.to_container(cfg.model)}, overrides)
        first = [clock, RunMetrics(cfg.monitor, cfg.mode)]
        quiet = {} if watched else {"enable_progress_bar": False}
        trainer = instantiate(cfg.trainer, callbacks=[*first, *found], logger=loggers, **quiet)
        trainer.fit(classifier, datamodule=data, weights_only=True)
        if watched:
            trainer.test(classifier, datamodule=data, weights_only=True, verbose=False)
    return clock.seconds, sum(drawing), [p.detach().cpu() for p in classifier.backbone.parameters()]


def timed(function, seconds: list[float]):
    """The same function; the seconds of each call are appended to ``seconds``."""

    def run(*args, **options):
        began = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            seconds.append(time.perf_counter() - began)

    return run


def measure(overrides: list[str], epochs: int, runs: int) -> dict[str, list]:
    """Seconds of each run of both sides, seconds of drawing, and whether the weights are equal; one warm-up turn."""
    found: dict[str, list] = {"watched": [], "bare": [], "drawing": [], "same": []}
    for turn in range(runs + 1):
        sides = {watched: run(overrides, epochs, watched) for watched in ((True, False), (False, True))[turn % 2]}
        (watched, drawing, weights), (bare, _, bare_weights) = sides[True], sides[False]
        if turn > 0:
            same = all(torch.equal(a, b) for a, b in zip(weights, bare_weights, strict=True))
            for name, value in (("watched", watched), ("bare", bare), ("drawing", drawing), ("same", same)):
                found[name].append(value)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", help="an override for train.py; several make one config")
    parser.add_argument("--epochs", type=int, default=2, help="counted epochs of a run")
    parser.add_argument("--runs", type=int, default=7, help="counted runs of each side")
    common.add_output(parser)
    args = parser.parse_args()
    if args.config:
        configs = {" ".join(args.config): args.config}
    else:
        data = "datamodule=fashion_mnist"
        configs = {
            "LeNet, 200 batches of 128": [data, "model=lenet", *part_of_an_epoch(200)],
            "ResNet-18, 40 batches of 128": [data, "model=resnet18", *part_of_an_epoch(40)],
        }
    ratios, drawings = [], []
    for name, overrides in configs.items():
        found = measure([*overrides, "+trainer.num_sanity_val_steps=0"], args.epochs, args.runs)
        ratios.append(common.ratio(name, "watched", found["watched"], "bare", found["bare"]))
        ratios[-1]["same weights"] = all(found["same"])
        drawings.append(common.spread(name, found["drawing"], "s"))
    common.table(f"Seconds of {args.epochs} epochs, with validation", ratios, args)
    common.table("Seconds of drawing, once a run", drawings, args)


if __name__ == "__main__":
    with hydra.initialize_config_dir(str(common.CONF), version_base="1.3"):
        main()
