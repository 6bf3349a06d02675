"""ResNets (He et al. 2016a) with the CIFAR stem: one 3x3 convolution of stride 1 and no pooling after it."""

from __future__ import annotations

from torch import Tensor, nn

from training.models.network import MODELS, Activation, Inputs, Network, Normalize, Width, activate, conv3x3


@MODELS.register("resnet18", source="He et al. 2016, Table 1, with the CIFAR stem")
def resnet18(
    inputs: Inputs, *, width: Width = 64, activation: Activation = "relu", normalize: Normalize = "data"
) -> Network:
    """ResNet-18 for small images; 11,173,962 parameters at width 64 with 3 channels and 10 classes."""
    return _resnet(inputs, (2, 2, 2, 2), width, activation, normalize)


def _resnet(
    inputs: Inputs, blocks: tuple[int, ...], width: int, activation: Activation, normalize: Normalize
) -> Network:
    """Stages of ``blocks`` basic blocks; each but the first halves the image and doubles the width."""
    layers = [conv3x3(inputs.shape[0], width), nn.BatchNorm2d(width), activate(activation)]
    of = width
    for stage, count in enumerate(blocks):
        to = width * 2**stage
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(BasicBlock(of, to, stride, activation))
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
        self.shortcut = nn.Sequential()
        if stride != 1 or of != to:
            self.shortcut = nn.Sequential(nn.Conv2d(of, to, 1, stride, bias=False), nn.BatchNorm2d(to))
        self.activation = activate(activation)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.path(x) + self.shortcut(x))
        return out
