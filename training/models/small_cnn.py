"""Small convolutional networks: minutes on a CPU, adversarial training and AutoAttack included."""

from __future__ import annotations

from torch import nn

from training.errors import UserError
from training.models.network import MODELS, Activation, Inputs, Network, Normalize, Width, activate, conv3x3


@MODELS.register("small-cnn")
def small_cnn(
    inputs: Inputs,
    *,
    width: Width = 16,
    hidden: Width = 64,
    activation: Activation = "relu",
    normalize: Normalize = "data",
) -> Network:
    """Two 3x3 convolutions with BatchNorm, the second of twice the width and stride 2, and one hidden layer."""
    channels, h, w = inputs.shape
    body = nn.Sequential(
        conv3x3(channels, width),
        nn.BatchNorm2d(width),
        activate(activation),
        conv3x3(width, 2 * width, stride=2),
        nn.BatchNorm2d(2 * width),
        activate(activation),
        nn.Flatten(),
        nn.Linear(2 * width * _half(h) * _half(w), hidden),
        activate(activation),
    )
    return Network(inputs, normalize, body, hidden)


@MODELS.register("small-cnn-4x4", source="after Wong and Kolter 2018, Sec. 5; BatchNorm added")
def small_cnn_4x4(
    inputs: Inputs,
    *,
    width: Width = 16,
    hidden: Width = 64,
    activation: Activation = "relu",
    normalize: Normalize = "data",
) -> Network:
    """Two 4x4 convolutions of stride 2 with BatchNorm, and one hidden layer: for images of 28x28 and 32x32."""
    channels, h, w = inputs.shape
    if min(h, w) < 4:
        raise UserError(
            f"model.name: 'small-cnn-4x4' needs images of at least 4x4 pixels, the data are {h}x{w}"
        )
    body = nn.Sequential(
        _conv4x4(channels, width),
        nn.BatchNorm2d(width),
        activate(activation),
        _conv4x4(width, width),
        nn.BatchNorm2d(width),
        activate(activation),
        nn.Flatten(),
        nn.Linear(width * (h // 4) * (w // 4), hidden),
        activate(activation),
    )
    return Network(inputs, normalize, body, hidden)


def _conv4x4(of: int, to: int) -> nn.Conv2d:
    return nn.Conv2d(of, to, 4, stride=2, padding=1, bias=False)


def _half(size: int) -> int:
    return (size + 1) // 2
