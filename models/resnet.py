"""ResNet, ResNeXt and wide ResNet, for ImageNet and for CIFAR, as one class.

He et al. 2015, "Deep residual learning for image recognition" (ResNet; table 1 has the ImageNet depths,
section 4.2 the CIFAR form). Xie et al. 2017, "Aggregated residual transformations" (ResNeXt: ``groups``).
Zagoruyko & Komodakis 2016, "Wide residual networks" (``width_per_group``). Wu & He 2018, "Group normalization"
(``norm``). Goyal et al. 2017, "Accurate, large minibatch SGD", section 5.1 (``zero_init_residual``).

Parameter names are torchvision's, so that its published weights load as they are.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from math import gcd

import torch
from torch import Tensor, nn

# Blocks in each of the four stages of the ImageNet form (He et al. 2015, table 1).
IMAGENET_LAYERS = {
    "basic": {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)},
    "bottleneck": {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)},
}

# What `norm` may be: a function from the number of channels to the layer. All have a gain and a bias a channel.
NORMS = {
    "batch": nn.BatchNorm2d,  # over (N, H, W), one statistic a channel
    "layer": lambda channels: nn.GroupNorm(1, channels),  # over (C, H, W), one statistic an image
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),  # over (H, W)
    # Over (C/32, H, W); fewer groups where 32 would leave a group only one channel.
    "group": lambda channels: nn.GroupNorm(gcd(32, channels // 2), channels),
}


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, groups=groups, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions (He et al. 2015, figure 5 left): relu(x + F(x)), or relu(F(x)) without ``residual``."""

    expansion = 1

    def __init__(self, in_channels, planes, width, stride, groups, norm, downsample, residual):
        super().__init__()
        self.conv1 = conv3x3(in_channels, width, stride, groups)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(width, planes, groups=groups)
        self.bn2 = norm(planes)
        self.downsample = downsample
        self.residual = residual

    @property
    def last_norm(self) -> nn.Module:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.residual:
            out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1×1, (grouped) 3×3, 1×1 (He et al. 2015, figure 5 right; Xie et al. 2017, figure 3c).

    The stride is in the 3×3 convolution, as in torchvision ("v1.5"), not in the first as in the paper.
    """

    expansion = 4

    def __init__(self, in_channels, planes, width, stride, groups, norm, downsample, residual):
        super().__init__()
        self.conv1 = conv1x1(in_channels, width)
        self.bn1 = norm(width)
        self.conv2 = conv3x3(width, width, stride, groups)
        self.bn2 = norm(width)
        self.conv3 = conv1x1(width, planes * self.expansion)
        self.bn3 = norm(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.residual = residual

    @property
    def last_norm(self) -> nn.Module:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.residual:
            out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """A residual network with its experiments as switches.

    Args:
        depth: layers with weights. Four stages: 18, 34 (basic), 50, 101, 152 (bottleneck).
            Three stages: 6n+2 (basic) or 9n+2 (bottleneck).
        block: ``basic`` or ``bottleneck``; None takes the one that has this depth, basic if both have.
        groups: groups of a bottleneck's 3×3 convolution (ResNeXt's cardinality).
        width_per_group: channels of each group in a stage of 64 planes, in proportion elsewhere. None keeps the
            ungrouped block's width and splits it among the groups, which must then divide it.
        widths: planes of each stage; their number (4 or 3) is the number of stages.
        stem: ``imagenet`` (7×7 with stride 2, then 3×3 max-pooling with stride 2) or ``cifar`` (3×3, stride 1).
        norm: ``batch``, ``layer``, ``instance`` or ``group``.
        residual: False leaves out all shortcuts: He's plain network.
        zero_init_residual: start the last gain of each block at 0, so that the block starts as the identity.
        include_top: False leaves out pooling and classifier; the output is then the last feature map.
        in_channels: channels of the images.
        num_classes: length of the output.
        image_size: height and width that the network is meant for, in pixels; only checked.

    Where channels or size change, the shortcut is a 1×1 projection (He's option B), in the CIFAR form too.

    Raises:
        ValueError: a combination that means nothing, or images that are too small.
    """

    def __init__(
        self,
        depth: int = 50,
        block: str | None = None,
        groups: int = 1,
        width_per_group: int | None = None,
        widths: Sequence[int] = (64, 128, 256, 512),
        stem: str = "imagenet",
        norm: str = "batch",
        residual: bool = True,
        zero_init_residual: bool = False,
        include_top: bool = True,
        in_channels: int = 3,
        num_classes: int = 1000,
        image_size: int = 224,
    ):
        super().__init__()
        _check_choice("stem", stem, ("imagenet", "cifar"))
        _check_choice("norm", norm, NORMS)
        if zero_init_residual and not residual:
            raise ValueError("zero_init_residual=True needs residual=True: without shortcuts nothing would flow")
        block, layers = _blocks_per_stage(depth, block, len(widths))
        inner_widths = _inner_widths(block, widths, groups, width_per_group)
        _check_image_size(image_size, stem, len(widths), norm)

        norm_layer = NORMS[norm]
        self.in_channels, self.image_size = in_channels, image_size
        self.include_top = include_top
        self.channels = widths[0]  # of the map that the next block will see
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, widths[0], 7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = conv3x3(in_channels, widths[0])
        self.bn1 = norm_layer(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if stem == "imagenet" else nn.Identity()
        self.stages = [f"layer{i + 1}" for i in range(len(widths))]
        for i, name in enumerate(self.stages):
            stride = 1 if i == 0 else 2
            stage = self._stage(
                BLOCKS[block], layers[i], widths[i], inner_widths[i], stride, groups, norm_layer, residual
            )
            setattr(self, name, stage)
        self.num_features = self.channels
        if include_top:
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.fc = nn.Linear(self.num_features, num_classes)
        self._initialise(zero_init_residual)

    def _stage(self, block, blocks, planes, width, stride, groups, norm_layer, residual) -> nn.Sequential:
        out_channels = planes * block.expansion
        stage = []
        for i in range(blocks):
            stride = stride if i == 0 else 1
            downsample = None
            if residual and (stride != 1 or self.channels != out_channels):
                downsample = nn.Sequential(conv1x1(self.channels, out_channels, stride), norm_layer(out_channels))
            stage.append(block(self.channels, planes, width, stride, groups, norm_layer, downsample, residual))
            self.channels = out_channels
        return nn.Sequential(*stage)

    def _initialise(self, zero_init_residual: bool) -> None:
        """He et al. 2015, "Delving deep into rectifiers": normal, fan-out, gain for ReLU."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, BasicBlock | Bottleneck):
                    nn.init.zeros_(module.last_norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` float → logits ``(N, num_classes)``, or the last map without a top."""
        #                                            50 layers at 224 pixels: (N, C, 224, 224)
        x = self.relu(self.bn1(self.conv1(x)))  #                             (N, 64, 112, 112)
        x = self.maxpool(x)  #                                                (N, 64, 56, 56)
        for name in self.stages:
            x = getattr(self, name)(x)  #      (N, 256, 56, 56) … (N, 2048, 7, 7)
        if not self.include_top:
            return x
        x = torch.flatten(self.avgpool(x), 1)  #                              (N, 2048)
        return self.fc(x)


def _check_choice(name: str, value: str, options) -> None:
    if value not in options:
        near = get_close_matches(str(value), options, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{name}={value} is not one of {', '.join(options)}{hint}")


def _blocks_per_stage(depth: int, block: str | None, stages: int) -> tuple[str, Sequence[int]]:
    """The block's name and the number of blocks in each stage, for a depth."""
    if block is not None:
        _check_choice("block", block, BLOCKS)
    candidates = BLOCKS if block is None else (block,)
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
    known = {d: name for name, layers in depths.items() for d in layers}
    nearest = sorted(known, key=lambda d: (abs(d - depth), d))[:2]
    form = "four-stage" if stages == 4 else "three-stage"
    kind = f" of {block} blocks" if block else ""
    raise ValueError(
        f"depth={depth} is no {form} ResNet{kind}; the nearest that are: {' and '.join(map(str, sorted(nearest)))}"
    )


def _inner_widths(block: str, widths: Sequence[int], groups: int, width_per_group: int | None) -> list[int]:
    """Channels of the 3×3 convolution in each stage's blocks."""
    if block == "basic":
        if groups != 1 or width_per_group not in (None, 64):
            what = f"groups={groups}" if groups != 1 else f"width_per_group={width_per_group}"
            raise ValueError(
                f"{what} needs bottleneck blocks (depth 50, 101, 152, or block=bottleneck where the depth allows); "
                "a basic block has groups=1 and width_per_group=64"
            )
        return list(widths)
    if groups < 1:
        raise ValueError(f"groups={groups} is not a number of groups; the nearest that works is 1")
    if width_per_group is None:
        common = gcd(*widths)
        if common % groups:
            divisors = [d for d in range(1, common + 1) if common % d == 0]
            nearest = sorted(sorted(divisors, key=lambda d: abs(d - groups))[:2])
            raise ValueError(
                f"groups={groups} does not divide the width {common}; the nearest that do: "
                f"{' and '.join(map(str, nearest))} (or set width_per_group)"
            )
        return list(widths)
    if width_per_group < 1 or any(planes * width_per_group % 64 for planes in widths):
        unit = 64 // gcd(64, *widths)  # the smallest step that gives whole channels in every stage
        nearest = max(unit, round(width_per_group / unit) * unit)
        raise ValueError(
            f"width_per_group={width_per_group} gives no whole number of channels for stages of "
            f"{', '.join(map(str, widths))} planes; the nearest that does is {nearest}"
        )
    return [planes * width_per_group // 64 * groups for planes in widths]


def _check_image_size(image_size: int, stem: str, stages: int, norm: str) -> None:
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
