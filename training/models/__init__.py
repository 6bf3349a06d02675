"""Models by name. Each maps images [N, C, H, W] in [0, 1] to logits [N, K]; normalisation is inside.

A new one is a function ``(inputs, *, parameters) -> Network`` under ``@MODELS.register(name)``, in a module that is
imported here.
"""

from __future__ import annotations

from collections.abc import Sequence

from training.models import mlp, preact_resnet, resnet, small_cnn, wide_resnet
from training.models.heads import Head
from training.models.network import MODELS, Activation, Inputs, Network
from training.spec import Choice

__all__ = [
    "MODELS",
    "Activation",
    "Inputs",
    "Network",
    "build",
    "mlp",
    "preact_resnet",
    "resnet",
    "small_cnn",
    "wide_resnet",
]


def build(
    choice: Choice,
    shape: tuple[int, int, int],
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    head: Head | None = None,
) -> Network:
    """The network that a resolved spec names, freshly initialised from torch's global generator.

    Args:
        shape: of one image, (C, H, W).
        mean, std: of the training images per channel, in [0, 1].
        head: of the hypersphere, in place of the linear one.

    Raises:
        UserError: there is no such model.
    """
    inputs = Inputs(shape, classes, tuple(mean), tuple(std))
    network: Network = MODELS.get(choice.name, "model.name").build(inputs, **choice.parameters)
    if head is not None:
        head.attach(network)
    return network
