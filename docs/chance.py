"""Which mistakes bring a ResNet-34 to exactly chance, and which merely cost accuracy?

Each is made on purpose, in a loop as it is written by hand, on two classes of Fashion-MNIST that look alike: 2,000
training and 2,000 test images of shirts and of T-shirts.

python docs/chance.py                                  all of them, three seeds each, into docs/records/chance
python docs/chance.py --only right lenet --seeds 0
"""

import argparse
import copy
import sys
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # it is a script in a folder of its own

from datamodules import FashionMNIST, RandomCrop, RandomHorizontalFlip  # noqa: E402
from models import LeNet, ResNet  # noqa: E402
from results.record import write_json  # noqa: E402

CLASSES = ("T-shirt/top", "Shirt")
IMAGES = 1000  # of each class, for training where a case does not say; the test set has as many
BATCH = 64


@dataclass(frozen=True)
class Case:
    """One training. What is not said is as it should be."""

    what: str
    network: str = "resnet34"
    images: int = IMAGES
    image_size: int = 28
    outputs: int = 2
    lr: float = 0.02
    epochs: int = 10
    normalised: bool = True
    augmented: bool = False  # flips, and shifts by up to a fourteenth
    order: str = "shuffled"  # sorted: all of one class, then all of the other
    labels: str = "theirs"  # shuffled: of other images
    mode: str = "eval"  # of the test: train, or lost: running statistics as in a new network
    rows: str = "theirs"  # of the test: sorted by class, or answers in the order of the files' names


ALL = ", flips and shifts, all 12,000 images, 8 epochs"
RESNET = Case("ResNet-34 with its ImageNet stem, on 28 × 28 pixels")
CASES = {
    "resnet34": RESNET,
    "train_mode": replace(RESNET, what="tested in training mode, shuffled", mode="train"),
    "train_mode_sorted": replace(RESNET, what="tested in training mode, sorted by class", mode="train", rows="sorted"),
    "statistics_lost": replace(RESNET, what="parameters saved without batch norm's statistics", mode="lost"),
    "sorted": replace(RESNET, what="trained on files sorted by class, never shuffled", order="sorted"),
    "head_1000": replace(RESNET, what="a head of 1,000 classes", outputs=1000),
    "lr_high": replace(RESNET, what="learning rate 100 times as high", lr=2.0),
    "lr_low": replace(RESNET, what="learning rate a thousandth", lr=2e-5),
    "few_steps": replace(RESNET, what="one epoch, 31 steps", epochs=1),
    "labels": replace(RESNET, what="training labels of other images", labels="shuffled"),
    "rows": replace(RESNET, what="answers in the order 0, 1, 10, 100, … of the files' names", rows="names"),
    "raw": replace(RESNET, what="pixels from 0 to 255, not normalised", normalised=False),
    "lenet": Case("LeNet", network="lenet"),
    "right": replace(
        RESNET, what="ResNet-34, 64 × 64 pixels, flips, shifts, 20 epochs", image_size=64, augmented=True, epochs=20
    ),
    "lenet_right": Case("LeNet, 28 × 28 pixels, flips, shifts, 20 epochs", network="lenet", augmented=True, epochs=20),
    "right_all": replace(
        RESNET, what="ResNet-34 on 64 × 64 pixels" + ALL, images=6000, image_size=64, augmented=True, epochs=8
    ),
    "lenet_right_all": Case("LeNet" + ALL, network="lenet", images=6000, augmented=True, epochs=8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "records" / "chance")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    for seed in given.seeds:
        for name in given.only:
            found = {"case": name, "what": CASES[name].what, "seed": seed, **run(CASES[name], seed)}
            write_json(given.output / f"{name}_{seed}.json", found)
            scores = f"test {found['test']:.4f}  train {found['train']:.4f}"
            print(f"{name:<18} seed {seed}  {scores}  {found['seconds']:.0f} s", flush=True)


def run(case: Case, seed: int) -> dict:
    """Train and test. Returns accuracies from 0 to 1, of the test as the case has it and of the training images."""
    network, training = trained(replace(case, what="", mode="eval", rows="theirs"), seed)
    network = copy.deepcopy(network)
    if case.mode == "lost":
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
    data = FashionMNIST(10, 1, case.image_size)
    images, labels = two_classes(data, "test", seed)
    if case.rows == "sorted":
        order = labels.argsort(stable=True)
        images, labels = images[order], labels[order]
    said = answers(network.train(case.mode == "train"), shown(case, data, images))
    if case.rows == "names":
        said = said[torch.tensor(sorted(range(len(said)), key=str))]  # 0, 1, 10, 100, …
    return {
        "test": right(said, labels),
        "commonest_answer": said.bincount().max().item() / len(said),
        **training,
        "device": f"cpu, {torch.get_num_threads()} threads, bfloat16",
        "versions": {name: version(name) for name in ("torch", "torchvision")},
    }


@lru_cache(maxsize=1)  # cases that differ in the test alone share it
def trained(case: Case, seed: int) -> tuple[nn.Module, dict]:
    torch.manual_seed(seed)
    data = FashionMNIST(10, 1, case.image_size)
    images, labels = two_classes(data, "train", seed, case.images)
    form = {"in_channels": 1, "num_classes": case.outputs, "image_size": case.image_size}
    network = LeNet(**form) if case.network == "lenet" else ResNet(34, **form)
    network = network.to(memory_format=torch.channels_last)
    if case.order == "sorted":
        order = labels.argsort(stable=True)
        images, labels = images[order], labels[order]
    taught = labels[torch.randperm(len(labels))] if case.labels == "shuffled" else labels
    augmentation = [RandomHorizontalFlip(), RandomCrop(case.image_size // 14)] if case.augmented else []
    per_epoch = len(labels) // BATCH
    optimizer = torch.optim.SGD(network.parameters(), lr=case.lr, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, case.epochs * per_epoch)
    started = time.perf_counter()
    for _ in range(case.epochs):
        network.train()
        order = torch.randperm(len(labels)) if case.order == "shuffled" else torch.arange(len(labels))
        for part in order.split(BATCH)[:per_epoch]:
            batch = images[part]
            for transform in augmentation:
                batch = transform(batch, torch.default_generator)
            batch = shown(case, data, batch)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(network(batch.contiguous(memory_format=torch.channels_last)), taught[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    seconds = time.perf_counter() - started
    params = sum(p.numel() for p in network.parameters())
    said = answers(network.eval(), shown(case, data, images))
    return network, {"train": right(said, labels), "params": params, "seconds": seconds}


def shown(case: Case, data: FashionMNIST, images: Tensor) -> Tensor:
    """Images as the network gets them."""
    return data.normalize(images) if case.normalised else images.float()


def two_classes(data: FashionMNIST, split: str, seed: int, count: int = IMAGES) -> tuple[Tensor, Tensor]:
    """So many of each class, mixed: ``(N, 1, h, w)`` uint8 and labels 0 and 1. Of the test set always the same."""
    found = data.load(split)
    generator = torch.Generator().manual_seed(seed if split == "train" else 0)
    numbers = [data.class_names.index(name) for name in CLASSES]
    parts = [(found.all_labels == number).nonzero()[:, 0] for number in numbers]
    parts = [part[torch.randperm(len(part), generator=generator)[:count]] for part in parts]
    labels = torch.arange(2).repeat_interleave(count)
    mixed = torch.randperm(2 * count, generator=generator)
    return found.images[torch.cat(parts)[mixed]], labels[mixed]


def answers(network: nn.Module, images: Tensor) -> Tensor:
    """The class that the network says of each image, ``(N,)``."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        parts = [part.contiguous(memory_format=torch.channels_last) for part in images.split(BATCH)]
        return torch.cat([network(part).argmax(1) for part in parts])


def right(said: Tensor, labels: Tensor) -> float:
    return (said == labels).float().mean().item()


if __name__ == "__main__":
    main()
