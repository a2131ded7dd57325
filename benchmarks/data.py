"""The cost of batches: the loaders here against the usual way, which fetches and transforms image by image.

python -m benchmarks.data                          all tables (10 minutes on 2 cores)
python -m benchmarks.data --only memory            Fashion-MNIST: loading alone, and an epoch of LeNet
python -m benchmarks.data --only augmentation      each batch transform against torchvision's of the same name
python -m benchmarks.data --only folder            generated JPEGs of some 400 pixels
python -m benchmarks.data --only cache --photos data     files decoded once: data/cats_vs_dogs/train, data/cifar10/train
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import hydra
import torch
import torchvision
from hydra.utils import instantiate
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks import common
from datamodules import ImageDataModule, ImageFolder, RandomCrop, RandomErasing, RandomHorizontalFlip, TensorImages
from lit_modules import numerics
from models import LeNet

BATCH = 128


class OneByOne(Dataset):
    """Images in memory, as in torchvision's MNIST: each becomes a PIL image and is transformed alone."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Callable):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index, 0].numpy())), int(self.labels[index])


def training(data: ImageDataModule) -> ImageDataModule:
    """The data module, ready to load, as if a Trainer were training."""
    data.setup("fit")
    data.trainer = SimpleNamespace(training=True, overfit_batches=0, global_rank=0, world_size=1)
    return data


def in_memory(runs: int) -> list[dict]:
    """Fashion-MNIST with shifts and flips: all batches of an epoch, and an epoch of LeNet in a bare loop."""
    cfg = common.composed("datamodule=fashion_mnist", f"datamodule.batch_size={BATCH}", "model=lenet")
    data = training(instantiate(cfg.datamodule))
    loader, part = data.train_dataloader(), data.sets["train"]
    transform = v2.Compose(
        [
            v2.RandomCrop(28, padding=2),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(data.mean, data.std),
        ]
    )
    images = OneByOne(part.images[part.indices], part.labels, transform)

    def usual(workers: int) -> DataLoader:
        return DataLoader(
            images, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
        )

    alone, helped = usual(0), usual(2)
    sources = {
        "ours": lambda: (data.on_after_batch_transfer(batch, 0) for batch in loader),
        "usual, 0 workers": lambda: alone,
        "usual, 2 workers": lambda: helped,
    }
    network = instantiate(cfg.model).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, fused=True)

    def load(source: Callable) -> Callable[[], None]:
        def run() -> None:
            for _ in source():
                pass

        return run

    def train(source: Callable, bf16: bool) -> Callable[[], None]:
        def run() -> None:
            for pixels, labels in source():
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    logits = network(pixels.contiguous(memory_format=torch.channels_last))
                optimizer.zero_grad()
                F.cross_entropy(logits, labels).backward()
                optimizer.step()

        return run

    rows = []
    kinds = {
        "loading alone": load,
        "an epoch of LeNet, fp32": partial(train, bf16=False),
        "an epoch of LeNet, bf16": partial(train, bf16=True),
    }
    for what, kind in kinds.items():
        found = common.take_turns({name: kind(source) for name, source in sources.items()}, runs, warmup=0)
        for name in ("usual, 0 workers", "usual, 2 workers"):
            row = common.ratio(f"{what}, {name}", "usual", found[name], "ours", found["ours"])
            rows.append(row | {"ours, images a second": f"{len(loader) * BATCH / row['ours']:,.0f}"})
    return rows


def augmentation(runs: int, batches: int = 20) -> list[dict]:
    """The same transform for a whole batch at once, and for one image at a time."""
    rows, generator = [], torch.Generator().manual_seed(0)
    for shape in ((128, 1, 28, 28), (128, 3, 32, 32), (64, 3, 224, 224)):
        images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        bounds = {"scale": (0.02, 0.4), "ratio": (0.3, 1 / 0.3)}
        transforms = {
            "crop": (RandomCrop(4), v2.RandomCrop(shape[2:], padding=4)),
            "flip": (RandomHorizontalFlip(), v2.RandomHorizontalFlip()),
            "erase, black": (RandomErasing(value=0), v2.RandomErasing(**bounds)),
            "erase, noise": (RandomErasing(), v2.RandomErasing(value="random", **bounds)),
        }
        for name, (batched, single) in transforms.items():

            def at_once(images: Tensor = images, transform: Callable = batched) -> None:
                for _ in range(batches):
                    transform(images, generator)

            def one_by_one(images: Tensor = images, transform: Callable = single) -> None:
                for _ in range(batches):
                    torch.stack([transform(image) for image in images])

            found = common.take_turns({"one by one": one_by_one, "ours": at_once}, runs)
            what = f"{name}, {' × '.join(map(str, shape))}"
            row = common.ratio(what, "one by one", found["one by one"], "ours", found["ours"])
            rows.append(row | {"ours, µs an image": 1e6 * row["ours"] / (batches * len(images))})
    return rows


def photograph(height: int, width: int, generator: torch.Generator) -> Image.Image:
    """Noise with a photograph's spectrum (power falls with frequency), so that the JPEG has a photograph's size."""
    y, x = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    frequency = (y.square() + x.square()).sqrt().clamp(min=1 / max(height, width))
    grey, colour = (
        torch.randn(1, height, width, generator=generator),
        torch.randn(3, height, width, generator=generator),
    )
    waves = torch.fft.irfft2(torch.fft.rfft2(2 * grey + colour / 2) / frequency**1.4, s=(height, width))
    pixels = (48 * waves / waves.std() + 120).clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def write_photographs(folder: Path, count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = ((300, 400), (400, 300), (400, 400), (400, 533))
    for number in range(count):
        target = folder / ("cat", "dog")[number % 2] / f"{number}.jpg"
        target.parent.mkdir(exist_ok=True)
        photograph(*sizes[number % len(sizes)], generator).save(target, quality=85)


def in_files(runs: int, count: int, workers: int) -> list[dict]:
    """An epoch of crops of 224 pixels, flipped and normalised, with the same number of workers on both sides."""
    with tempfile.TemporaryDirectory() as name:
        write_photographs(Path(name), count)
        flip = {"flip": RandomHorizontalFlip()}
        data = training(ImageFolder(name, batch_size=64, num_workers=workers, augmentation=flip))
        loader = data.train_dataloader()
        classic = torchvision.transforms.Compose(
            [
                torchvision.transforms.RandomResizedCrop(224),
                torchvision.transforms.RandomHorizontalFlip(),
                torchvision.transforms.ToTensor(),
                torchvision.transforms.Normalize(data.mean, data.std),
            ]
        )
        files = torchvision.datasets.ImageFolder(name, classic)
        files.samples = data.sets["train"].samples
        usual = DataLoader(files, 64, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0)

        def load_ours() -> None:
            for batch in loader:
                data.on_after_batch_transfer(batch, 0)

        def load_usual() -> None:
            for _ in usual:
                pass

        found = common.take_turns({"usual": load_usual, "ours": load_ours}, runs)
        bytes_each = sum(os.path.getsize(path) for path, _ in files.samples) / len(files.samples)
        name = f"{count} JPEGs of {bytes_each / 1000:.0f} kB, {workers} workers"
        row = common.ratio(name, "usual", found["usual"], "ours", found["ours"])
        return [row | {"ours, images a second": f"{len(loader) * 64 / row['ours']:,.0f}"}]


def linked(source: Path, count: int, folder: Path) -> Path:
    """Class folders with links to every n-th image of ``source``, whose images are in class folders or named like
    ``cat.1.jpg``."""
    paths = sorted(source.rglob("*.jpg"))
    for path in paths[:: max(1, len(paths) // count)]:
        name = path.name.partition(".")[0] if path.parent == source else path.parent.name
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / path.name).symlink_to(path.absolute())
    return folder


def in_memory_already(data: ImageFolder) -> ImageDataModule:
    """A data module of the same training images and transforms, without files."""

    class InMemory(ImageDataModule):
        class_names, mean, std = data.class_names, data.mean, data.std

        def load(self, split: str) -> TensorImages:
            images = data.sets["val" if split == "test" else split]
            return TensorImages(images.images, images.labels)

    options = {"batch_size": data.batch_size, "augmentation": data.augmentation}
    return training(InMemory(data.num_classes, data.in_channels, data.image_size, **options))


def epoch_of_lenet(data: ImageDataModule) -> Callable[[], None]:
    network = LeNet(data.in_channels, data.num_classes, data.image_size).to(memory_format=torch.channels_last)
    optimizer, loader = (
        torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, fused=True),
        data.train_dataloader(),
    )

    def run() -> None:
        for batch in loader:
            pixels, labels = data.on_after_batch_transfer(batch, 0)
            optimizer.zero_grad()
            F.cross_entropy(network(pixels.contiguous(memory_format=torch.channels_last)), labels).backward()
            optimizer.step()

    return run


def load_only(data: ImageDataModule) -> Callable[[], None]:
    loader = data.train_dataloader()

    def run() -> None:
        for batch in loader:
            data.on_after_batch_transfer(batch, 0)

    return run


def decoded_once(runs: int, count: int, photos: Path) -> list[dict]:
    """Photographs of cats and dogs at 64 pixels, files decoded in each epoch and once; CIFAR-10 as JPEG at 32 pixels,
    files decoded once and images already in memory. In one process, in processor seconds."""
    rows, flip = [], {"flip": RandomHorizontalFlip()}
    with tempfile.TemporaryDirectory() as name:
        cats = linked(photos / "cats_vs_dogs" / "train", count, Path(name) / "cats")
        options = {"image_size": 64, "batch_size": BATCH, "augmentation": flip}
        each = training(ImageFolder(str(cats), cache="none", num_workers=0, **options))
        once = training(ImageFolder(str(cats), cache="memory", **options))
        for what, side in {"cats and dogs, loading alone": load_only, "cats and dogs, LeNet": epoch_of_lenet}.items():
            found = common.take_turns({"each epoch": side(each), "once": side(once)}, runs, clock=time.process_time)
            rows.append(common.ratio(what, "A", found["each epoch"], "B", found["once"]))
        cifar = linked(photos / "cifar10" / "train", count, Path(name) / "cifar10")
        options = {"image_size": 32, "batch_size": BATCH, "augmentation": {"crop": RandomCrop(4)} | flip}
        files = training(ImageFolder(str(cifar), cache="memory", crop_scale=None, resize_ratio=None, **options))
        sides = {"files": epoch_of_lenet(files), "memory": epoch_of_lenet(in_memory_already(files))}
        found = common.take_turns(sides, runs, clock=time.process_time)
        rows.append(common.ratio("CIFAR-10 as JPEG, LeNet", "A", found["files"], "B", found["memory"]))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("memory", "augmentation", "folder", "cache"))
    parser.add_argument("--images", type=int, default=2000, help="JPEGs to generate")
    parser.add_argument("--workers", type=int, default=2, help="workers of both sides, for the JPEGs")
    parser.add_argument("--photos", type=Path, help="the folder of cats_vs_dogs and cifar10, for --only cache")
    parser.add_argument("--runs", type=int, default=5, help="measured epochs of each side")
    common.add_output(parser)
    args = parser.parse_args()
    numerics.keep_freed_memory()  # as train.py does, for both sides
    if args.only in (None, "memory"):
        common.table("Fashion-MNIST, seconds an epoch", in_memory(args.runs), args)
    if args.only in (None, "augmentation"):
        common.table("Seconds for 20 batches, augmented", augmentation(args.runs), args)
    if args.only in (None, "folder"):
        common.table("A folder of images, seconds an epoch", in_files(args.runs, args.images, args.workers), args)
    if args.only == "cache":
        title = "Processor seconds: A decodes in each epoch, B once; for CIFAR-10, A decodes once, B has no files"
        common.table(title, decoded_once(args.runs, args.images, args.photos), args)


if __name__ == "__main__":
    with hydra.initialize_config_dir(str(common.CONF), version_base="1.3"):
        main()
