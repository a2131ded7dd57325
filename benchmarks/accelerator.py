"""Measure this project on one CUDA GPU; without a GPU, report that and exit.

data      images a second from our loader, from an ordinary DataLoader, and into ResNet-18 (bar: 20 times that)
steps     a training step of ResNet-18, ResNet-50 and ResNeXt-50, from float32 to CUDA graphs
trainer   an epoch through the Trainer ÷ the same epoch in a bare loop
peers     a training step of ResNet-50 in torchvision and timm ÷ the one here, from the same weights
accuracy  Fashion-MNIST through train.py: test top-1 and seconds of training (bar: 94% in under 10 s)

python -m benchmarks.accelerator --json found.json        everything; a quarter of an hour was too short
python -m benchmarks.accelerator --only data trainer peers
python -m benchmarks.accelerator --only accuracy --seeds 3 --compile false --recipe trainer.max_epochs=20
python -m benchmarks.accelerator --quick                  tiny sizes, on a CPU too, to see that it runs
"""

import argparse
import gc
import itertools
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator

import hydra
import torch
import torchvision
from lightning import Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks import common
from benchmarks.trainer_overhead import measure, part_of_an_epoch
from datamodules import RandomCrop, RandomHorizontalFlip, Synthetic
from launch.main import quiet_lightning
from models import ResNet
from results import record

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
Step = Callable[[], None]
Network = tuple[Callable[[], nn.Module], int, int]  # builder, images a batch, pixels
Table = tuple[str, list[dict]]  # title, rows

NETWORKS = {
    "ResNet-18, CIFAR stem": (lambda: ResNet(depth=18, stem="cifar", num_classes=10, image_size=32), 512, 32),
    "ResNet-50": (lambda: ResNet(depth=50), 256, 224),
    "ResNeXt-50 32×4d": (lambda: ResNet(depth=50, groups=32, width_per_group=4), 128, 224),
}
QUICK = {"ResNet-8": (lambda: ResNet(depth=8, widths=(4, 8, 16), stem="cifar", num_classes=10, image_size=32), 8, 32)}

# The switches of a training step; each rung of the ladder adds one to those before.
RUNGS = ("fp32", "TF32", "bf16", "+ channels_last", "+ cudnn.benchmark", "+ compile", "+ CUDA graphs")
EAGER, COMPILED = RUNGS[:5], RUNGS[:6]

# Wide and shallow, a third of ResNet-18's arithmetic, since few seconds allow few epochs.
RECIPE = (
    "datamodule=fashion_mnist datamodule.batch_size=512 datamodule.val_fraction=0.05 "
    "model=resnet_cifar model.depth=8 model.widths=[64,128,256] lit_module.label_smoothing=0.1 "
    "datamodule.augmentation.crop.padding=1 trainer=fast trainer.max_epochs=18 scheduler=one_cycle optimizer.lr=0.8"
).split()
RECIPE_QUICK = (
    "datamodule.batch_size=32 model.widths=[4,8,16] trainer.max_epochs=2 "
    "+trainer.limit_train_batches=2 +trainer.limit_val_batches=2 +trainer.limit_test_batches=2"
).split()


def clean_slate() -> None:
    """Free memory of earlier sections, and reset torch's switches to the defaults.

    TF32 is set by the old names: once the new ones are set, torch 2.9 to 2.12 refuse to compile.
    """
    torch.compiler.reset()
    gc.collect()
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    torch.backends.cudnn.benchmark = False
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def compile(net: nn.Module, mode: str | None = None) -> None:
    if CUDA:
        net.compile(mode=mode)
    else:
        net.compile(backend="aot_eager")  # enough for --quick: code for the CPU would take minutes


def training_step(net: nn.Module, images: int, pixels: int, layout: torch.memory_format, bf16: bool) -> Step:
    """Forward, loss, backward and optimizer on random ``(N, 3, H, W)`` on the device, three batches in turn."""
    noise = [torch.randn(images, 3, pixels, pixels, device=DEVICE).contiguous(memory_format=layout) for _ in range(3)]
    batches, labels = itertools.cycle(noise), torch.randint(net.fc.out_features, (images,), device=DEVICE)
    net.to(DEVICE, memory_format=layout)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()  # before the forward pass, whose CUDA graph reuses the gradients' memory
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(net(next(batches)), labels)
        loss.backward()
        optimizer.step()

    return step


def climb(network: Network, switches: tuple[str, ...]) -> Step:
    """A network's training step with only the given switches on."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = "TF32" in switches
    torch.backends.cudnn.benchmark = "+ cudnn.benchmark" in switches
    layout = torch.channels_last if "+ channels_last" in switches else torch.contiguous_format
    build, images, pixels = network
    net = build()
    if "+ compile" in switches:
        compile(net, "reduce-overhead" if "+ CUDA graphs" in switches else None)
    return training_step(net, images, pixels, layout, "bf16" in switches)


def laps(step: Step, count: int) -> list[float]:
    """Seconds of each step by the device's clock, so that nothing waits between two steps."""
    if not CUDA:
        return common.take_turns({"step": step}, count, warmup=0)["step"]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    events[-1].synchronize()
    return [before.elapsed_time(after) / 1000 for before, after in itertools.pairwise(events)]


def rung(network: Network, switches: tuple[str, ...], seconds: float) -> dict:
    clean_slate()
    step = climb(network, switches)
    common.synchronize()
    began = time.perf_counter()
    for _ in range(3):  # with CUDA graphs the second step records, and the third replays
        step()
    common.synchronize()
    start = time.perf_counter() - began
    count = int(seconds / statistics.median(laps(step, 3)))
    median = statistics.median(laps(step, min(max(count, 5), 200)))
    return {
        "ms a step": 1000 * median,
        "images a second": round(network[1] / median),
        "start s": max(0.0, start - 3 * median),
        "peak MiB": round(torch.cuda.max_memory_allocated() / 2**20) if CUDA else "–",
    }


def steps(args: argparse.Namespace) -> Iterator[Table]:
    """start s: extra time of the first three steps; steps till even: the steps that repay compiling.

    CUDA graphs are measured after ``compile``, so the kernels are already on disk.
    """
    columns = ("ms a step", "images a second", "÷ strict fp32", "start s", "steps till even", "peak MiB")
    for name, network in (QUICK if args.quick else NETWORKS).items():
        rows = []
        for number, switch in enumerate(RUNGS, start=1):
            row = {"what": switch} | dict.fromkeys(columns, "–")
            rows.append(row)
            try:
                row.update(rung(network, RUNGS[:number], args.seconds))
                row["÷ strict fp32"] = row["images a second"] / rows[0]["images a second"]
                if number > len(EAGER):
                    eager = rows[len(EAGER) - 1]
                    saved, paid = eager["ms a step"] - row["ms a step"], max(0.0, row["start s"] - eager["start s"])
                    row["steps till even"] = math.ceil(1000 * paid / saved) if saved > 0 else "never"
            except Exception as error:  # a rung that fails is a finding; the rest still run
                row["what"] += f": {record.one_line(error)[:200]}"
        yield f"Training steps: {name}, batches of {network[1]} images of {network[2]} pixels", rows


class OneByOne(Dataset):
    """The usual data set: each image is fetched and transformed alone, in a worker."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Callable[[Tensor], Tensor]):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def data(args: argparse.Namespace) -> Iterator[Table]:
    """Both loaders deliver cropped, flipped, normalised ``(N, 3, 32, 32)`` float32 on the device."""
    count, size = (200, 16) if args.quick else (50_000, 512)
    name, network = next(iter((QUICK if args.quick else NETWORKS).items()))
    augmentation = {"crop": RandomCrop(4), "flip": RandomHorizontalFlip()}
    datamodule = Synthetic(10, 3, 32, count, batch_size=size, augmentation=augmentation)
    datamodule.trainer = Trainer(accelerator="gpu" if CUDA else "cpu", devices=1, logger=False)
    datamodule.trainer.training = True  # turns augmentation on
    datamodule.setup("fit")
    loader = datamodule.train_dataloader()
    usual_steps = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
    transform = v2.Compose([*usual_steps, v2.Normalize(datamodule.mean, datamodule.std)])
    host = datamodule.load("train")
    options = {"num_workers": args.workers, "persistent_workers": args.workers > 0, "pin_memory": CUDA}
    usual = DataLoader(OneByOne(host.images, host.labels, transform), size, shuffle=True, drop_last=True, **options)
    step = climb(network, COMPILED)

    def our_epochs() -> None:
        for _ in range(10):
            for batch in loader:
                datamodule.on_after_batch_transfer(datamodule.transfer_batch_to_device(batch, DEVICE, 0), 0)

    def usual_epoch() -> None:
        for images, labels in usual:
            images, labels = images.to(DEVICE, non_blocking=True), labels.to(DEVICE, non_blocking=True)

    def training() -> None:
        for _ in range(50):
            step()

    images_on = datamodule.sets["train"].images.device.type
    sides = {f"our loader, images on {images_on}": our_epochs, f"DataLoader, {args.workers} workers": usual_epoch}
    sides[f"{name} consumes"] = training
    images = (10 * len(loader) * size, len(usual) * size, 50 * network[1])
    seconds = common.take_turns(sides, 2 if args.quick else 5).values()
    rates = [n / statistics.median(turns) for n, turns in zip(images, seconds, strict=True)]
    rows = [
        {"what": what, "images a second": round(rate), "÷ DataLoader": rate / rates[1], "÷ network": rate / rates[2]}
        for what, rate in zip(sides, rates, strict=True)
    ]
    yield f"Loading: batches of {size} images of 32 pixels, cropped, flipped and normalised", rows


def trainer(args: argparse.Namespace) -> Iterator[Table]:
    """See benchmarks.trainer_overhead. Also without checkpoints, whose writing may take as long as an epoch,
    and with CUDA graphs, which leave processor time for the Trainer.
    """
    augmentation = "{crop:{_target_:datamodules.RandomCrop,padding:4},flip:{_target_:datamodules.RandomHorizontalFlip}}"
    config = ["trainer=fast", "datamodule=synthetic", f"datamodule.augmentation={augmentation}"]
    if args.quick:
        config += "datamodule.num_images=200 datamodule.batch_size=16 model=resnet_cifar model.widths=[4,8,16]".split()
    else:
        config += "datamodule.num_images=50000 datamodule.batch_size=512 model=resnet18 model.stem=cifar".split()
    config += part_of_an_epoch(11 if args.quick else 87)  # full batches only: another size would be compiled again
    without = ["callbacks.checkpoint=null", "callbacks.last=null", "+trainer.enable_checkpointing=false"]
    rows = []
    kinds = {"as in train.py": [], "without checkpoints": without}
    if CUDA:
        kinds["without checkpoints, CUDA graphs"] = [*without, "lit_module.compile=reduce-overhead"]
    for name, more in kinds.items():
        clean_slate()  # otherwise the second pair of networks would hit dynamo's recompilation limit
        found = measure([*config, *more], 2 if args.quick else 6)
        rows.append(common.ratio(name, "trainer", found["trainer"], "bare", found["bare"]))
    yield "Seconds an epoch, with validation: " + " ".join(config), rows


def peers(args: argparse.Namespace) -> Iterator[Table]:
    """The networks take turns of five steps; eager first, then compiled."""
    depth, images, pixels = (18, 2, 32) if args.quick else (50, 256, 224)
    nets = {"ours": ResNet(depth=depth), "torchvision": torchvision.models.get_model(f"resnet{depth}")}
    try:
        import timm

        nets["timm"] = timm.create_model(f"resnet{depth}")
    except ImportError:
        print("timm is not installed: torchvision is the only peer")
    torch.backends.cudnn.benchmark = True
    sides = {}
    for name, net in nets.items():
        net.load_state_dict(nets["ours"].state_dict())  # timm's zero-initialised norms would be faster
        step = training_step(net, images, pixels, torch.channels_last, bf16=True)
        sides[name] = lambda step=step: [step() for _ in range(5)]
    for how in ("eager", "compiled"):
        if how == "compiled":
            for net in nets.values():
                compile(net)
        seconds = common.take_turns(sides, 2 if args.quick else 10)
        rows = [common.ratio(peer, "peer", seconds[peer], "ours", seconds["ours"]) for peer in list(nets)[1:]]
        for row in rows:
            row["ours, images a second"] = round(5 * images / row["ours"])
        yield f"Seconds of 5 steps: ResNet-{depth}, bf16, channels_last, {how}, {images} × {pixels} pixels", rows


def accuracy(args: argparse.Namespace) -> Iterator[Table]:
    """of it start: extra time of the first epoch over the median epoch, mostly compiling.

    Among compiled runs, the first seed compiles everything; later seeds find the kernels on disk.
    """
    recipe = RECIPE + (RECIPE_QUICK if args.quick else []) + [f"data_dir={args.data_dir}"] + (args.recipe or [])
    for switch in args.compile:
        overrides = [*recipe, f"lit_module.compile={switch}"]
        rows = [{"seed": str(seed)} | run([*overrides, f"seed={seed}"]) for seed in range(args.seeds)]
        rows.append({"seed": "mean"} | {key: statistics.mean(r[key] for r in rows) for key in list(rows[0])[1:]})
        yield "python train.py " + " ".join(overrides), rows


def run(overrides: list[str]) -> dict[str, float]:
    """One run of train.py, in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", *overrides, f"hydra.run.dir={folder}"]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=common.CONF.parent, capture_output=True, text=True, check=False)
        whole = time.perf_counter() - began
        if done.returncode != 0:
            raise RuntimeError(f"train.py ended with {done.returncode}: {(done.stderr or done.stdout)[-1000:]}")
        found = record.read(folder)
    epochs = [float(seconds) for seconds in re.findall(r"^epoch .* ([\d.]+) s$", done.stdout, re.MULTILINE)]
    return {
        "test/top1": found["metrics"]["test/top1"],
        "training s": found["train_seconds"],
        "of it start s": epochs[0] - statistics.median(epochs),
        "images a second": found["images_per_second"],
        "whole command s": whole,
    }


SECTIONS = {"data": data, "steps": steps, "trainer": trainer, "peers": peers, "accuracy": accuracy}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to run")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds to measure each rung of steps")
    parser.add_argument("--workers", type=int, default=min(16, os.cpu_count() or 1), help="of the usual DataLoader")
    parser.add_argument("--seeds", type=int, default=2, help="runs for accuracy, with each --compile")
    parser.add_argument("--compile", nargs="+", default=["false", "true"], help="lit_module.compile in accuracy")
    parser.add_argument("--recipe", action="append", help="a further override for train.py in accuracy")
    parser.add_argument("--data-dir", default="data", help="train.py's data_dir in accuracy")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, on a CPU too; the figures mean nothing")
    common.add_output(parser)
    args = parser.parse_args()
    if not CUDA and not args.quick:
        print("no CUDA GPU here, so there is nothing to measure (--quick tests on a CPU that it runs)")
        return 0
    if args.quick:
        args.seconds, args.seeds, args.workers = 0.01, 1, min(args.workers, 2)
    quiet_lightning()
    facts = {"device": common.device(), "versions": record.versions(), "git_commit": record.git_commit()}
    found = {name: {"tables": [], "error": "not started"} for name in args.only}
    command = " ".join(["python -m benchmarks.accelerator", *sys.argv[1:]])

    def save() -> None:  # after every table, so that a run cut short keeps what it measured
        if args.json:
            args.json.write_text(json.dumps({"command": command, "sections": found} | facts, indent=2) + "\n")

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # empty, or earlier kernels would make compiling look quick
        for name, section in found.items():
            section["error"], began = "not finished", time.perf_counter()
            try:
                clean_slate()
                for title, rows in SECTIONS[name](args):
                    print()
                    common.table(title, rows, argparse.Namespace(json=None))
                    section["tables"].append({"title": title, "rows": rows})
                    save()
                section["error"] = None
            except Exception as error:  # the other sections still run
                traceback.print_exc()
                section["error"] = record.one_line(error)
            section["seconds"] = time.perf_counter() - began
            print(f"\n{name}: {section['error'] or 'done'}, {section['seconds']:.0f} s", flush=True)
            save()
    return int(any(section["error"] for section in found.values()))


if __name__ == "__main__":
    with hydra.initialize_config_dir(str(common.CONF), version_base="1.3"):
        sys.exit(main())
