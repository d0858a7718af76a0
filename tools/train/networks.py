"""The torch definitions of the networks that tools/train/train.py knows by name.

All of them take float images (N, C, H, W), normalized, and return logits (N, classes). Convolutions before a batch
norm have no bias, as everywhere in the papers that these networks come from. Head = global average pooling + linear, so
every network takes any image size that its strides divide.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn
from torch.nn import functional

VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)  # 0: max pooling
MOBILENET_V2 = (  # expansion, channels, blocks, stride; the stem and the second stage keep the 32x32 of CIFAR
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the image size at stride 1, and its batch norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class PaddedShortcut(nn.Module):  # type: ignore[misc, unused-ignore]
    """The parameter-free shortcut of CIFAR ResNets: every second pixel, new channels are zero."""

    def __init__(self, extra: int) -> None:
        """Adds `extra` channels, half of them in front."""
        super().__init__()
        self.extra = extra

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, C + extra, H/2, W/2)."""
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


class ResidualBlock(nn.Module):  # type: ignore[misc, unused-ignore]
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, projection: bool) -> None:
        """Two 3x3 convolutions; `projection` is a 1x1 convolution as the shortcut where shapes differ."""
        super().__init__()
        self.body = nn.Sequential(*conv_bn(inputs, outputs, 3, stride), nn.ReLU(), *conv_bn(outputs, outputs))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projected = nn.Sequential(*conv_bn(inputs, outputs, 1, stride))
            self.shortcut = projected if projection else PaddedShortcut(outputs - inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, outputs, H/stride, W/stride)."""
        return functional.relu(self.body(x) + self.shortcut(x))


def head(channels: int, classes: int) -> list[nn.Module]:
    """Global average pooling and the classifier."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def resnet(
    blocks: int, widths: Sequence[int] = (16, 32, 64), *, channels: int = 3, projection: bool = False
) -> nn.Sequential:
    """The CIFAR ResNet of He et al. (2016), section 4.2: depth 6·blocks + 2."""
    layers = [*conv_bn(channels, widths[0]), nn.ReLU()]
    inputs = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers.append(ResidualBlock(inputs, width, stride, projection=projection))
            inputs = width
    return nn.Sequential(*layers, *head(inputs, 10))


def vgg16(width: float = 1.0) -> nn.Sequential:
    """VGG-16 with batch norm and one linear layer, as pruning papers use it on CIFAR."""
    layers: list[nn.Module] = []
    inputs = 3
    for full in VGG16:
        if not full:
            layers.append(nn.MaxPool2d(2))
            continue
        outputs = int(full * width)
        layers += [*conv_bn(inputs, outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, *head(inputs, 10))


class InvertedResidual(nn.Module):  # type: ignore[misc, unused-ignore]
    """Expand, depthwise, project; the input is added where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        """`inputs` · `expansion` channels inside; at expansion 1 there is no expanding convolution."""
        super().__init__()
        inner = inputs * expansion
        expand = [*conv_bn(inputs, inner, 1), nn.ReLU6()] if expansion != 1 else []
        depthwise = [*conv_bn(inner, inner, 3, stride, inner), nn.ReLU6()]
        self.body = nn.Sequential(*expand, *depthwise, *conv_bn(inner, outputs, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, outputs, H/stride, W/stride)."""
        y: torch.Tensor = self.body(x)
        return x + y if self.residual else y


def mobilenet_v2(width: float = 1.0) -> nn.Sequential:
    """MobileNetV2 (Sandler et al., 2018) with CIFAR strides; channels are multiples of 8."""
    scaled = [max(8, int(full * width + 4) // 8 * 8) for full in (32, *(row[1] for row in MOBILENET_V2))]
    layers = [*conv_bn(3, scaled[0]), nn.ReLU6()]
    inputs = scaled[0]
    for (expansion, _, blocks, stride), outputs in zip(MOBILENET_V2, scaled[1:], strict=True):
        for block in range(blocks):
            layers.append(InvertedResidual(inputs, outputs, expansion, 1 if block else stride))
            inputs = outputs
    last = max(640, int(1280 * width))
    return nn.Sequential(*layers, *conv_bn(inputs, last, 1), nn.ReLU6(), *head(last, 10))


class DenseLayer(nn.Module):  # type: ignore[misc, unused-ignore]
    """concat(x, conv(relu(bn(x))))."""

    def __init__(self, inputs: int, growth: int) -> None:
        """Adds `growth` channels to `inputs`."""
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, C + growth, H, W)."""
        return torch.cat([x, self.conv(functional.relu(self.norm(x)))], 1)


def densenet(depth: int = 40, growth: int = 12, stem: int = 16) -> nn.Sequential:
    """DenseNet (Huang et al., 2017) for CIFAR without bottlenecks: three blocks of (depth − 4)/3 layers."""
    layers: list[nn.Module] = [nn.Conv2d(3, stem, 3, padding=1, bias=False)]
    channels = stem
    for block in range(3):
        if block:
            conv = nn.Conv2d(channels, channels, 1, bias=False)
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), conv, nn.AvgPool2d(2)]
        for _ in range((depth - 4) // 3):
            layers.append(DenseLayer(channels, growth))
            channels += growth
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), *head(channels, 10))


NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    "digits": partial(resnet, 2, (24, 48, 96), channels=1, projection=True),
    "resnet20": partial(resnet, 3),
    "resnet56": partial(resnet, 9),
    "vgg16": vgg16,
    "vgg16half": partial(vgg16, 0.5),
    "mobilenetv2": mobilenet_v2,
    "mobilenetv2half": partial(mobilenet_v2, 0.5),
    "densenet40": densenet,
    "densenet22": partial(densenet, 22),
}


def initialize(network: nn.Module) -> nn.Module:
    """He initialization of the convolutions (fan out); returns the network."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network
