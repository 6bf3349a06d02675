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


@MODELS.register("toy-mlp", source="Rade and Moosavi-Dezfooli 2022 (HAT), App. A.1")
def toy_mlp(
    inputs: Inputs, *, width: Width = 25, activation: Activation = "relu", normalize: Normalize = "none"
) -> Network:
    """HAT's network for its toy problem: one hidden layer of 25 units on the three features as they are.

    ``inputs.shape`` is (1, 1, 3) there, and 152 parameters come of it with 2 classes. Initialised by PyTorch.
    """
    network: Network = mlp(inputs, hidden=(width,), activation=activation, normalize=normalize)
    return network
