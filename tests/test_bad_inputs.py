"""What a user may get wrong, and the one line that each of it is answered with."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import PLAIN, TINY

SMALL = [*TINY, "hydra.run.dir=new"]
PHOTOS = [
    *"datamodule=image_folder datamodule.image_size=32 datamodule.batch_size=4 datamodule.num_workers=0".split(),
    *"model=lenet trainer=cpu trainer.max_epochs=1 hydra.run.dir=new".split(),
    *PLAIN,
]

# Config: what is typed for train.py → what is said. Torch is not imported for these, and no folder is made.
CONFIG = {
    # habits from other projects
    "epochs=20": "epochs: no such key; did you mean trainer.max_epochs=…?",
    "model=resnet50 model.pretrained=true": "did you mean model.weights=DEFAULT (ResNets have it)?",
    "trainer.gpus=2": "trainer.gpus: no such key; did you mean trainer=gpu trainer.devices=…?",
    "monitor=val/acc": "monitor=val/acc: no such metric; did you mean val/top1?",
    "monitor=val_f1": "monitor=val_f1: no such metric; did you mean val/f1_macro?",
    "ckpt=2023": "ckpt_path=2023: no such file",
    # groups and options
    "model=resent50": "model=resent50: no such option; did you mean resnet50 or resnext50?",
    "model=null": "model=null: no such option; there are: lenet, resnet,",
    "study=foo": "study=foo: no such option; there are: depth, depth_full,",
    "logger=comet": "logger=comet: no such option; there are: csv, mlflow, none, tensorboard, wandb",
    "trainer=dpp": "trainer=dpp: no such option; did you mean ddp?",
    "debug=fast": "debug=fast: no such option; there are: lr_range, one_batch, overfit, profiler",
    "datamodule=table datamodule.data_dir=.": "datamodule.table has no value; give it one: datamodule.table=…",
    "datamodule.folds=1": "datamodule.folds=1: expected 2 or more",
    "datamodule.sampling=balance": "expected one of null, balanced; did you mean balanced?",
    "datamodule=fashionmnist": "datamodule=fashionmnist: no such option; did you mean fashion_mnist",
    "datamodule=torchvision": "datamodule.dataset has no value; give it one: datamodule.dataset=…",
    "experiment=fashion_mnist_lent": "did you mean fashion_mnist_lenet",
    "=1": "=1: expected key=value",
    # keys
    "modle=resnet50": "modle: no such key; did you mean mode or model?",
    "optimizer.learning_rate=1": "optimizer.learning_rate: no such key; did you mean optimizer.lr=…?",
    "trainer.strategy=ddp": "trainer.strategy: no such key",
    "model=resnet model.dept=50": "model.dept: no such key; did you mean model.depth?",
    "optimiser.lr=1": "optimiser.lr: no such key; did you mean optimizer?",
    "lr=0.1": "lr: no such key; did you mean optimizer.lr?",
    "batch_size=8": "batch_size: no such key; did you mean datamodule.batch_size?",
    "datamodule.augmentation.flop.p=1": "datamodule.augmentation.flop.p: no such key",
    "~datamodule.augmentation.fip": "Could not delete from config. 'datamodule.augmentation.fip' does not exist.",
    "callbacks.early_stopping.patience=3": "no such key; it comes with callbacks=early_stopping",
    "callbacks=[ema,early_stoping]": "callbacks=early_stoping: no such option; did you mean early_stopping?",
    "trainer.limit_train_batches=0.5": "(+trainer.limit_train_batches=… would add it)",
    "+trainer.logger=false": "+trainer.logger=false: the script sets trainer.logger; use logger=…",
    "++trainer.logger.version=1": "the script sets trainer.logger; use logger=…",
    "trainer.callbacks=[]": "the script sets trainer.callbacks; use +callbacks.NAME._target_=…",
    "++trainer.enable_checkpointing=false": "trainer.enable_checkpointing; use callbacks.checkpoint=null",
    "-m +trainer.logger=true,false": "the script sets trainer.logger; use logger=…",
    "-m optimizer=sgd,adamw optimizer.momentum=0.5": "optimizer=adamw: Could not override 'optimizer.momentum'",
    "-m model=resnet,lenet model.depth=18": "Could not override 'model.depth'",
    "seed=0 hydra.sweep.dir=there": "this is a single run, whose folder is hydra.run.dir=there",
    "-m seed=0,1 hydra.run.dir=there": "this is a sweep, whose folder is hydra.sweep.dir=there",
    "-m seed=range(0)": "seed=range(0): no values, so no jobs",
    "-m study=depth,norm": "study=depth,norm: each study is a separate sweep; run one at a time",
    "seed=0,1": "seed=0,1: several values need -m; one value with a comma needs quotes: \"seed='0,1'\"",
    "model=resnet_cifar model.depth=50 model.groups=2": "needs bottleneck blocks (block=bottleneck and a depth of 9n+2",
    "optimizer.betas=[0.9,0.99]": "optimizer.betas: no such key",
    "experiment=cats_vs_dogs_resnet34": "datamodule.data_dir has no value; give it one: datamodule.data_dir=…",
    "datamodule=image_folder": "datamodule.data_dir has no value; give it one",
    "monitor=train/top1": "monitor=train/top1: expected a validation metric",
    "monitor=val/topp1": "monitor=val/topp1: no such metric; did you mean val/top1?",
    "mode=min": "mode=min with monitor=val/top1; expected mode=min for a loss, mode=max for a score",
    "-m seed=0,1 monitor=val/loss": "mode=max with monitor=val/loss",
    # kinds
    "optimizer.lr=abc": "optimizer.lr=abc: expected a number, such as 0.05",
    "optimizer.lr=null": "optimizer.lr=null: expected a number, such as 0.05",
    "seed=null": "seed=null: expected a whole number",
    "datamodule.batch_size=1.5": "datamodule.batch_size=1.5: expected a whole number, such as 32",
    "trainer.max_epochs=ten": "trainer.max_epochs=ten: expected a whole number, such as 10",
    "seed=1.5": "seed=1.5: expected a whole number, such as 0",
    "seed=1e3": "seed=1000.0: expected a whole number, such as 0",
    "datamodule.batch_size=64.0": "datamodule.batch_size=64.0: expected a whole number, such as 32",
    "optimizer.lr=auto": "optimizer.lr=auto: expected a number, such as 0.05",
    "datamodule.shuffle=0.5": "datamodule.shuffle=0.5: expected true or false, such as true",
    "datamodule.batch_size=null": "datamodule.batch_size=null: expected a whole number, such as 32",
    "model=resnet18 model.depth=null": "model.depth=null: expected a whole number, such as 18",
    "model=resnet18 model.widths=64": "model.widths=64: expected a list, such as",
    "optimizer.nesterov=3": "optimizer.nesterov=3: expected true or false",
    "datamodule=cifar10 datamodule.augmentation=3": "datamodule.augmentation=3: expected keys, such as",
    # ranges
    "seed=-1": "seed=-1: expected 0 to 4294967295",
    "seed=99999999999": "seed=99999999999: expected 0 to 4294967295",
    "trainer.max_epochs=0": "trainer.max_epochs=0: expected 1 or more, or -1 for no end",
    "trainer.max_epochs=-3": "trainer.max_epochs=-3: expected 1 or more",
    "trainer.accelerator=tpuu": "trainer.accelerator=tpuu: expected one of auto, cpu, gpu, cuda, mps; did you",
    "optimizer.momentum=5": "optimizer.momentum=5: expected 0 or more, below 1",
    "datamodule.batch_size=0": "datamodule.batch_size=0: expected 1 or more",
    "datamodule.num_workers=-1": "datamodule.num_workers=-1: expected 0 or more",
    "datamodule.image_size=0": "datamodule.image_size=0: expected 1 or more",
    "optimizer.lr=-0.1": "optimizer.lr=-0.1: expected 0 or more",
    "optimizer.lr=nan": "optimizer.lr=nan: expected 0 or more",
    "optimizer.weight_decay=-1": "optimizer.weight_decay=-1: expected 0 or more",
    "callbacks.last.minutes=0": "callbacks.last.minutes=0: expected above 0",
    "callbacks=early_stopping callbacks.early_stopping.patience=-1": "patience=-1: expected 0 or more",
    "+trainer.accumulate_grad_batches=0": "trainer.accumulate_grad_batches=0: expected 1 or more",
    "+trainer.val_check_interval=0": "trainer.val_check_interval=0: expected above 0",
    "datamodule.val_fraction=1.5": "datamodule.val_fraction=1.5: expected above 0, below 1",
    "datamodule.val_fraction=0": "datamodule.val_fraction=0: expected above 0",
    "trainer.accumulate_grad_batches={0:1,4:2}": "expected a whole number, such as 1",
    "trainer.precision=fp16": "trainer.precision=fp16: expected one of 32-true, bf16-mixed, 16-mixed",
    "lit_module.compile=reduce_overhead": "did you mean reduce-overhead?",
    "lit_module.memory_format=channel_last": "did you mean channels_last?",
    "mode=maximum": "mode=maximum: expected one of max, min; did you mean max?",
    "impossible=skp": "impossible=skp: expected one of skip, refuse; did you mean skip?",
    # networks that cannot be
    "model=resnet_cifar model.depth=1000000000": "nearest: 999999998 and 1000000001",
    "model=resnet model.depth=19": "depth=19 is not valid for a four-stage ResNet; nearest: 18 and 34",
    "model=resnet18 model.groups=32": "groups=32 needs bottleneck blocks",
    "model=resnet50 model.groups=3": "groups=3 does not divide the width 64; nearest: 2 and 4",
    "model=resnet_cifar model.depth=29 model.groups=64 model.width_per_group=matched": "expected 0.9 to 1.1",
    "model=resnet50 model.width_per_group=-4": "groups=1 of width_per_group=-4 do not give whole channels",
    "model=resnet18 model.widths=[64,a,1,1]": "widths=[64, 'a', 1, 1]; expected whole numbers of channels",
    "model=resnet18 model.widths=[64]": "widths has 1 entries; ResNet has 4 stages (ImageNet) or 3 (CIFAR)",
    "model=resnet18 model.norm=bach": "norm=bach is not one of batch, layer, instance, group; did you mean batch?",
    "model=resnet18 model.stem=imagnet": "stem=imagnet is not one of imagenet, cifar; did you mean imagenet?",
    "datamodule.image_size=12": "image_size=12 is too small for LeNet; the smallest that works is 16",
    "model=resnet18 model.weights=missing.pth": "weights=missing.pth: no such file; expected a file",
    "model=resnet18 model.weights=run": "weights=run is a folder; expected a file such as run/checkpoints/best.ckpt",
    "model=resnet50 model.weights=DEFUALT datamodule=cifar10 datamodule.image_size=64": "did you mean DEFAULT?",
    # where to go on
    "ckpt_path=missing.ckpt": "ckpt_path=missing.ckpt: no such file",
    "ckpt_path=run": "ckpt_path=run is a folder; expected a file such as run/checkpoints/last.ckpt",
    "resume=rum": "resume=rum: no such folder; did you mean run?",
    "++resume=rum": "resume=rum: no such folder; did you mean run?",
    "resume=file": "resume=file is a file; expected the run's folder",
    "resume=run/checkpoints": "resume=run/checkpoints is not the folder of a run or sweep",
    "resume=runs": "resume=runs is not the folder of a run or sweep: it has no .hydra",
    "resume=run optimizer.lr=1": "optimizer.lr=1 would change the run",
    "resume=damaged": "damaged/.hydra is damaged: config.yaml has no seed, monitor, mode,",
    "resume=halved": "halved/.hydra is damaged: ParserError",
    "-m resume=run": "resume=run is not a sweep's folder; leave out -m",
    # sweeps
    "trainer.max_epochs=1 -m seed=a,b": "seed=a: expected a whole number, such as 0",
    "-m seed=a,b": "seed=a: expected a whole number, such as 0",
    "-m model=resnet model.depth=18,abc": "model.depth=abc: expected a whole number, such as 18",
    "-m seed=-1,0": "seed=-1: expected 0 to 4294967295",
    "-m model=lenet,resent": "model=resent: no such option; did you mean resnet",
    "-m model=resnet model.dept=18,34": "model.dept: no such key; did you mean model.depth?",
    "-m optimizer.lr=interval(0,1)": "an interval needs a search; add hydra/sweeper=search",
    "-m seed=0,1 trainer.devices=2": "multi-process jobs can be swept only with a SLURM launcher",
    "-m seed=0,1 hydra/launcher=paralel": "hydra/launcher=paralel: no such option; did you mean parallel?",
    "-m seed=0,1 optimizer.lr=0.3 hydra.sweep.dir=sweep": "belongs to another sweep: job seed-0",
    # the command line itself
    "resnet50": "resnet50: expected key=value",
    "-m name=é(1),b": "name=é(1),b: Hydra cannot read this value; quote each part that is text: \"name='…'\"",
    "hydra.run.dir=run": "hydra.run.dir=run already holds a run; expected another folder",
    "hydra.run.dir=file": "file is a file, or below one; expected a folder",
    "--foo": "--foo: no such flag; --help lists the choices",
    "--config-name foo": "Cannot find primary config 'foo'",
    "--config-dir missing": "missing' not found",
    "seed": "seed: expected key=value",
    "model=[": "model=[: no such option",
    "ckpt_path=a=b,c": "ckpt_path=a=b,c: no such file",
    "ckpt_path=2024": "ckpt_path=2024: no such file",
    "--config-dir byte_order_mark": "byte_order_mark/experiment/mine.yaml begins with a byte order mark",
    "--config-dir latin": "latin/experiment/mine.yaml is not UTF-8; save it as UTF-8",
    "experiment=mine --config-dir tabs": "cannot start any token in",
}
# The same, for the other scripts.
OTHERS = {
    "predict.py ckpt=run images==a.png": "images==a.png: no such file or folder",
    "predict.py ckpt=run images=[a,b]": "images=['a', 'b']: no file matches",
    "evaluate.py": "ckpt has no value; give it one: ckpt=…",
    "evaluate.py ckpt=null": "ckpt=null: expected a value",
    "evaluate.py ckpt=": "ckpt=: expected a value",
    "evaluate.py ckpt=rum": "ckpt=rum: no such file or folder; did you mean run?",
    "evaluate.py ckpt=empty": "ckpt=empty holds no checkpoints/best.ckpt or last.ckpt",
    "evaluate.py ckpt=good": "ckpt=good holds no checkpoints/best.ckpt or last.ckpt, and no completed run",
    "evaluate.py ckpt=run ckpt_path=run": "ckpt and ckpt_path are the same; expected one of them",
    "evaluate.py ckpt_path=rum": "ckpt=rum: no such file or folder; did you mean run?",
    "predict.py ckpt=run images=run data=x": "data: no such key",
    "evaluate.py ckpt=run split=tset": "split=tset: expected one of test, val, train; did you mean test?",
    "evaluate.py ckpt=run tta=filp": "tta=filp: expected one of null, flip; did you mean flip?",
    "evaluate.py ckpt=run trust=models.Tiny": "trust=models.Tiny: expected a list, such as",
    "evaluate.py ckpt=run split=val,train": "split=val,train: several values need -m",
    "evaluate.py ckpt=run hydra.run.dir=run": "hydra.run.dir=run already holds a run",
    "evaluate.py ckpt=run,run": "ckpt=run,run: several values need -m",
    "predict.py -m ckpt=run,run images=good output=a.csv": "output=a.csv: 2 jobs would write it",
    "predict.py ckpt=run": "images has no value; give it one: images=…",
    "predict.py ckpt=run images=null": "images=null: expected a value",
    "predict.py ckpt=run images=god": "images=god: no such file or folder; did you mean good?",
    "predict.py ckpt=run images=empty": "images=empty has no image files",
    "predict.py ckpt=run images=good/*.png": "images=good/*.png: no file matches",
    "predict.py ckpt=run images=good": "would have the same id, 0; use format=full",
    "predict.py ckpt=run images=good/a output=o.txt": "output=o.txt: expected a name that ends in .csv or .json",
    "predict.py ckpt=run images=good/a output=file/o.csv": "output=file/o.csv: no file can be created in",
    "predict.py ckpt=run images=good/a output=folder.csv": "output=folder.csv is a folder; expected a file",
    "predict.py ckpt=run images=good/a format=features output=o.csv": "expected a name that ends in .npz",
    "predict.py ckpt=run images=good/a top_k=0": "top_k=0: expected a whole number, at least 1",
    "predict.py ckpt=run images=good/a num_workers=two": "num_workers=two: expected a whole number, at least 0",
    "predict.py ckpt=run images=good/a batch_size=0": "batch_size=0: expected a whole number, at least 1",
    "predict.py ckpt=run images=good/a grid=o.jpg": "grid=o.jpg: expected a name that ends in .png",
    "predict.py ckpt=run images=good/a labels=nam": "labels=nam: expected one of number, name; did you mean name?",
    "predict.py ckpt=run images=good/a labels=name format=full": "labels=name needs format=submission",
    "predict.py ckpt=run images=good/a broken=ignore": "broken=ignore: expected one of skip, fail",
    "export.py ckpt=run format=onx": "format=onx: expected one of onnx, torch_export, weights; did you mean onnx?",
    "export.py ckpt=run format=torch_export output=o.onnx": "output=o.onnx: expected a name that ends in .pt2",
    "evaluate.py ckpt=run model=resnet18": "model=resnet18: evaluate.py has no group model; there are: datamodule,",
    "evaluate.py ckpt=run +trainer.logger=true": "trainer.logger",
    "export.py ckpt=run trainer=fast": "trainer=fast: export.py has no group trainer",
    "export.py ckpt=run format=torch_export tolerance=-1": "tolerance=-1: expected 0 or more",
}
# Found once torch is there. What is left is the run's folder, with its record.
PARTS = {
    # devices and numbers
    "trainer.accelerator=mps": "`MPSAccelerator` can not run on your system",
    "trainer.devices=abc": "`devices` selected with `CPUAccelerator` should be an int > 0",
    "trainer.devices=999": "trainer.devices=999: this machine has",
    "+trainer.limit_train_batches=0": "nothing to train: trainer.max_epochs=1, trainer.limit_train_batches=0",
    "+trainer.limit_train_batches=abc": "trainer: TypeError: '<=' not supported",
    "trainer.max_time=1h": "trainer: `Timer(duration='1h')` is not a valid duration",
    "datamodule.in_channels=2": "datamodule: in_channels=2 is neither 1 (grey) nor 3 (RGB)",
    "datamodule.num_classes=1": "datamodule: num_classes=1",
    "datamodule.num_images=-5": "datamodule: RuntimeError: Trying to create tensor with negative dimension -5",
    "lit_module.label_smoothing=2": "lit_module: label_smoothing=2",
    "optimizer=adamw optimizer.betas=[0.9]": "optimizer: IndexError: list index out of range",
    "scheduler.warmup=5": "scheduler: warmup=5",
    "scheduler.final=-1": "scheduler: final=-1; expected 0 or more",
    "callbacks=ema callbacks.ema.decay=1": "callbacks.ema: decay=1; expected",
    "ckpt_path=run/checkpoints/last.ckpt": "nothing to train: trainer.max_epochs=1, of which last.ckpt has had 1",
    # what does not go together
    "datamodule.batch_size=9999": "batch_size=9999 is larger than the training set; the largest that works is 54",
    "datamodule.image_size=100000": "out of memory: no room for 8,9",
    "model.num_classes=5": "model.num_classes=5, but the data has num_classes=10",
    "monitor=val/foo": "monitor=val/foo: no such metric; there are: val/f1_macro, val/loss, val/top1, val/top5",
    "callbacks=early_stopping callbacks.early_stopping.monitor=val/top2": "monitor=val/top2: no such metric",
    "scheduler=step scheduler.milestones=[2]": "milestones=[2]; expected shares of the training",
    "callbacks=early_stopping callbacks.early_stopping.monitor=val/topp1 +trainer.num_sanity_val_steps=0": (
        "monitor=val/topp1: no such metric; did you mean val/top1?"
    ),
    "callbacks=early_stopping callbacks.early_stopping.monitor=val/x +trainer.num_sanity_val_steps=0": (
        "monitor=val/x: no such metric; there are: val/f1_macro, val/loss, val/top1, val/top5"
    ),
    "callbacks=early_stopping callbacks.early_stopping.monitor=foo": "monitor=foo: no such metric; there are: train",
    # what cannot be built
    "optimizer._target_=torch.optim.Foo": "optimizer: ImportError: Error loading 'torch.optim.Foo'",
    "model._target_=nothing.Net": "model: ImportError: Error loading 'nothing.Net'",
    "model._target_=math.pi": "model: Expected a callable target, got '3.14",
    "model._target_=builtins.dict": "model: builtins.dict returned a dict; expected a torch Module",
    "model._target_=odd.Fails": "model: KeyError: 'boom'",
    "model._target_=odd.WrongSize": (
        "model: 1 (Linear(in_features=5, out_features=10, bias=True)) fails on input of shape (1, 3072): RuntimeError: "
        "mat1 and mat2 shapes cannot be multiplied (1x3072 and 5x10)"
    ),
    "datamodule._target_=odd.fails": "datamodule: KeyError: 'boom'",
    "datamodule._target_=odd.Unloadable": "datamodule: KeyError: 'boom'",
    "datamodule._target_=lightning.LightningDataModule": "object has no attribute 'num_classes'",
    "optimizer._target_=torch.optim.RMSprop": (
        "optimizer: torch.optim.RMSprop has no argument nesterov, fused; leave out or remove: '~optimizer.nesterov' "
        "'~optimizer.fused'"
    ),
    "~optimizer._target_": "optimizer: a config without _target_ returned a dict; expected a torch Optimizer",
    "optimizer._target_=odd.fails": "optimizer: KeyError: 'boom'",
    "optimizer._target_=torch.nn.ParameterList ~optimizer.lr": "optimizer: torch.nn.ParameterList has no argument",
    "optimizer._target_=odd.dictionary": "optimizer: odd.dictionary returned a dict; expected a torch Optimizer",
    "scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau ~scheduler.warmup ~scheduler.final": (
        "scheduler=ReduceLROnPlateau does not take total_steps, the number of optimizer steps; "
        "expected scheduler=cosine, one_cycle, step, plateau or none, or torch.optim.lr_scheduler.OneCycleLR"
    ),
    "scheduler._target_=odd.fails": "scheduler: KeyError: 'boom'",
    "+callbacks.mine._target_=odd.fails": "callbacks.mine: KeyError: 'boom'",
    "+callbacks.mine._target_=builtins.dict": "callbacks.mine: builtins.dict returned a dict; expected a",
    "+callbacks.mine._target_=lightning.pytorch.callbacks.LearningRateMonitor logger=none": "that has no logger",
    "+logger.mine._target_=odd.fails": "logger.mine: KeyError: 'boom'",
    "trainer._target_=odd.fails": "trainer: KeyError: 'boom'",
    "+trainer.strategy=foo": "trainer: You selected an invalid strategy name: `strategy='foo'`.",
    "+trainer.limit_train_batchs=3": "trainer: lightning.Trainer has no argument limit_train_batchs; leave out",
    "+trainer.barebones=true": "trainer: `Trainer(barebones=True, enable_checkpointing=True)` was passed.",
    # checkpoints and weights
    "ckpt_path=empty.ckpt": "empty.ckpt is empty",
    "ckpt_path=half.ckpt": "half.ckpt is not a complete checkpoint",
    "ckpt_path=foreign.ckpt": "foreign.ckpt is not a checkpoint of train.py: it lacks model, datamodule,",
    "ckpt_path=weights_only.ckpt": "cannot be resumed from: it has no loops, optimizer_states",
    "model=resnet_cifar ckpt_path=run/checkpoints/last.ckpt": "the checkpoint's weights do not fit the network",
    "datamodule.num_classes=5 ckpt_path=run/checkpoints/last.ckpt": "fc3.weight is (10, 84), expected (5, 84)",
    "model=resnet_cifar model.weights=other.pth": "weights=other.pth is for another network: conv1.weight is",
    "model=resnet_cifar model.weights=text.ckpt": "text.ckpt is not a complete checkpoint",
}
ODD = """
from torch import nn
from datamodules import Synthetic

def fails(*args, **kwargs):
    raise KeyError("boom")

def dictionary(groups, **kwargs):
    return kwargs

class Fails(nn.Module):
    def __init__(self, **kwargs):
        raise KeyError("boom")

class WrongSize(nn.Sequential):
    def __init__(self, in_channels, num_classes, image_size):
        super().__init__(nn.Flatten(), nn.Linear(5, num_classes))

class Buggy(nn.Sequential):
    def __init__(self, in_channels, num_classes, image_size):
        super().__init__(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))

    def forward(self, images):
        if self.training:
            raise KeyError("boom")
        return super().forward(images)

class Unloadable(Synthetic):
    def load(self, split):
        raise KeyError("boom")
"""
DATA = {
    "god": "datamodule.data_dir=god is not a folder; did you mean good?",
    "missing": "datamodule.data_dir=missing is not a folder",
    "file datamodule=cats_vs_dogs": "datamodule.data_dir=file is not a folder",
    "good datamodule.resize_ratio=0.5": "datamodule: resize_ratio=0.5; expected 1 or more",
    "good datamodule.broken=ignore": "datamodule: broken=ignore",
    "empty": "empty has no class folders; expected empty/<class>/<image>",
    "one": "num_classes=1; expected at least 2",
    "hole": "hole has no images of the class b",
    "good datamodule.num_classes=5": "num_classes=5, but ImageFolder has 2 classes",
    "good datamodule.test_fraction=0": "the fraction to split off is 0; expected a number between 0 and 1",
    "texts": "jpg cannot be read as an image: cannot identify image file",
    "halves": "jpg cannot be read as an image: Truncated File Read",
    "zeros": "zeros has no images of the class a",
}
AFTER = {
    "evaluate.py ckpt=half.ckpt": "half.ckpt is not a complete checkpoint",
    "evaluate.py ckpt=other.pth": "other.pth holds only weights, without the network's config",
    "evaluate.py ckpt=run trainer.devices=2": "evaluation runs in one process, not 2; use trainer.devices=1",
    "evaluate.py ckpt=run datamodule=image_folder datamodule.data_dir=good": "the data has 2 classes, the network has",
    "evaluate.py ckpt=run datamodule.data_dir=good": "datamodule.data_dir=good: Synthetic does not read a folder",
    "evaluate.py ckpt=run +datamodule.foo=1": "unexpected keyword argument 'foo'",
    "evaluate.py ckpt=run trust=[os.system]": "only a class of models or datamodules can be trusted",
    "predict.py ckpt=run images=texts/a": "none of the 12 files could be read; the first: texts/a/0.jpg",
    "predict.py ckpt=run images=halves/a broken=fail": "halves/a/0.jpg cannot be read as an image",
    "export.py format=torch_export ckpt=foreign.ckpt": "foreign.ckpt is not a checkpoint of train.py",
    "export.py format=torch_export ckpt=run images=texts/a": "texts/a/0.jpg cannot be read as an image",
}


if not torch.cuda.is_available():
    PARTS["trainer.accelerator=gpu"] = "No supported gpu backend found!"


@pytest.fixture(scope="module")
def place(forks, tmp_path_factory):
    """A folder with all that the rows name; none of them may change it."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    counts = {"good": (12, 12), "one": (4,), "hole": (4, 0), "texts": (12, 12), "halves": (12, 12), "zeros": (12, 12)}
    for name, classes in counts.items():
        for label, count in zip("ab", classes, strict=False):
            (folder / name / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name / label / f"{number}.jpg")
    for path in (folder / "texts" / "a").iterdir():
        path.write_text("a text")
    for path in (folder / "halves" / "a").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    for path in (folder / "zeros" / "a").iterdir():
        path.write_bytes(b"")
    (folder / "empty").mkdir()
    (folder / "folder.csv").mkdir()
    (folder / "file").write_text("x")
    (folder / "odd.py").write_text(ODD)
    recipe = "# @package _global_\noptimizer:\n  lr: 0.001  # né\n"
    texts = {"byte_order_mark": recipe.encode("utf-8-sig"), "latin": recipe.encode("latin-1")}
    for name, text in (texts | {"tabs": recipe.replace("  lr", "\tlr").encode()}).items():
        (folder / name / "experiment").mkdir(parents=True)
        (folder / name / "experiment" / "mine.yaml").write_bytes(text)

    done = forks("train.py", *SMALL, cwd=folder)
    assert done.code == 0, done.err
    (folder / "new").rename(folder / "run")
    (folder / "runs").mkdir()
    shutil.copytree(folder / "run", folder / "runs" / "mine")
    shutil.copytree(folder / "run", folder / "sweep" / "seed-0")
    for name, text in {"damaged": "a text", "halved": "seed: [1"}.items():
        shutil.copytree(folder / "run", folder / name)
        (folder / name / "result.json").unlink()
        (folder / name / ".hydra" / "config.yaml").write_text(text)

    (folder / "text.ckpt").write_text("a text")
    (folder / "empty.ckpt").touch()
    content = (folder / "run" / "checkpoints" / "last.ckpt").read_bytes()
    (folder / "half.ckpt").write_bytes(content[: len(content) // 2])
    torch.save({"state_dict": {}}, folder / "foreign.ckpt")
    torch.save(torch.nn.Linear(2, 2).state_dict(), folder / "other.pth")
    whole = torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    for part in ("loops", "optimizer_states", "lr_schedulers"):
        del whole[part]
    torch.save(whole, folder / "weights_only.ckpt")
    return folder


def contents(folder):
    """Every path below a folder, with its time of change."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def assert_one_line(done, message):
    assert done.code == 2, (done.code, done.out, done.err)
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert message in done.err, done.err
    assert "Traceback" not in done.out


@pytest.mark.parametrize("row", [*CONFIG, *OTHERS])
def test_a_mistake_in_the_config_is_said_without_torch_and_leaves_nothing(row, place, lean):
    script, *args = row.split() if row in OTHERS else ["train.py", *row.split()]
    before = contents(place)
    done = lean(script, *args, cwd=place)
    assert_one_line(done, (OTHERS | CONFIG)[row])
    assert done.imported == []
    assert contents(place) == before


@pytest.fixture
def untouched(place):
    """The same folder; after the test nothing in it has changed but ``new`` and the scripts' own run folders."""
    before = contents(place)
    yield place
    for name in [name for name in os.listdir(place / "runs") if name != "mine"]:
        shutil.rmtree(place / "runs" / name)
    shutil.rmtree(place / "new", ignore_errors=True)
    assert contents(place) == before


@pytest.mark.parametrize("row", [*PARTS, *(f"datamodule.data_dir={data}" for data in DATA)])
def test_what_only_the_parts_know_is_one_line_and_stands_in_the_record(row, untouched, forks):
    data = row.partition("datamodule.data_dir=")[2]
    environment = {"PYTHONPATH": str(untouched), "PYTHONDONTWRITEBYTECODE": "1"}
    done = forks("train.py", *(PHOTOS if data else SMALL), *row.split(), cwd=untouched, **environment)
    assert_one_line(done, DATA[data] if data else PARTS[row])
    left = {path.name for path in (untouched / "new").iterdir() if "tfevents" not in path.name}
    assert left - {"checkpoints"} == {".hydra", "result.json", "train.log"}
    record = json.loads((untouched / "new" / "result.json").read_text())
    assert record["status"] == "failed" and f"error: {record['error']}\n" == done.err
    assert "Traceback" in (untouched / "new" / "train.log").read_text()


def test_an_error_in_the_training_itself_keeps_its_traceback(untouched, forks):
    done = forks("train.py", *SMALL, "model._target_=odd.Buggy", cwd=untouched, PYTHONPATH=str(untouched))
    assert done.code == 1
    assert 'raise KeyError("boom")' in done.err and done.err.rstrip().endswith("KeyError: 'boom'")
    assert json.loads((untouched / "new" / "result.json").read_text())["error"] == "KeyError: 'boom'"


@pytest.mark.parametrize("row", AFTER)
def test_nor_do_the_other_scripts_leave_half_of_anything(row, untouched, forks):
    script, *args = row.split()
    done = forks(script, *args, *([] if "export" in script else ["trainer.accelerator=cpu"]), cwd=untouched)
    assert_one_line(done, AFTER[row])
    new = {path.name for path in (untouched / "runs").rglob("*") if "mine" not in path.parts and path.is_file()}
    assert new <= {"config.yaml", "hydra.yaml", "overrides.yaml", f"{script[:-3]}.log"}
