"""The overhead of the Trainer: an epoch with the parts of train.py ÷ the same epoch in a bare loop.

Both train the same network, from the same seed, on the same batches in the same order, and both validate. One
side has Lightning's Trainer with metrics, logging to TensorBoard, progress and checkpoints, as composed from conf/;
the other has only forward, backward, optimizer and schedule. They take turns every 25 batches, so that
a busy machine slows both alike.

python -m benchmarks.trainer_overhead                     LeNet and ResNet-18 on Fashion-MNIST
python -m benchmarks.trainer_overhead --config model=resnet_cifar --config trainer=fast
"""

import argparse
import gc
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context

import hydra
import torch
from hydra.utils import instantiate
from lightning import Callback, seed_everything
from torch.nn import functional as F

from benchmarks import common
from callbacks.run_metrics import RunMetrics
from launch.main import quiet_lightning
from lit_modules import numerics

TURN = 25  # batches


class BareLoop(Callback):
    """Run a bare loop with a copy of everything in turns with the Trainer's epochs, and time both."""

    def __init__(self, cfg):
        self.cfg, self.seconds = cfg, {"trainer": [], "bare": []}
        self.epoch = None

    def on_fit_start(self, trainer, pl_module):
        seed_everything(self.cfg.seed, verbose=False)
        self.data = instantiate(self.cfg.datamodule)
        self.data.trainer = trainer  # gives the device, and whether a batch is for training
        self.data.setup("fit")
        self.train_loader, self.val_loader = self.data.train_dataloader(), self.data.val_dataloader()
        self.precision = trainer.precision_plugin
        self.format = pl_module.memory_format
        seed_everything(self.cfg.seed, verbose=False)
        self.net = instantiate(self.cfg.model).to(pl_module.device, memory_format=self.format)
        if mode := pl_module.compile_mode:
            self.net.compile(mode=mode if isinstance(mode, str) else None)
        groups = [
            {"params": [p for p in self.net.parameters() if p.ndim > 1]},
            {"params": [p for p in self.net.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = instantiate(self.cfg.optimizer)(groups)
        schedule = instantiate(self.cfg.scheduler)
        self.schedule = schedule(self.optimizer, total_steps=trainer.estimated_stepping_batches)

    def on_train_epoch_start(self, trainer, pl_module):
        if self.epoch:
            self.end_epoch(trainer)
        self.train_loader.sampler.set_epoch(trainer.current_epoch)
        self.epoch, self.began, self.bare_seconds = self.batches(trainer), time.perf_counter(), 0.0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (batch_idx + 1) % TURN == 0:
            self.take_turn(trainer)

    def on_train_end(self, trainer, pl_module):
        self.end_epoch(trainer)

    def end_epoch(self, trainer):
        """Finish the bare epoch, validation included, after the Trainer's epoch, checkpoints included."""
        while self.take_turn(trainer):
            pass
        self.seconds["trainer"].append(time.perf_counter() - self.began - self.bare_seconds)
        self.seconds["bare"].append(self.bare_seconds)

    def take_turn(self, trainer) -> bool:
        """Run ``TURN`` batches of the bare loop. Returns whether there are more."""
        common.synchronize()
        stage, began = trainer.state.stage, time.perf_counter()
        more = next(self.epoch, None) is not None
        common.synchronize()
        self.bare_seconds += time.perf_counter() - began
        trainer.state.stage = stage
        return more

    def batches(self, trainer):
        """An epoch of the bare loop; it yields whenever the Trainer takes a turn."""
        device = next(self.net.parameters()).device
        trainer.training = True
        self.net.train()
        for number, batch in enumerate(islice(self.train_loader, trainer.num_training_batches), 1):
            images, labels = self.batch(batch, device)
            with self.precision.forward_context():
                loss = F.cross_entropy(self.net(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            if number % TURN == 0:
                yield number
                trainer.training = True
        self.net.eval()
        trainer.validating = True
        correct = torch.zeros((), dtype=torch.long, device=device)
        with torch.inference_mode():
            for batch in islice(self.val_loader, int(trainer.num_val_batches[0])):
                images, labels = self.batch(batch, device)
                with self.precision.forward_context():
                    logits = self.net(images)
                correct += (logits.argmax(1) == labels).sum()
        self.correct = correct.item()

    def batch(self, batch, device):
        images, labels = (part.to(device, non_blocking=True) for part in (batch.images, batch.labels))
        images, labels = self.data.on_after_batch_transfer(batch._replace(images=images, labels=labels), 0)
        return images.contiguous(memory_format=self.format), labels


def measure(overrides: list[str], epochs: int) -> dict:
    """Seconds of each epoch of both but the first, and whether the trained weights are equal."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = common.composed(*overrides, f"trainer.max_epochs={epochs + 1}", f"run_dir={folder}")
        quiet_lightning()
        data, bare = instantiate(cfg.datamodule), BareLoop(cfg)
        seed_everything(cfg.seed, verbose=False)
        backbone = instantiate(cfg.model)
        cfg = numerics.resolve_auto(cfg, backbone)
        classifier = instantiate(
            cfg.lit_module,
            backbone=backbone,
            optimizer=instantiate(cfg.optimizer),
            scheduler=instantiate(cfg.scheduler),
        )
        callbacks = [RunMetrics(cfg.monitor, cfg.mode), *filter(None, instantiate(cfg.callbacks).values()), bare]
        trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=list(instantiate(cfg.logger).values()))
        trainer.fit(classifier, datamodule=data, weights_only=True)
        same = all(
            torch.equal(a.cpu(), b.cpu())  # Lightning has moved the backbone back to the CPU
            for a, b in zip(classifier.backbone.parameters(), bare.net.parameters(), strict=True)
        )
    return {name: seconds[1:] for name, seconds in bare.seconds.items()} | {"same weights": same}


def part_of_an_epoch(batches: int) -> list[str]:
    """Short epochs, so that the two sides take turns quickly: a busy machine then slows both alike."""
    return [f"+trainer.limit_train_batches={batches}", f"+trainer.limit_val_batches={max(1, batches // 10)}"]


def measure_alone(overrides: list[str], epochs: int) -> dict:
    """``measure`` in a fresh process, with memory set up as in a run of train.py."""
    gc.freeze()  # as launch.main.imports_without_gc does, so that the collector does not rescan torch's modules
    try:
        with hydra.initialize_config_dir(str(common.CONF), version_base="1.3"):
            return measure(overrides, epochs)
    finally:
        gc.unfreeze()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", help="an override for train.py; several make one config")
    parser.add_argument("--epochs", type=int, default=15, help="measured epochs of each side")
    common.add_output(parser)
    args = parser.parse_args()
    if args.config:
        configs = {" ".join(args.config): (args.config, args.epochs)}
    else:
        lenet = ["datamodule=fashion_mnist", "model=lenet"]
        resnet, few = ["datamodule=fashion_mnist", "model=resnet18"], max(2, args.epochs // 4)  # each takes a minute
        configs = {
            "LeNet, batches of 128": (lenet, args.epochs),
            "LeNet, batches of 512": ([*lenet, "datamodule.batch_size=512"], args.epochs),
            "LeNet, batches of 128, trainer=fast": ([*lenet, "trainer=fast"], args.epochs),
            "ResNet-18, batches of 128": (resnet, few),
        }
    rows = []
    for name, (overrides, epochs) in configs.items():
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            found = process.submit(measure_alone, overrides, epochs).result()
        rows.append(common.ratio(name, "trainer", found["trainer"], "bare", found["bare"]))
        rows[-1]["same weights"] = found["same weights"]
    common.table("Seconds an epoch, with validation", rows, args)


if __name__ == "__main__":
    main()
