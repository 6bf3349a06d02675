"""Second networks: how one is made, whether it trains, and how it follows the student."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training.views import Moment

Builder = Callable[
    [str | None, Mapping[str, Any]], nn.Module
]  # a model's name (None: the student's own) and parameters


@dataclass(frozen=True)
class Helper:
    """A trained network that a method needs: a trial of its own, by default of this method and seed.

    Args:
        name: what the method, and ``helpers`` in a spec, call it.
        method: how it is trained unless the spec says otherwise.
        seed: of its trial.
    """

    name: str
    method: str = "standard"
    seed: int = 0


class Guide(Protocol):
    """How a network beside the student comes to be and moves."""

    @property
    def trains(self) -> bool:
        """Does the optimiser move it?"""

    @property
    def helpers(self) -> tuple[Helper, ...]:
        """The trained networks that it is made of; none when it begins with the student or from nothing."""

    def make(self, student: nn.Module, helpers: Mapping[str, nn.Module], build: Builder) -> nn.Module:
        """The network at the start of training.

        Args:
            student: as it starts.
            helpers: trained networks by name.
            build: makes a new network from a model's name and parameters, with random weights of its own.
        """

    def follow(self, network: nn.Module, student: nn.Module, now: Moment) -> None:
        """Called after every optimiser step."""


@dataclass(frozen=True)
class Frozen:
    """Networks trained before, in eval mode, that never move. Of several, the logits are averaged."""

    helpers: tuple[Helper, ...]
    trains: bool = False

    def make(self, student: nn.Module, helpers: Mapping[str, nn.Module], build: Builder) -> nn.Module:
        members = [helpers[helper.name] for helper in self.helpers]
        network = members[0] if len(members) == 1 else Ensemble(members)
        return network.eval().requires_grad_(False)

    def follow(self, network: nn.Module, student: nn.Module, now: Moment) -> None:
        """It stays."""


class Ensemble(nn.Module):
    """The mean of several networks' logits (BGAT's natural networks, Cui et al. 2021, Table 3)."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = torch.stack([member(x) for member in self.members]).mean(dim=0)
        return logits


@dataclass(frozen=True)
class Joint:
    """A network trained beside the student by the same optimiser, in train mode (LBGAT's natural one).

    ``model`` is the name of its architecture; None: the student's.
    """

    model: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    trains: bool = True
    helpers: tuple[Helper, ...] = ()

    def make(self, student: nn.Module, helpers: Mapping[str, nn.Module], build: Builder) -> nn.Module:
        return build(self.model, self.parameters).train()

    def follow(self, network: nn.Module, student: nn.Module, now: Moment) -> None:
        """The optimiser moves it."""


@dataclass(frozen=True)
class Shared:
    """The student's own weights with a BatchNorm of its own (LBGAT Table 2, "shared convolution")."""

    trains: bool = True
    helpers: tuple[Helper, ...] = ()

    def make(self, student: nn.Module, helpers: Mapping[str, nn.Module], build: Builder) -> nn.Module:
        norms = {id(p) for m in student.modules() if isinstance(m, _BatchNorm) for p in m.parameters()}
        shared = {id(p): p for p in student.parameters() if id(p) not in norms}
        return copy.deepcopy(student, shared).train()

    def follow(self, network: nn.Module, student: nn.Module, now: Moment) -> None:
        """The optimiser moves it."""


@dataclass(frozen=True)
class Average:
    """An exponential moving average of the student's weights, in eval mode: w <- d w + (1 - d) w_student, every step.

    Args:
        decay: d.
        warmup: d is at most (1 + t) / (10 + t) at step t (Gowal et al. 2021's averaging), so that early weights are
            forgotten; without it d is the same from the first step on (ADR).
        statistics: ``average`` BatchNorm's running statistics like weights (ADR), or ``copy`` the student's (HAT's
            large recipe).
    """

    decay: float = 0.995
    warmup: bool = False
    statistics: str = "average"
    trains: bool = False
    helpers: tuple[Helper, ...] = ()

    def make(self, student: nn.Module, helpers: Mapping[str, nn.Module], build: Builder) -> nn.Module:
        return copy.deepcopy(student).eval().requires_grad_(False)

    @torch.no_grad()
    def follow(self, network: nn.Module, student: nn.Module, now: Moment) -> None:
        step = now.epoch * now.steps + now.step
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        mine: list[Tensor] = [p.detach() for p in network.parameters()]
        theirs: list[Tensor] = [p.detach() for p in student.parameters()]
        for m, t in zip(network.buffers(), student.buffers(), strict=True):
            if self.statistics == "average" and m.is_floating_point():
                mine.append(m)
                theirs.append(t)
            else:
                m.copy_(t)
        torch._foreach_lerp_(mine, theirs, 1 - decay)
