"""ResNets (He et al. 2016a) and the wide ones for ImageNet (Zagoruyko and Komodakis 2016), with stems to choose from.

ResNet-18 and -34 begin as PyTorch initialises them, like the CIFAR networks of the published programs (HAT, ST, LBGAT).
The deeper ones are HE's for ImageNet: torchvision's form (the stride is in the 3x3 convolution of a bottleneck, not in
its first 1x1), and :func:`training.models.initialisation.he_normal`.

Every network maps images [N, C, H, W] in [0, 1] to logits [N, K]. ``width`` is that of the first stage, 64 in the
papers. Numbers of parameters are for 3 channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from training.models.initialisation import he_normal
from training.models.network import MODELS, Activation, Inputs, Network, Normalize, Width, activate, conv3x3
from training.models.stems import Stem, check_size, stem_layers


@MODELS.register("resnet18", source="He et al. 2016a, Table 1")
def resnet18(
    inputs: Inputs,
    *,
    width: Width = 64,
    activation: Activation = "relu",
    normalize: Normalize = "data",
    stem: Stem = "cifar",
) -> Network:
    """ResNet-18: 8 basic blocks, features of 512; 11,173,962 parameters with stem cifar and 10 classes."""
    return _resnet(inputs, Stages((2, 2, 2, 2)), width, activation, normalize, stem)


@MODELS.register("resnet34", source="He et al. 2016a, Table 1")
def resnet34(
    inputs: Inputs,
    *,
    width: Width = 64,
    activation: Activation = "relu",
    normalize: Normalize = "data",
    stem: Stem = "cifar",
) -> Network:
    """ResNet-34: 16 basic blocks, features of 512; 21,282,122 parameters with stem cifar and 10 classes."""
    return _resnet(inputs, Stages((3, 4, 6, 3)), width, activation, normalize, stem)


@MODELS.register("resnet50", source="He et al. 2016a, Table 1; ImageNet in Pang et al. 2020 (HE), Table 4")
def resnet50(
    inputs: Inputs,
    *,
    width: Width = 64,
    activation: Activation = "relu",
    normalize: Normalize = "data",
    stem: Stem = "imagenet",
) -> Network:
    """ResNet-50: 16 bottlenecks, features of 2048; 25,557,032 parameters with 1000 classes."""
    return he_normal(_resnet(inputs, Stages((3, 4, 6, 3), inner=1), width, activation, normalize, stem))


@MODELS.register("resnet152", source="He et al. 2016a, Table 1; ImageNet in Pang et al. 2020 (HE), Table 4")
def resnet152(
    inputs: Inputs,
    *,
    width: Width = 64,
    activation: Activation = "relu",
    normalize: Normalize = "data",
    stem: Stem = "imagenet",
) -> Network:
    """ResNet-152: 50 bottlenecks, features of 2048; 60,192,808 parameters with 1000 classes."""
    return he_normal(_resnet(inputs, Stages((3, 8, 36, 3), inner=1), width, activation, normalize, stem))


@MODELS.register(
    "wrn-50-2", source="Zagoruyko and Komodakis 2016, Sec. 3; ImageNet in Pang et al. 2020 (HE), Table 4"
)
def wrn_50_2(
    inputs: Inputs,
    *,
    width: Width = 64,
    activation: Activation = "relu",
    normalize: Normalize = "data",
    stem: Stem = "imagenet",
) -> Network:
    """Wide ResNet-50-2: ResNet-50, bottlenecks twice as wide inside; 68,883,240 parameters with 1000 classes."""
    return he_normal(_resnet(inputs, Stages((3, 4, 6, 3), inner=2), width, activation, normalize, stem))


@MODELS.register(
    "wrn-101-2", source="Zagoruyko and Komodakis 2016, Sec. 3; ImageNet in Pang et al. 2020 (HE), Table 4"
)
def wrn_101_2(
    inputs: Inputs,
    *,
    width: Width = 64,
    activation: Activation = "relu",
    normalize: Normalize = "data",
    stem: Stem = "imagenet",
) -> Network:
    """Wide ResNet-101-2: 33 bottlenecks, twice as wide inside; 126,886,696 parameters with 1000 classes."""
    return he_normal(_resnet(inputs, Stages((3, 4, 23, 3), inner=2), width, activation, normalize, stem))


@MODELS.register(
    "lbgat-resnet18", source="Cui et al. 2021 (LBGAT): the natural network of the published program"
)
def lbgat_resnet18(
    inputs: Inputs,
    *,
    width: Width = 64,
    activation: Activation = "relu",
    normalize: Normalize = "data",
    stem: Stem = "cifar",
) -> Network:
    """ResNet-18 whose second stage keeps the size, as LBGAT's natural network; as many parameters as resnet18.

    The paper (Sec. 4) says ResNet-18 and no more. In the published program the stages have strides 1, 1, 2, 2, so that
    32x32 pixels end as 8x8 positions, and an 8x8 average pooling makes one of them: features [N, 512], but every stage
    from the second on works on four times as many positions as in ResNet-18. Pooling over all positions, as here, is
    the same for 32x32 pixels; the program takes no others.
    """
    return _resnet(inputs, Stages((2, 2, 2, 2), strides=(1, 1, 2, 2)), width, activation, normalize, stem)


@dataclass(frozen=True)
class Stages:
    """Stages of residual blocks, each twice as wide as the one before.

    Args:
        blocks: how many in each stage.
        strides: of the first block of each stage; the others have 1.
        inner: 0 for basic blocks; for bottlenecks, the channels of their 3x3 convolution in units of the stage's width
            (their output has 4 of these units).
    """

    blocks: tuple[int, ...]
    strides: tuple[int, ...] = (1, 2, 2, 2)
    inner: int = 0


def _resnet(
    inputs: Inputs, stages: Stages, width: int, activation: Activation, normalize: Normalize, stem: Stem
) -> Network:
    """Stem, stages of blocks, average over all positions; ``width`` is that of the stem and the first stage."""
    check_size(inputs, stem, stages.strides)
    layers = stem_layers(stem, inputs.shape[0], width, activation)
    of = width
    for stage, (count, stride) in enumerate(zip(stages.blocks, stages.strides, strict=True)):
        unit = width * 2**stage
        to = 4 * unit if stages.inner else unit
        for block in range(count):
            step = stride if block == 0 else 1
            if stages.inner:
                layers.append(Bottleneck(of, stages.inner * unit, to, step, activation))
            else:
                layers.append(BasicBlock(of, to, step, activation))
            of = to
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network(inputs, normalize, body, of)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, [N, of, H, W] to [N, to, H / stride, W / stride]."""

    def __init__(self, of: int, to: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.path = nn.Sequential(
            conv3x3(of, to, stride),
            nn.BatchNorm2d(to),
            activate(activation),
            conv3x3(to, to),
            nn.BatchNorm2d(to),
        )
        self.shortcut = _shortcut(of, to, stride)
        self.activation = activate(activation)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.path(x) + self.shortcut(x))
        return out


class Bottleneck(nn.Module):
    """1x1 to ``inner`` channels, 3x3, 1x1, beside a shortcut, [N, of, H, W] to [N, to, H / stride, W / stride]."""

    def __init__(self, of: int, inner: int, to: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(of, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            activate(activation),
            conv3x3(inner, inner, stride),
            nn.BatchNorm2d(inner),
            activate(activation),
            nn.Conv2d(inner, to, 1, bias=False),
            nn.BatchNorm2d(to),
        )
        self.shortcut = _shortcut(of, to, stride)
        self.activation = activate(activation)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.path(x) + self.shortcut(x))
        return out


def _shortcut(of: int, to: int, stride: int) -> nn.Sequential:
    """The input itself, or where the shape changes a 1x1 convolution of it."""
    if stride == 1 and of == to:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(of, to, 1, stride, bias=False), nn.BatchNorm2d(to))
