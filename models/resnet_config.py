"""Arithmetic on the arguments of a network: blocks per stage, channels per block, and invalid combinations.

Without torch, so that invalid combinations in a sweep are found before torch is imported. The networks are in
``lenet.py`` and ``resnet.py``.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from math import gcd
from pathlib import Path

# Blocks in each of the four stages of the ImageNet form (He et al. 2015, table 1).
IMAGENET_LAYERS = {
    "basic": {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)},
    "bottleneck": {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)},
}


NORM_NAMES = ("batch", "layer", "instance", "group")  # keys of models.resnet.NORMS, for checks without torch

# torchvision's published weights: depth, groups and width per group of the network, and number of versions.
PUBLISHED = {
    "resnet18": (18, 1, 64, 1),
    "resnet34": (34, 1, 64, 1),
    "resnet50": (50, 1, 64, 2),
    "resnet101": (101, 1, 64, 2),
    "resnet152": (152, 1, 64, 2),
    "resnext50_32x4d": (50, 32, 4, 2),
    "resnext101_32x8d": (101, 32, 8, 2),
    "resnext101_64x4d": (101, 64, 4, 1),
    "wide_resnet50_2": (50, 1, 128, 2),
    "wide_resnet101_2": (101, 1, 128, 2),
}
VERSIONS = ("DEFAULT", "IMAGENET1K_V1", "IMAGENET1K_V2")


def lenet_form(image_size: int) -> int:
    """The side in pixels of the feature map after LeNet's second pooling."""
    map_size = ((image_size - 4) // 2 - 4) // 2
    if map_size < 1:
        raise ValueError(f"image_size={image_size} is too small for LeNet; the smallest that works is 16")
    return map_size


def resnet_form(
    depth: int,
    block: str | None,
    groups: int,
    width_per_group: int | str | None,
    widths: Sequence[int],
    stem: str,
    norm: str,
    residual: bool,
    zero_init_residual: bool,
    drop_path: float,
    image_size: int,
    weights: str | None = None,
) -> tuple[str, Sequence[int], list[int]]:
    """(name of the block, number of blocks in each stage, channels of their 3×3 convolutions).

    Raises:
        ValueError: an invalid combination, images that are too small, or weights that do not exist.
    """
    check_choice("stem", stem, ("imagenet", "cifar"))
    check_choice("norm", norm, NORM_NAMES)
    if zero_init_residual and not residual:
        raise ValueError("zero_init_residual=True needs residual=True: without shortcuts nothing would flow")
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path={drop_path}; expected a probability from 0 to below 1, such as 0.1")
    if drop_path and not residual:
        raise ValueError(f"drop_path={drop_path} needs residual=True: without shortcuts nothing would flow")
    block, layers = blocks_per_stage(depth, block, len(widths))
    inner = inner_widths(block, widths, groups, width_per_group)
    check_image_size(image_size, stem, len(widths), norm)
    check_weights(weights, published_name(depth, groups, inner, stem, norm, residual))
    return block, layers, inner


# Class → the function that checks the arguments.
CHECKS = {"models.LeNet": lenet_form, "models.ResNet": resnet_form}


def check_choice(name: str, value: str, options) -> None:
    """Raise a ValueError for a name that is not among the options."""
    if value not in options:
        near = get_close_matches(str(value), options, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{name}={value} is not one of {', '.join(options)}{hint}")


def _nearest(value: int, options) -> str:
    """The two options nearest to a value, for a message."""
    return " and ".join(map(str, sorted(sorted(options, key=lambda option: abs(option - value))[:2])))


def blocks_per_stage(depth: int, block: str | None, stages: int) -> tuple[str, Sequence[int]]:
    """The block's name and the number of blocks in each stage, for a depth."""
    if block is not None:
        check_choice("block", block, IMAGENET_LAYERS)
    candidates = IMAGENET_LAYERS if block is None else (block,)
    if stages == 4:
        depths = {name: IMAGENET_LAYERS[name] for name in candidates}
    elif stages == 3:  # two or three convolutions per block, n blocks per stage, stem and classifier
        depths = {}
        for name in candidates:
            step = {"basic": 6, "bottleneck": 9}[name]
            near = max(1, (int(depth) - 2) // step)
            depths[name] = {step * n + 2: (n,) * 3 for n in range(max(1, near - 1), near + 3)}
    else:
        raise ValueError(f"widths has {stages} entries; ResNet has 4 stages (ImageNet) or 3 (CIFAR)")
    for name, layers in depths.items():
        if depth in layers:
            return name, layers[depth]
    near = _nearest(depth, {d for layers in depths.values() for d in layers})
    form = "four-stage" if stages == 4 else "three-stage"
    kind = f" of {block} blocks" if block else ""
    raise ValueError(f"depth={depth} is not valid for a {form} ResNet{kind}; nearest: {near}")


def inner_widths(block: str, widths: Sequence[int], groups: int, width_per_group: int | str | None) -> list[int]:
    """Channels of the 3×3 convolution in each stage's blocks."""
    if not all(isinstance(width, int) and width > 0 for width in widths):
        raise ValueError(f"widths={list(widths)}; expected whole numbers of channels, at least 1 in each stage")
    if isinstance(width_per_group, str):
        check_choice("width_per_group", width_per_group, ("matched",))
    common = gcd(*widths)
    if block == "basic":
        if groups != 1 or width_per_group not in (None, 64, "matched"):
            setting = f"groups={groups}" if groups != 1 else f"width_per_group={width_per_group}"
            depths = "depth 50, 101, 152, or block=bottleneck where the depth allows"
            if len(widths) == 3:
                depths = "block=bottleneck and a depth of 9n+2, such as 20 or 29"
            raise ValueError(
                f"{setting} needs bottleneck blocks ({depths}); a basic block has groups=1 and width_per_group=64"
            )
    elif width_per_group is None:
        if groups < 1 or common % groups:
            near = _nearest(groups, [d for d in range(1, common + 1) if common % d == 0])
            raise ValueError(
                f"groups={groups} does not divide the width {common}; nearest: {near} (or set width_per_group)"
            )
    elif width_per_group == "matched":
        return inner_widths(block, widths, groups, matched_width(widths, groups))
    elif groups < 1 or width_per_group < 1 or common * width_per_group % 64:
        unit = 64 // gcd(64, common)  # the smallest width of a group that gives whole channels in every stage
        near = max(unit, round(width_per_group / unit) * unit)
        raise ValueError(
            f"groups={groups} of width_per_group={width_per_group} do not give whole channels for stages of "
            f"{', '.join(map(str, widths))} planes; nearest: groups={max(1, groups)} of {near}"
        )
    else:
        return [planes * width_per_group // 64 * groups for planes in widths]
    return list(widths)


def matched_width(widths: Sequence[int], groups: int) -> int:
    """The ``width_per_group`` at which a bottleneck with ``groups`` costs the same as the ungrouped one.

    Among widths that give whole channels, the one with the nearest number of weights and multiplications per block
    (Xie et al. 2017, equation 4; table 2: 1×64d, 2×40d, 4×24d, 8×14d, 32×4d).

    Raises:
        ValueError: the nearest cost differs by more than a tenth.
    """
    if groups < 1:
        raise ValueError(f"groups={groups}; expected at least 1")

    def cost(groups: int, width: int) -> int:  # two 1×1 convolutions from and to 256 channels, one 3×3
        return groups * width * (2 * 256 + 9 * width)

    unit = 64 // gcd(64, gcd(*widths))
    width = min(range(unit, 64 + unit, unit), key=lambda width: abs(cost(groups, width) - cost(1, 64)))
    share = cost(groups, width) / cost(1, 64)
    if abs(share - 1) > 0.1:
        raise ValueError(
            f"width_per_group=matched: with groups={groups} and widths={list(widths)} the nearest, {width}, costs "
            f"{share:.2f} of the ungrouped block; expected 0.9 to 1.1 (wider stages, or fewer groups, come nearer)"
        )
    return width


def check_image_size(image_size: int, stem: str, stages: int, norm: str) -> None:
    """Raise a ValueError if the last stage gets only one pixel, or outputs only one with instance norm."""
    stride = (4 if stem == "imagenet" else 1) * 2 ** (stages - 2)
    if norm == "instance":
        stride *= 2
    if image_size <= stride:
        with_norm = " with instance norm" if norm == "instance" else ""
        cifar = "" if stem == "cifar" else ", or use stem=cifar"
        raise ValueError(
            f"image_size={image_size} is too small for {stages} stages and the {stem} stem{with_norm}; "
            f"the smallest that works is {stride + 1}{cifar}"
        )


def published_name(depth: int, groups: int, inner: Sequence[int], stem: str, norm: str, residual: bool) -> str | None:
    """torchvision's name of a network with published weights; None for any other network."""
    for name, (published_depth, published_groups, width, _) in PUBLISHED.items():
        published_inner = [planes * width * published_groups // 64 for planes in (64, 128, 256, 512)]
        if (depth, groups, list(inner)) == (published_depth, published_groups, published_inner):
            return name if (stem, norm, residual) == ("imagenet", "batch", True) else None
    return None


def check_weights(weights: str | None, published: str | None) -> None:
    """Raise a ValueError for weights that are neither a file nor published under torchvision's name ``published``."""
    if weights in (None, "auto") or Path(weights).expanduser().is_file():
        return
    versions = VERSIONS[: 1 + PUBLISHED[published][3]] if published else ()
    if weights in versions:
        return
    if weights in VERSIONS:
        available = f"{published} has {', '.join(versions)}" if published else f"only for {', '.join(PUBLISHED)}"
        raise ValueError(f"weights={weights}: torchvision publishes none for this network; {available}")
    file = Path(weights).expanduser()
    if file.is_dir():
        raise ValueError(f"weights={weights} is a folder; expected a file such as {file}/checkpoints/best.ckpt")
    files = [str(path) for path in file.parent.glob("*") if path.is_file()] if file.parent.is_dir() else []
    near = get_close_matches(str(file), files, n=1) or get_close_matches(weights, versions, n=1)
    hint = (
        f"; did you mean {near[0]}?"
        if near
        else f"; expected a file{' or one of ' if versions else ''}{', '.join(versions)}"
    )
    raise ValueError(f"weights={weights}: no such file{hint}")
