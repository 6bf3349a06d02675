"""Pre-activation ResNets (He et al. 2016b) with the CIFAR stem, in the form that papers on robustness use.

They end in a BatchNorm and an activation before the pooling (Rice et al. 2020; Rade and Moosavi-Dezfooli 2022),
which the widely copied CIFAR implementation leaves out: 11,172,170 parameters, not 11,171,146.
"""

from __future__ import annotations

from torch import Tensor, nn

from training.models.network import MODELS, Activation, Inputs, Network, Normalize, Width, activate, conv3x3


@MODELS.register("preact-resnet18", source="He et al. 2016, Identity mappings, with the CIFAR stem")
def preact_resnet18(
    inputs: Inputs, *, width: Width = 64, activation: Activation = "relu", normalize: Normalize = "data"
) -> Network:
    """PreAct ResNet-18 for small images; 11,172,170 parameters at width 64 with 3 channels and 10 classes."""
    return _preact_resnet(inputs, (2, 2, 2, 2), width, activation, normalize)


def _preact_resnet(
    inputs: Inputs, blocks: tuple[int, ...], width: int, activation: Activation, normalize: Normalize
) -> Network:
    """Stages of ``blocks`` basic blocks; each but the first halves the image and doubles the width."""
    layers: list[nn.Module] = [conv3x3(inputs.shape[0], width)]
    of = width
    for stage, count in enumerate(blocks):
        to = width * 2**stage
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(PreActBlock(of, to, stride, activation))
            of = to
    ending = (nn.BatchNorm2d(of), activate(activation), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network(inputs, normalize, nn.Sequential(*layers, *ending), of)


class PreActBlock(nn.Module):
    """BatchNorm and activation before each 3x3 convolution, [N, of, H, W] to [N, to, H / stride, W / stride].

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input; elsewhere it is the input.
    """

    def __init__(self, of: int, to: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(of), activate(activation))
        self.path = nn.Sequential(
            conv3x3(of, to, stride), nn.BatchNorm2d(to), activate(activation), conv3x3(to, to)
        )
        self.shortcut = None
        if stride != 1 or of != to:
            self.shortcut = nn.Conv2d(of, to, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.first(x)
        beside = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.path(active) + beside
        return out
