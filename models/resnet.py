"""ResNet, ResNeXt and wide ResNet, for ImageNet and for CIFAR, as one class.

He et al. 2015, "Deep residual learning for image recognition" (ResNet; table 1 has the ImageNet depths,
section 4.2 the CIFAR form). Xie et al. 2017, "Aggregated residual transformations" (ResNeXt: ``groups``).
Zagoruyko & Komodakis 2016, "Wide residual networks" (``width_per_group``). Wu & He 2018, "Group normalization"
(``norm``). Goyal et al. 2017, "Accurate, large minibatch SGD", section 5.1 (``zero_init_residual``).

Parameter names are those of torchvision, whose published weights load unchanged.
"""

from collections.abc import Sequence
from math import gcd

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from models.pretrained import load_weights, published_or_none
from models.resnet_config import published_name, resnet_form

# Name → function from the number of channels to a norm layer. The layer needs a ``weight`` and a ``bias`` of shape
# (channels,): they get no weight decay, and ``zero_init_residual`` sets the weight of a block's last norm to 0.
# ``resnet_config.NORM_NAMES`` repeats the names.
NORMS = {
    "batch": nn.BatchNorm2d,  # over (N, H, W), one statistic per channel
    "layer": lambda channels: nn.GroupNorm(1, channels),  # over (C, H, W), one statistic per image
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),  # over (H, W)
    # Over (C/32, H, W); fewer groups if 32 would leave only one channel per group.
    "group": lambda channels: nn.GroupNorm(gcd(32, max(1, channels // 2)), channels),
}


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, groups=groups, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


class Block(nn.Module):
    """The unit of a stage: relu(x + F(x)), or relu(F(x)) without ``residual``.

    With ``drop_path``, F(x) is dropped for a random part of the training images.
    """

    def __init__(self):
        super().__init__()
        self.drop_path: nn.Module | None = None

    def branch(self, x: Tensor) -> Tensor:
        """F(x), before the addition."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        if self.drop_path is not None:
            out = self.drop_path(out)
        if self.residual:
            out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class BasicBlock(Block):
    """Two 3×3 convolutions (He et al. 2015, figure 5 left)."""

    expansion = 1
    last_norm = "bn2"

    def __init__(self, in_channels, planes, width, stride, groups, norm, downsample, residual):
        super().__init__()
        self.conv1 = conv3x3(in_channels, width, stride, groups)
        self.bn1 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(width, planes, groups=groups)
        self.bn2 = norm(planes)
        self.downsample = downsample
        self.residual = residual

    def branch(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(x))


class Bottleneck(Block):
    """1×1, (grouped) 3×3, 1×1 (He et al. 2015, figure 5 right; Xie et al. 2017, figure 3c).

    The stride is in the 3×3 convolution, as in torchvision ("v1.5"), not in the first as in the paper.
    """

    expansion = 4
    last_norm = "bn3"

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

    def branch(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """A residual network with a switch for each experiment.

    Args:
        depth: layers with weights. Four stages: 18, 34 (basic), 50, 101, 152 (bottleneck).
            Three stages: 6n+2 (basic) or 9n+2 (bottleneck).
        block: ``basic`` or ``bottleneck``; None chooses the one with this depth, or basic if both have it.
        groups: groups of a bottleneck's 3×3 convolution (ResNeXt's cardinality).
        width_per_group: channels of each group in a stage of 64 planes; other stages in proportion. None keeps the
            width of the ungrouped block and divides it among the groups. ``matched`` chooses the width at which the
            block costs the same as the ungrouped one.
        widths: planes of each of 4 or 3 stages.
        stem: ``imagenet`` (7×7 with stride 2, then 3×3 max-pooling with stride 2) or ``cifar`` (3×3, stride 1).
        norm: ``batch``, ``layer``, ``instance`` or ``group``.
        residual: False removes all shortcuts, which gives He's plain network.
        zero_init_residual: start the weight of each block's last norm at 0, so that blocks start as the identity.
        drop_path: the probability to drop the last block's branch for a training image (stochastic depth, Huang
            et al. 2016); it rises linearly from the first block. Kept branches are scaled up accordingly.
        include_top: False removes pooling and classifier; the output is then the last feature map.
        in_channels: channels of the images.
        num_classes: number of outputs.
        image_size: intended height and width in pixels; only checked.
        weights: initial weights: a file, or ``DEFAULT``, torchvision's for this network; see ``load_weights``.
            ``auto``: torchvision's if available, otherwise random.

    Where channels or size change, the shortcut is a 1×1 projection (He's option B), in the CIFAR form too.

    Raises:
        ValueError: an invalid combination, or images that are too small.
    """

    def __init__(
        self,
        depth: int = 50,
        block: str | None = None,
        groups: int = 1,
        width_per_group: int | str | None = None,
        widths: Sequence[int] = (64, 128, 256, 512),
        stem: str = "imagenet",
        norm: str = "batch",
        residual: bool = True,
        zero_init_residual: bool = False,
        drop_path: float = 0.0,
        include_top: bool = True,
        in_channels: int = 3,
        num_classes: int = 1000,
        image_size: int = 224,
        weights: str | None = None,
    ):
        super().__init__()
        shape, switches = (depth, block, groups, width_per_group, widths), (stem, norm, residual)
        block, layers, inner = resnet_form(*shape, *switches, zero_init_residual, drop_path, image_size, weights)
        norm_layer, self.include_top = NORMS[norm], include_top
        self.channels = widths[0]  # of the next block's input
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
            stage = self._stage(BLOCKS[block], layers[i], widths[i], inner[i], stride, groups, norm_layer, residual)
            setattr(self, name, stage)
        self.num_features = self.channels
        if include_top:
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.fc = nn.Linear(self.num_features, num_classes)
        self._initialise(zero_init_residual)
        self._set_drop_path(drop_path)
        self._load(weights, published_name(depth, groups, inner, stem, norm, residual))

    def _load(self, weights: str | None, published: str | None) -> None:
        """Load initial ``weights``; ``published`` is torchvision's name of this network."""
        self.weights = published_or_none(published) if weights == "auto" else weights
        self.published = None if self.weights else published  # for a hint, if not loaded
        if self.weights:
            load_weights(self, self.weights, published)

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

    def _set_drop_path(self, drop_path: float) -> None:
        blocks = [module for module in self.modules() if isinstance(module, Block)]
        for number, block in enumerate(blocks if drop_path else (), 1):
            block.drop_path = StochasticDepth(drop_path * number / len(blocks), "row")

    def _initialise(self, zero_init_residual: bool) -> None:
        """He et al. 2015, "Delving deep into rectifiers": normal, fan-out, gain for ReLU."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, Block):
                    nn.init.zeros_(getattr(module, module.last_norm).weight)

    @property
    def head(self) -> nn.Linear | None:
        """The classifier: the last layer, with the features as input; None without a top."""
        return self.fc if self.include_top else None

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
