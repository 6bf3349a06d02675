"""What every model is made of: normalisation, a body that ends in features, and a linear head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from training.registry import Registry

MODELS = Registry("model")

Activation = Literal["relu", "silu"]
Normalize = Literal["data", "none"]
Width = Annotated[int, Field(ge=1, le=4096)]


@dataclass(frozen=True)
class Inputs:
    """What a model is built for.

    Args:
        shape: of one image, (C, H, W).
        classes: how many.
        mean, std: of the training images per channel, in [0, 1].
    """

    shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        channels = self.shape[0]
        assert len(self.mean) == len(self.std) == channels, "one mean and one std per channel"


class Normalise(nn.Module):
    """(x - mean) / std per channel; both are buffers, so a checkpoint carries them."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Network(nn.Module):
    """Images x [N, C, H, W] in [0, 1] to logits [N, K]: ``head(features(x))``.

    Args:
        inputs: what the model is built for.
        normalize: ``data`` by the data's mean and std, ``none`` not at all (as TRADES' published program).
        body: normalised images [N, C, H, W] to features [N, ``width``].
        width: of the features.
    """

    def __init__(self, inputs: Inputs, normalize: Normalize, body: nn.Module, width: int) -> None:
        super().__init__()
        self.normalise = Normalise(inputs.mean, inputs.std) if normalize == "data" else nn.Identity()
        self.body = body
        self.head: nn.Module = nn.Linear(width, inputs.classes)

    def features(self, x: Tensor) -> Tensor:
        """What the head sees of images x in [0, 1]: [N, D]."""
        features: Tensor = self.body(self.normalise(x))
        return features

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


def activate(name: Activation) -> nn.Module:
    """The activation as a module.

    ReLU works in place: it only ever follows layers whose backward does not need their own output. SiLU's backward
    needs its input, so in place it would save nothing.
    """
    return nn.ReLU(inplace=True) if name == "relu" else nn.SiLU()


def conv3x3(of: int, to: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size (halves it, rounding up, with stride 2); a BatchNorm supplies the bias."""
    return nn.Conv2d(of, to, 3, stride, padding=1, bias=False)
