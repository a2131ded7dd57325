"""A training step: ours ÷ torchvision's, and the gain from precision, memory format and compilation.

A step is forward, loss, backward and optimizer on one batch of noise; all settings of a network take turns.

python -m benchmarks.model                        all three tables (5 minutes on 2 cores with --runs 5)
python -m benchmarks.model --only torchvision     our networks against torchvision's, with the same settings
python -m benchmarks.model --only settings        fp32 and bf16, contiguous and channels_last, eager and compiled
python -m benchmarks.model --only settings --config model=resnet18 --config datamodule=cifar10
python -m benchmarks.model --only cost            seconds an image over image size, depth and groups
"""

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import hydra
import torch
import torchvision
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import common
from lit_modules import numerics

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FASHION = "datamodule=fashion_mnist"
# (name, overrides, batch size): small images, as used in this project.
NETWORKS = [
    ("LeNet, 28 px", ["model=lenet", FASHION], 128),
    ("CIFAR ResNet-20, 28 px", ["model=resnet_cifar", FASHION], 128),
    ("CIFAR ResNet-20, group norm, 28 px", ["model=resnet_cifar", FASHION, "model.norm=group"], 128),
    ("CIFAR ResNet-20, layer norm, 28 px", ["model=resnet_cifar", FASHION, "model.norm=layer"], 128),
    ("CIFAR ResNet-20, instance norm, 28 px", ["model=resnet_cifar", FASHION, "model.norm=instance"], 128),
    ("ResNet-18, 28 px", ["model=resnet18", FASHION], 128),
    ("ResNet-18, CIFAR stem, 32 px", ["model=resnet18", "datamodule=cifar10", "model.stem=cifar"], 64),
    ("ResNet-18, 224 px", ["model=resnet18", "datamodule=cifar10", "datamodule.image_size=224"], 16),
    ("ResNeXt-50, 28 px", ["model=resnext50", FASHION], 64),
]
# name: (bf16, channels_last, compiled)
FP32 = {"fp32": (False, False, False), "fp32 channels_last": (False, True, False)}
BF16 = {"bf16": (True, False, False), "bf16 channels_last": (True, True, False)}


def step(network: nn.Module, images: Tensor, labels: Tensor, bf16: bool = False) -> Callable[[], None]:
    """One training step of a network on a batch: a function without arguments."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def run() -> None:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def batch(cfg, size: int) -> tuple[Tensor, Tensor]:
    """Noise ``(size, C, H, W)`` float32 and labels ``(size,)`` int64 of the config's shape, on the device."""
    shape = (size, cfg.datamodule.in_channels, cfg.datamodule.image_size, cfg.datamodule.image_size)
    return torch.randn(shape, device=DEVICE), torch.randint(cfg.datamodule.num_classes, (size,), device=DEVICE)


def against_torchvision(runs: int) -> list[dict]:
    """The same weights, batch and settings: the outputs must agree, then the steps are timed."""
    rows = []
    for name, option, size in (
        ("resnet18", "resnet18", 64),
        ("resnet50", "resnet50", 32),
        ("resnext50_32x4d", "resnext50", 32),
    ):
        for bf16, last in ((False, False), (True, True)):
            memory_format = torch.channels_last if last else torch.contiguous_format
            cfg = common.composed(f"model={option}", "datamodule=cifar10", "datamodule.image_size=64")
            images, labels = batch(cfg, size)
            images = images.contiguous(memory_format=memory_format)
            network = instantiate(cfg.model).to(DEVICE, memory_format=memory_format)
            reference = getattr(torchvision.models, name)(num_classes=10).to(DEVICE, memory_format=memory_format)
            reference.load_state_dict(network.state_dict())
            torch.testing.assert_close(network.eval()(images[:2]), reference.eval()(images[:2]))
            sides = {
                "ours": step(network.train(), images, labels, bf16),
                "torchvision": step(reference.train(), images, labels, bf16),
            }
            found = common.take_turns(sides, runs)
            title = f"{name}, {size} × 64 px, {'bf16 channels_last' if bf16 else 'fp32'}"
            rows.append(common.ratio(title, "ours", found["ours"], "torchvision", found["torchvision"]))
    return rows


def settings(networks: list[tuple], runs: int) -> list[dict]:
    """Images a second with each setting, and the number of steps that repay compilation."""
    bf16_too = DEVICE != "cpu" or numerics.cpu_has_bfloat16()  # emulated, a step of LeNet took seven times as long
    best = "bf16 channels_last" if bf16_too else "fp32 channels_last"
    choices = FP32 | (BF16 if bf16_too else {}) | {f"{best} compiled": (bf16_too, True, True)}
    rows = []
    for name, overrides, size in networks:
        cfg = common.composed(*overrides)
        images, labels = batch(cfg, size)
        network = instantiate(cfg.model).to(DEVICE)
        sides, compiling = {}, 0.0
        for setting, (bf16, last, compiled) in choices.items():
            memory_format = torch.channels_last if last else torch.contiguous_format
            twin = copy.deepcopy(network).to(memory_format=memory_format)
            sides[setting] = step(twin, images.contiguous(memory_format=memory_format), labels, bf16)
            if compiled:
                torch.compiler.reset()
                twin.compile()
                began = time.perf_counter()
                sides[setting]()
                common.synchronize()
                compiling = time.perf_counter() - began
        medians = {key: statistics.median(values) for key, values in common.take_turns(sides, runs).items()}
        eager, compiled = medians[best], medians[f"{best} compiled"]
        row = {"network": name, "batch": size, "fp32, images a second": f"{size / medians['fp32']:,.0f}"}
        row |= {f"{key}, ×": medians["fp32"] / value for key, value in medians.items() if key != "fp32"}
        row |= {"compiling, s": compiling}
        row |= {"steps that repay it": f"{compiling / (eager - compiled):,.0f}" if compiled < eager else "never"}
        rows.append(row)
    return rows


def cost(runs: int) -> list[dict]:
    """How a step's time grows with image size, depth and groups (bf16, channels_last)."""
    small = ["model=resnet_cifar", "datamodule=cifar10"]
    bottleneck = [*small, "model.block=bottleneck", "model.depth=29", "model.widths=[64,128,256]"]
    cases = {f"CIFAR ResNet-20, {px} px": [*small, f"datamodule.image_size={px}"] for px in (16, 32, 64)}
    cases |= {f"CIFAR ResNet-{depth}, 32 px": [*small, f"model.depth={depth}"] for depth in (8, 56)}
    cases |= {f"CIFAR ResNet-29, groups={n}": [*bottleneck, f"model.groups={n}"] for n in (1, 2, 8, 32, 64)}
    from callbacks.run_metrics import cost as arithmetic

    rows, size, sides = [], 32, {}
    for name, overrides in cases.items():
        cfg = common.composed(*overrides)
        network = instantiate(cfg.model).to(DEVICE, memory_format=torch.channels_last)
        params, flops = arithmetic(network, (3, cfg.datamodule.image_size, cfg.datamodule.image_size))
        images, labels = batch(cfg, size)
        sides[name] = step(network, images.contiguous(memory_format=torch.channels_last), labels, bf16=True)
        rows.append({"network": name, "parameters": f"{params:,}", "MFLOPs an image": flops / 1e6})
    for row, seconds in zip(rows, common.take_turns(sides, runs).values(), strict=True):
        milliseconds = 1e3 * statistics.median(seconds) / size
        row |= {"ms an image": milliseconds, "GFLOPs a second": 3 * row["MFLOPs an image"] / milliseconds}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("torchvision", "settings", "cost"))
    parser.add_argument("--config", action="append", help="for settings: an override of a network of your own")
    parser.add_argument("--batch-size", type=int, default=64, help="batch size for that network")
    parser.add_argument("--runs", type=int, default=15, help="measured steps of each side")
    common.add_output(parser)
    args = parser.parse_args()
    numerics.keep_freed_memory()  # as train.py does
    cache = tempfile.TemporaryDirectory()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache.name  # empty, or earlier kernels would make compiling look quick
    networks = [(" ".join(args.config), args.config, args.batch_size)] if args.config else NETWORKS
    if args.only in (None, "torchvision"):
        common.table("Seconds a step, ours and torchvision's", against_torchvision(args.runs), args)
    if args.only in (None, "settings"):
        common.table("A step's speed by setting, fp32 = 1", settings(networks, args.runs), args)
    if args.only in (None, "cost"):
        common.table("What a training step costs", cost(args.runs), args)


if __name__ == "__main__":
    with hydra.initialize_config_dir(str(common.CONF), version_base="1.3"):
        main()
