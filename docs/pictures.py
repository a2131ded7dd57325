"""Measure the gradient norms of new networks into docs/records/gradients.json; and the two plots that no sweep has.

python docs/pictures.py                 then python docs/make.py draws them
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # it is a script in a folder of its own

from datamodules import FashionMNIST  # noqa: E402
from models import ResNet  # noqa: E402
from results.pictures import new_figure  # noqa: E402
from results.record import write_json  # noqa: E402

IMAGES = 256
SEEDS = (0, 1, 2)
DEPTHS = (8, 20, 56)
# Which of 3 images and 6 channels share a mean and a variance, by their indices.
NORMS = {
    "batch: over (N, H, W)": lambda n, c: c == 0,
    "layer: over (C, H, W)": lambda n, c: n == 0,
    "instance: over (H, W)": lambda n, c: (n == 0) & (c == 0),
    "group: over (C/2, H, W)": lambda n, c: (n == 0) & (c < 3),
}


def main() -> None:
    kinds = ("residual", "plain")
    found = {f"{kind} {depth}": gradients(depth, kind == "residual") for depth in DEPTHS for kind in kinds}
    facts = {"device": "cpu", "images": IMAGES, "seeds": list(SEEDS), "versions": {"torch": torch.__version__}}
    write_json(ROOT / "docs" / "records" / "gradients.json", {**facts, "gradient_norms": found})


def gradients(depth: int, residual: bool) -> list[float]:
    """The norm of the loss's gradient in each 3×3 convolution of a new network, first to last; the seeds' mean."""
    data = FashionMNIST(10, 1, 28)
    training = data.load("train")
    images, labels = data.normalize(training.images[:IMAGES]), training.all_labels[:IMAGES]
    norms = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        form = {"widths": (16, 32, 64), "stem": "cifar", "in_channels": 1, "num_classes": 10, "image_size": 28}
        network = ResNet(depth, residual=residual, **form)
        F.cross_entropy(network(images), labels).backward()
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        norms.append([layer.weight.grad.norm().item() for layer in layers])
    return torch.tensor(norms).mean(0).tolist()


def gradients_figure(found: dict[str, list[float]]) -> Figure:
    """The gradient norms of each network over its layers."""
    figure = new_figure(7, 3.6)
    axes = figure.subplots()
    for (name, norms), colour in zip(found.items(), np.repeat(["#009E73", "#0072B2", "#D55E00"], 2), strict=True):
        style = "-" if name.startswith("residual") else "--"
        axes.semilogy(np.linspace(0, 1, len(norms)), norms, style, color=colour, label=name)
    axes.set(xlabel="place of the convolution, from the first (0) to the last (1)", ylabel="norm of its gradient")
    axes.legend(ncols=3, fontsize=8)
    return figure


def axes_figure() -> Figure:
    """Batch, layer, instance and group norm as coloured boxes of (N, C, H·W) (after Wu & He 2018, figure 2)."""
    images, channels, places = 3, 6, 4
    n, c, _ = np.indices((images, channels, places))
    figure = new_figure(11, 3.2)
    panels = figure.subplots(1, 4, subplot_kw={"projection": "3d"})
    for axes, (title, shared) in zip(panels, NORMS.items(), strict=True):
        colours = np.where(shared(n, c), "#D55E00", "#F2F2F2")
        # drawn with C to the right, N to the back and H·W upwards
        axes.voxels(np.ones((channels, images, places), bool), facecolors=colours.transpose(1, 0, 2), edgecolor="0.5")
        axes.set(xticks=[], yticks=[], zticks=[], aspect="equal")
        axes.set_title(title, y=0.9)
        axes.view_init(25, -60)
    figure.supxlabel(
        "C to the right, N to the back, H·W upwards; what is coloured shares a mean and a variance", fontsize=9
    )
    return figure


if __name__ == "__main__":
    main()
