"""The gain of ``trainer=fast`` over the defaults: training seconds of whole runs of train.py, in turn.

On CUDA the first run compiles; later runs find the kernels on disk.

python -m benchmarks.fast                                    LeNet, ResNet-20, ResNeXt-50; 10 minutes on 2 cores
python -m benchmarks.fast --config model=resnet18 --config datamodule=fashion_mnist
"""

import argparse
import tempfile

from benchmarks import common
from results import record

CONFIGS = {
    "LeNet, Fashion-MNIST": ["model=lenet", "datamodule=fashion_mnist", "trainer.max_epochs=2"],
    "CIFAR ResNet-20, Fashion-MNIST": ["model=resnet_cifar", "datamodule=fashion_mnist", *common.short_run(25)],
    "ResNeXt-50, 32 px": ["model=resnext50", "datamodule=synthetic", *common.short_run(8)],
    "ResNeXt-50, 224 px": [
        "model=resnext50",
        "datamodule=synthetic",
        "datamodule.image_size=224",
        "datamodule.num_images=200",
        "datamodule.batch_size=16",
        *common.short_run(4),
    ],
}


def training_seconds(overrides: list[str]) -> float:
    """Training seconds of one run of train.py, without validation and start-up."""
    with tempfile.TemporaryDirectory() as folder:
        common.train(*overrides, f"hydra.run.dir={folder}")
        found = record.read(folder)
    return found["train_seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", help="an override for train.py; several make one config")
    parser.add_argument("--runs", type=int, default=3, help="runs of each side")
    common.add_output(parser)
    args = parser.parse_args()
    rows = []
    for name, overrides in ({" ".join(args.config): args.config} if args.config else CONFIGS).items():
        seconds = {"default": [], "fast": []}
        for _ in range(args.runs):
            for trainer, found in seconds.items():
                found.append(training_seconds([f"trainer={trainer}", *overrides]))
        rows.append(common.ratio(name, "default", seconds["default"], "fast", seconds["fast"]))
    common.table("Seconds of training, default and fast", rows, args)


if __name__ == "__main__":
    main()
