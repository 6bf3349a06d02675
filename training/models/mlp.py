"""A multilayer perceptron on the pixels."""

from __future__ import annotations

import math

from torch import nn

from training.models.network import MODELS, Activation, Inputs, Network, Normalize, Width, activate


@MODELS.register("mlp")
def mlp(
    inputs: Inputs,
    *,
    hidden: tuple[Width, ...] = (256, 256),
    activation: Activation = "relu",
    normalize: Normalize = "data",
) -> Network:
    """Fully connected layers of the ``hidden`` sizes; without any it is a linear classifier."""
    layers: list[nn.Module] = [nn.Flatten()]
    of = math.prod(inputs.shape)
    for to in hidden:
        layers += [nn.Linear(of, to), activate(activation)]
        of = to
    return Network(inputs, normalize, nn.Sequential(*layers), of)
