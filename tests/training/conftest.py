"""A network small enough for float64 comparisons, with everything that methods depend on: BatchNorm and modes."""

from collections.abc import Callable

import pytest
import torch
from torch import nn


class Tiny(nn.Module):
    """Convolution, BatchNorm, ReLU, linear: 2 x 6 x 6 images, 4 classes. Counts its forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Linear(5 * 36, 4)
        self.forwards: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.forwards.append(self.training)
        return self.head(torch.relu(self.norm(self.conv(x))).flatten(1))


@pytest.fixture
def tiny() -> Callable[[int], Tiny]:
    """Builds a float64 network from a seed; running statistics differ from batch statistics."""

    def build(seed: int = 0) -> Tiny:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = Tiny().double()
            network.norm.running_mean.uniform_(-0.2, 0.2)
            network.norm.running_var.uniform_(0.5, 1.5)
        return network

    return build


@pytest.fixture
def minibatch() -> tuple[torch.Tensor, torch.Tensor]:
    """Eight images [8, 2, 6, 6] in [0, 1] with pixels at both ends, and labels [8]."""
    draw = torch.Generator().manual_seed(7)
    x = (1.4 * torch.rand(8, 2, 6, 6, generator=draw, dtype=torch.float64) - 0.2).clamp(0, 1)
    return x, torch.randint(0, 4, (8,), generator=draw)
