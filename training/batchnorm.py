"""BatchNorm while something else than the plain step is computed: search modes, and forwards that leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

BatchNormMode = Literal["eval", "train-tracked", "train-untracked"]


@contextmanager
def untracked(*networks: nn.Module) -> Iterator[None]:
    """Forwards of these networks leave their running statistics alone; in train mode they still use the batch's."""
    norms = [
        m
        for network in networks
        for m in network.modules()
        if isinstance(m, _BatchNorm) and m.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def searching(network: nn.Module, mode: BatchNormMode) -> Iterator[None]:
    """The network as it is while points are searched: its BatchNorm in ``mode``, its weights constant.

    ``eval`` uses running statistics; ``train-tracked`` uses and updates batch statistics, as the step itself
    does; ``train-untracked`` uses batch statistics and leaves the running ones alone.
    """
    training = network.training
    weights = [w for w in network.parameters() if w.requires_grad]
    network.train(mode != "eval")
    for weight in weights:
        weight.requires_grad_(False)
    try:
        with untracked(*([network] if mode == "train-untracked" else [])):
            yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)
        network.train(training)
