"""ImageNet architectures with random weights, for measuring cost: ResNets with 1000 classes and VGG-19.

They are the shapes of He et al. (2016) and of Simonyan and Zisserman (2015), layer for layer, so their files weigh what
the trained ones do, and nothing has to be downloaded.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from tools.train.networks import conv_bn, head, initialize

VGG19 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512, 0)


class Bottleneck(nn.Module):  # type: ignore[misc, unused-ignore]
    """1x1 down, 3x3, 1x1 up by four, and a projected shortcut where shapes differ."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        """`width` channels inside, four times as many out."""
        super().__init__()
        outputs = 4 * width
        inner = [*conv_bn(inputs, width, 1), nn.ReLU(), *conv_bn(width, width, 3, stride), nn.ReLU()]
        self.body = nn.Sequential(*inner, *conv_bn(width, outputs, 1))
        differs = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(*conv_bn(inputs, outputs, 1, stride)) if differs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, 4·width, H/stride, W/stride)."""
        return functional.relu(self.body(x) + self.shortcut(x))


class Basic(nn.Module):  # type: ignore[misc, unused-ignore]
    """Two 3x3, and a projected shortcut where shapes differ."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        """`width` channels out."""
        super().__init__()
        self.body = nn.Sequential(*conv_bn(inputs, width, 3, stride), nn.ReLU(), *conv_bn(width, width))
        differs = stride != 1 or inputs != width
        self.shortcut = nn.Sequential(*conv_bn(inputs, width, 1, stride)) if differs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, width, H/stride, W/stride)."""
        return functional.relu(self.body(x) + self.shortcut(x))


def resnet(blocks: tuple[int, ...], *, bottleneck: bool) -> nn.Sequential:
    """The ImageNet ResNet with these numbers of blocks in its four stages."""
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    layers: list[nn.Module] = list(stem)
    inputs = 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            layers.append(Bottleneck(inputs, width, stride) if bottleneck else Basic(inputs, width, stride))
            inputs = 4 * width if bottleneck else width
    return nn.Sequential(*layers, *head(inputs, 1000))


def vgg19() -> nn.Sequential:
    """VGG-19 without batch norm: 143.7 M parameters, most of them in its first dense layer."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs in VGG19:
        if not outputs:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        inputs = outputs
    dense = [nn.Flatten(), nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU()]
    return nn.Sequential(*layers, *dense, nn.Linear(4096, 1000))


IMAGENET: dict[str, Callable[[], nn.Sequential]] = {
    "resnet18": partial(resnet, (2, 2, 2, 2), bottleneck=False),
    "resnet34": partial(resnet, (3, 4, 6, 3), bottleneck=False),
    "resnet50": partial(resnet, (3, 4, 6, 3), bottleneck=True),
    "resnet101": partial(resnet, (3, 4, 23, 3), bottleneck=True),
    "vgg19": vgg19,
}


def settled(name: str, seed: int = 0, images: int = 2) -> nn.Module:
    """The network with random weights and with batch norm statistics that fit them, so that no value explodes."""
    torch.manual_seed(seed)
    network = initialize(IMAGENET[name]())
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    if norms:
        with torch.no_grad():
            network.train()(torch.randn(images, 3, 224, 224))
    return network.eval()
