"""Pre-activation ResNets (He et al. 2016b) in the forms that papers on robustness use.

They end in a BatchNorm and an activation before the pooling (Rice et al. 2020; Rade and Moosavi-Dezfooli 2022),
which the widely copied CIFAR implementation leaves out: 11,172,170 parameters, not 11,171,146.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from training.errors import UserError
from training.models.network import MODELS, Activation, Inputs, Network, Normalize, Width, activate, conv3x3
from training.models.stems import Stem, check_size, preact_stem_layers

Form = Literal["usual", "gowal"]


@MODELS.register("preact-resnet18", source="He et al. 2016b, Identity mappings")
def preact_resnet18(
    inputs: Inputs,
    *,
    width: Width = 64,
    activation: Activation = "relu",
    normalize: Normalize = "data",
    stem: Stem = "cifar",
    form: Form = "usual",
) -> Network:
    """PreAct ResNet-18, features of 512; 11,172,170 parameters with stem cifar and 10 classes.

    Images [N, C, H, W] in [0, 1] to logits [N, K]. Initialised by PyTorch, as in HAT's program.

    Args:
        width: of the stem and the first stage.
        stem: ``cifar`` for HAT's SVHN and Tiny-ImageNet, ``imagenet`` for its ImageNet-100.
        form: ``gowal`` is the network of Rebuffi et al. 2021's program, which HAT's large recipe trains with SiLU: the
            shortcut is a 3x3 convolution of the input before its BatchNorm (12,548,426 parameters), strided
            convolutions pad below and to the right only, and BatchNorm's momentum is 0.01.
    """
    strides = (1, 2, 2, 2)
    check_size(inputs, stem, strides)
    check_form(inputs, stem, strides, form)
    layers = preact_stem_layers(stem, inputs.shape[0], width, activation)
    of = width
    for stage, stride in enumerate(strides):
        to = width * 2**stage
        for step in (stride, 1):
            layers.append(
                PreActBlock(
                    of, to, step, activation, same_padding=form == "gowal", raw_shortcut=form == "gowal"
                )
            )
            of = to
    return preact_network(inputs, normalize, layers, of, activation, form)


class PreActBlock(nn.Module):
    """BatchNorm and activation before each 3x3 convolution, [N, of, H, W] to [N, to, H / stride, W / stride].

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input; elsewhere it is the input.

    Args:
        same_padding: the strided convolutions pad below and to the right only, as TensorFlow's ``SAME`` does.
        raw_shortcut: where the shape changes, the shortcut is a 3x3 convolution of the input itself.
    """

    def __init__(
        self,
        of: int,
        to: int,
        stride: int,
        activation: Activation,
        same_padding: bool = False,
        raw_shortcut: bool = False,
    ) -> None:
        super().__init__()
        conv = _conv3x3_same if same_padding else conv3x3
        self.first = nn.Sequential(nn.BatchNorm2d(of), activate(activation))
        self.path = nn.Sequential(
            conv(of, to, stride), nn.BatchNorm2d(to), activate(activation), conv3x3(to, to)
        )
        self.raw_shortcut = raw_shortcut
        self.shortcut: nn.Module | None = None
        if stride != 1 or of != to:
            self.shortcut = conv(of, to, stride) if raw_shortcut else nn.Conv2d(of, to, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.first(x)
        beside = x
        if self.shortcut is not None:
            beside = self.shortcut(x if self.raw_shortcut else active)
        out: Tensor = self.path(active) + beside
        return out


def preact_network(
    inputs: Inputs,
    normalize: Normalize,
    layers: list[nn.Module],
    width: int,
    activation: Activation,
    form: Form,
) -> Network:
    """Stem and blocks (``layers``, to [N, ``width``, H', W']) with the last BatchNorm, activation, average and head."""
    ending = (nn.BatchNorm2d(width), activate(activation), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = Network(inputs, normalize, nn.Sequential(*layers, *ending), width)
    if form == "gowal":
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.01
    return network


def check_form(inputs: Inputs, stem: Stem, strides: tuple[int, ...], form: Form) -> None:
    """Padding on one side only fits together where every halving is even.

    Raises:
        UserError: for the form ``gowal`` and other images.
    """
    _, h, w = inputs.shape
    total = math.prod(strides)
    if form == "gowal" and (stem != "cifar" or h % total or w % total):
        raise UserError(
            f"model.form: 'gowal' needs stem 'cifar' and images whose sides are multiples of {total} pixels in this"
            f" model; the stem is '{stem}', the data are {h}x{w}"
        )


def _conv3x3_same(of: int, to: int, stride: int = 1) -> nn.Module:
    if stride == 1:
        return conv3x3(of, to)
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(of, to, 3, stride, bias=False))
