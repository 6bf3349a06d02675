"""Second networks: how one is made, and how it follows the student."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


class Guide(Protocol):
    """How a network beside the student comes to be and moves."""

    @property
    def trains(self) -> bool:
        """Does the optimiser move it?"""

    @property
    def helper(self) -> str | None:
        """The name of the trained network that it is; None when it comes from the student."""

    def make(self, student: nn.Module, helpers: Mapping[str, nn.Module]) -> nn.Module:
        """The network at the start of training; ``helpers`` are trained networks by name."""

    def follow(self, network: nn.Module, student: nn.Module) -> None:
        """Called after every optimiser step."""


@dataclass(frozen=True)
class Frozen:
    """A helper: a network trained before, in eval mode, that never moves."""

    helper: str
    trains: bool = False

    def make(self, student: nn.Module, helpers: Mapping[str, nn.Module]) -> nn.Module:
        return helpers[self.helper].eval().requires_grad_(False)

    def follow(self, network: nn.Module, student: nn.Module) -> None:
        """It stays."""


@dataclass(frozen=True)
class Average:
    """An exponential moving average of the student's weights and BatchNorm statistics, in eval mode.

    w <- decay w + (1 - decay) w_student after every step, from the first one on.
    """

    decay: float = 0.995
    trains: bool = False
    helper: None = None

    def make(self, student: nn.Module, helpers: Mapping[str, nn.Module]) -> nn.Module:
        return copy.deepcopy(student).eval().requires_grad_(False)

    @torch.no_grad()
    def follow(self, network: nn.Module, student: nn.Module) -> None:
        mine, theirs = _state(network), _state(student)
        torch._foreach_lerp_(
            [m for m in mine if m.is_floating_point()],
            [t for t in theirs if t.is_floating_point()],
            1 - self.decay,
        )
        for m, t in zip(mine, theirs, strict=True):
            if not m.is_floating_point():
                m.copy_(t)


def _state(network: nn.Module) -> list[Tensor]:
    return [*(p.detach() for p in network.parameters()), *network.buffers()]
