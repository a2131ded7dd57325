"""The overhead of predict.py over decoding and a forward pass: against a plain loop over 10,000 small files.

“Ours” is everything predict.py does once torch and the checkpoint are loaded, from the folder to the CSV. The plain
loop decodes file by file with torchvision, with PIL or with our decoder, and calls the network on batches of the same
size; it writes nothing.

python -m benchmarks.predict                       LeNet and CIFAR ResNet-20 on Fashion-MNIST's test images
python -m benchmarks.predict --kind jpg --workers 0 --images 2000
"""

import argparse
import atexit
import gc
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import hydra
import torch
from hydra.utils import instantiate
from PIL import Image
from torch import Tensor, nn
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.transforms.v2.functional import pil_to_tensor

import predict
from benchmarks import common
from datamodules import ImageDataModule, Synthetic, image_paths
from datamodules.decoding import read_image
from datamodules.fashion_mnist import DEBIAN_DIR
from inference import prediction_files
from launch.main import quiet_lightning
from lit_modules import numerics

NETWORKS = {"LeNet": ["model=lenet"], "CIFAR ResNet-20": ["model=resnet_cifar", "model.depth=20"]}


def with_torchvision(path: str) -> Tensor:
    return decode_image(read_file(path), ImageReadMode.GRAY)


def with_pil(path: str) -> Tensor:
    with Image.open(path) as image:
        return pil_to_tensor(image.convert("L"))


def write_images(folder: Path, kind: str, count: int) -> ImageDataModule:
    """Fashion-MNIST's test images as files, or noise if it is not installed. Returns the data module of the images."""
    if DEBIAN_DIR.is_dir():
        data = instantiate(common.composed("datamodule=fashion_mnist").datamodule)
    else:
        data = Synthetic(10, 1, 28, 5 * count)
    images = data.load("test").images
    for number in range(count):
        Image.fromarray(images[number % len(images), 0].numpy()).save(folder / f"{number}.{kind}")
    return data


def plain_loop(folder: Path, decode: Callable, network: nn.Module, data: ImageDataModule, size: int) -> Tensor:
    """The label of each image."""
    paths = [str(folder / name) for name in image_paths.find_images(str(folder))[1]]
    labels = []
    with torch.inference_mode():
        for start in range(0, len(paths), size):
            images = torch.stack([decode(path) for path in paths[start : start + size]])
            images = images.float().div_(255).sub_(data.mean[0]).div_(data.std[0])
            labels.append(network(images).argmax(1))
    return torch.cat(labels)


def compare(name: str, overrides: list[str], folder: Path, data: ImageDataModule, args: argparse.Namespace) -> list:
    model = common.composed(*overrides, "datamodule=fashion_mnist").model
    network = instantiate(model).eval()
    workers = "null" if args.workers is None else args.workers
    settings = ["trainer=cpu", f"num_workers={workers}", "trainer.precision=32-true", f"run_dir={folder.parent}"]
    settings += ["lit_module.memory_format=contiguous_format", f"images={folder}", "ckpt=x"]
    cfg = hydra.compose("predict", settings)
    labels = {}

    def whole() -> None:
        root, names = image_paths.find_images(str(folder))
        names = image_paths.identify(names)
        paths = [str(root / name) for name in names.values()]
        read, found = predict.classify(cfg, paths, data.preprocessing, network, 2)
        prediction_files.write(cfg, list(names), found, data.class_names, read)
        labels["ours"] = found.outputs[1][:, 0]

    def plain(decode: Callable) -> Callable[[], None]:
        def run() -> None:
            labels[decode] = plain_loop(folder, decode, network, data, cfg.batch_size)

        return run

    decoders = {"torchvision": with_torchvision, "PIL": with_pil, "our decoding": partial(read_image, channels=1)}
    sides = {"ours": whole} | {side: plain(decode) for side, decode in decoders.items()}
    found = common.take_turns(sides, args.runs)
    agree = min((labels["ours"] == labels[decode]).float().mean().item() for decode in decoders.values())
    assert agree > 0.999, f"only {agree:.2%} of the labels agree"  # not all: the order of sums differs
    rows = []
    for side in decoders:
        row = common.ratio(f"{name}, against {side}", "ours", found["ours"], "plain", found[side])
        rows.append(row | {"ours, images a second": f"{args.images / row['ours']:,.0f}"})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NETWORKS)
    parser.add_argument("--kind", choices=("png", "jpg"), default="png")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--workers", type=int, help="workers of predict.py; by default predict.py's choice")
    parser.add_argument("--runs", type=int, default=5, help="measured runs of each side")
    common.add_output(parser)
    args = parser.parse_args()
    quiet_lightning()
    numerics.keep_freed_memory()  # as predict.py does, like the next two lines, for all sides
    gc.freeze()
    atexit.register(gc.unfreeze)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "images"
        folder.mkdir()
        data = write_images(folder, args.kind, args.images)
        for network, overrides in NETWORKS.items():
            if args.only in (None, network):
                rows += compare(network, overrides, folder, data, args)
    common.table(f"Seconds for {args.images:,} {args.kind} files", rows, args)


if __name__ == "__main__":
    with hydra.initialize_config_dir(str(common.CONF), version_base="1.3"):
        main()
