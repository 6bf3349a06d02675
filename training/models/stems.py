"""Stems: what a residual network does with an image before its first block. Which one suits depends on the images.

- ``cifar``: one 3x3 convolution of stride 1. The form of every published program for images of 32x32 pixels, and of
  HAT's for Tiny-ImageNet too (64x64 pixels, so that the last feature map has 8x8 positions and not 4x4).
- ``64``: one 3x3 convolution of stride 2: images of 64x64 pixels at the cost of 32x32. It is in neither HAT's, HE's nor
  LBGAT's program (LBGAT makes Tiny-ImageNet 32x32, Sec. 4); it is for saving time.
- ``imagenet``: a 7x7 convolution of stride 2 and a 3x3 max pooling of stride 2 (He et al. 2016a, Table 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, WithJsonSchema
from torch import nn

from training.errors import UserError
from training.models.network import Activation, Inputs, activate, conv3x3


def _as_text(given: Any) -> Any:
    """``stem: 64`` in a file is a number."""
    return str(given) if type(given) is int else given


Stem = Annotated[
    Literal["cifar", "64", "imagenet"],
    BeforeValidator(_as_text),
    WithJsonSchema({"enum": ["cifar", "64", 64, "imagenet"]}),
]

SHRINK = {"cifar": 1, "64": 2, "imagenet": 4}  # how many pixels of a side become one position


def stem_layers(stem: Stem, channels: int, width: int, activation: Activation) -> list[nn.Module]:
    """The stem of a network whose blocks end in an activation (He et al. 2016a, Table 1).

    [N, ``channels``, H, W] to [N, ``width``, H / s, W / s], s = 1, 2 or 4. After the convolution come BatchNorm and the
    activation.
    """
    first = [_first(stem, channels, width, padding=3), nn.BatchNorm2d(width), activate(activation)]
    return [*first, nn.MaxPool2d(3, 2, padding=1)] if stem == "imagenet" else first


def preact_stem_layers(stem: Stem, channels: int, width: int, activation: Activation) -> list[nn.Module]:
    """The stem of a network whose blocks begin with BatchNorm and an activation.

    [N, ``channels``, H, W] to [N, ``width``, H / s, W / s], s = 1, 2 or 4. ``cifar`` and ``64`` are the convolution
    alone. ``imagenet`` is that of HAT's program for ImageNet-100: BatchNorm and the activation before the pooling, and
    a padding of 1 where a 7x7 convolution has 3: 224 pixels become 55 positions and not 56 (7 at the end all the same).
    """
    if stem != "imagenet":
        return [_first(stem, channels, width, padding=1)]
    first = _first(stem, channels, width, padding=1)
    return [first, nn.BatchNorm2d(width), activate(activation), nn.MaxPool2d(3, 2, padding=1)]


def check_size(inputs: Inputs, stem: Stem, strides: Sequence[int]) -> None:
    """Are the images large enough for a feature map of at least one position, without looking at padding alone?

    Args:
        strides: of the stages of blocks that follow the stem.

    Raises:
        UserError: they are not; it says how large they must be, and which stems they would do for.
    """
    _, h, w = inputs.shape
    least = {name: shrink * math.prod(strides) for name, shrink in SHRINK.items()}
    if min(h, w) >= least[stem]:
        return
    fitting = [f"'{name}'" for name, size in least.items() if size <= min(h, w)]
    hint = f"; stem {' or '.join(fitting)} would do" if fitting else ""
    raise UserError(
        f"model.stem: '{stem}' needs images of at least {least[stem]}x{least[stem]} pixels in this model,"
        f" the data are {h}x{w}{hint}"
    )


def _first(stem: Stem, channels: int, width: int, padding: int) -> nn.Module:
    """The first convolution; ``padding`` is that of the 7x7 one."""
    if stem == "imagenet":
        return nn.Conv2d(channels, width, 7, 2, padding, bias=False)
    return conv3x3(channels, width, stride=SHRINK[stem])
