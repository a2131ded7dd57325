"""The form of a ResNet: blocks of each stage, channels of each block, and what does not go together.

Plain arithmetic on the constructor's arguments; the networks themselves are in ``resnet.py``.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from math import gcd

# Blocks in each of the four stages of the ImageNet form (He et al. 2015, table 1).
IMAGENET_LAYERS = {
    "basic": {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)},
    "bottleneck": {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)},
}


def check_choice(name: str, value: str, options) -> None:
    """Refuse a name that is not among the options."""
    if value not in options:
        near = get_close_matches(str(value), options, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{name}={value} is not one of {', '.join(options)}{hint}")


def _nearest(value: int, options) -> str:
    """The two options nearest to a value, in words."""
    return " and ".join(map(str, sorted(sorted(options, key=lambda option: abs(option - value))[:2])))


def blocks_per_stage(depth: int, block: str | None, stages: int) -> tuple[str, Sequence[int]]:
    """The block's name and the number of blocks in each stage, for a depth."""
    if block is not None:
        check_choice("block", block, IMAGENET_LAYERS)
    candidates = IMAGENET_LAYERS if block is None else (block,)
    if stages == 4:
        depths = {name: IMAGENET_LAYERS[name] for name in candidates}
    elif stages == 3:  # two or three convolutions a block, n blocks a stage, the stem and the classifier
        step = {"basic": 6, "bottleneck": 9}
        longest = max(int(depth), 2) + 18
        depths = {
            name: {step[name] * n + 2: (n,) * 3 for n in range(1, longest // step[name] + 1)} for name in candidates
        }
    else:
        raise ValueError(f"widths has {stages} entries; ResNet has 4 stages (ImageNet) or 3 (CIFAR)")
    for name, layers in depths.items():
        if depth in layers:
            return name, layers[depth]
    near = _nearest(depth, {d for layers in depths.values() for d in layers})
    form = "four-stage" if stages == 4 else "three-stage"
    kind = f" of {block} blocks" if block else ""
    raise ValueError(f"depth={depth} is no {form} ResNet{kind}; the nearest that are: {near}")


def inner_widths(block: str, widths: Sequence[int], groups: int, width_per_group: int | None) -> list[int]:
    """Channels of the 3×3 convolution in each stage's blocks."""
    if min(widths) < 1:
        raise ValueError(f"widths={list(widths)} are not numbers of channels; expected at least 1 in each stage")
    common = gcd(*widths)
    if block == "basic":
        if groups != 1 or width_per_group not in (None, 64):
            what = f"groups={groups}" if groups != 1 else f"width_per_group={width_per_group}"
            raise ValueError(
                f"{what} needs bottleneck blocks (depth 50, 101, 152, or block=bottleneck where the depth allows); "
                "a basic block has groups=1 and width_per_group=64"
            )
    elif width_per_group is None:
        if groups < 1 or common % groups:
            near = _nearest(groups, [d for d in range(1, common + 1) if common % d == 0])
            raise ValueError(
                f"groups={groups} does not divide the width {common}; the nearest that do: {near} "
                "(or set width_per_group)"
            )
    elif groups < 1 or width_per_group < 1 or common * width_per_group % 64:
        unit = 64 // gcd(64, common)  # the smallest width of a group that gives whole channels in every stage
        near = max(unit, round(width_per_group / unit) * unit)
        raise ValueError(
            f"groups={groups} of width_per_group={width_per_group} give no whole number of channels for stages of "
            f"{', '.join(map(str, widths))} planes; the nearest that do are groups={max(1, groups)} of {near}"
        )
    else:
        return [planes * width_per_group // 64 * groups for planes in widths]
    return list(widths)


def check_image_size(image_size: int, stem: str, stages: int, norm: str) -> None:
    """The last stage must see more than one pixel; instance norm must also leave more than one."""
    stride = (4 if stem == "imagenet" else 1) * 2 ** (stages - 2)
    if norm == "instance":
        stride *= 2
    if image_size <= stride:
        why = " with instance norm" if norm == "instance" else ""
        cifar = "" if stem == "cifar" else ", or use stem=cifar"
        raise ValueError(
            f"image_size={image_size} is too small for {stages} stages and the {stem} stem{why}; "
            f"the smallest that works is {stride + 1}{cifar}"
        )
