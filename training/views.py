"""One minibatch, seen at named points through named networks against named targets.

Stages add points and targets; terms read logits. Each (point, network) pair is forwarded once however many terms
ask for it, so a ten-step TRADES search is eleven forwards, not twenty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.randomness import generator

Forward = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True)
class Moment:
    """When in training: what schedules read. ``epoch`` and ``step`` (within the epoch) count from 0."""

    epoch: int = 0
    step: int = 0
    steps: int = 1  # per epoch
    epochs: int = 1

    @property
    def progress(self) -> float:
        """Share of all optimiser steps done, in [0, 1)."""
        return (self.epoch * self.steps + self.step) / (self.epochs * self.steps)


Schedule = Callable[[Moment], float]
Number = float | Schedule  # any hyperparameter may be a schedule


def value(number: Number, now: Moment) -> float:
    """The hyperparameter at this moment."""
    return number(now) if callable(number) else number


def plain_forward(network: nn.Module, x: Tensor) -> Tensor:
    """Logits [N, K] of a network, in its own precision."""
    logits: Tensor = network(x)
    return logits


class Seen:
    """Images [N, C, H, W] at one point, and what the networks said of them so far."""

    __slots__ = ("constant", "images", "log_probs", "logits", "probs")

    def __init__(self, images: Tensor, constant: bool = False) -> None:
        self.images = images
        self.constant = constant
        self.logits: dict[str, Tensor] = {}
        self.log_probs: dict[str, Tensor] = {}
        self.probs: dict[str, Tensor] = {}


class Views:
    """One minibatch.

    Args:
        networks: by name; ``student`` is the one that is trained.
        points: images [N, C, H, W] by name; ``clean`` are the images of the data set.
        targets: class probabilities [N, K] by name; ``label`` is the one-hot label.
        now: the moment that schedules and random draws depend on.
        forward: how logits are computed (precision, compilation); see :mod:`training.precision`.
        seed: of the trial; random draws depend on it, on ``now`` and on their purpose, on nothing else.
    """

    __slots__ = ("forward", "networks", "now", "seed", "seen", "targets")

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        points: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        now: Moment,
        forward: Forward = plain_forward,
        seed: int = 0,
    ) -> None:
        self.networks = networks
        self.seen = {name: Seen(images) for name, images in points.items()}
        self.targets = dict(targets)
        self.now = now
        self.forward = forward
        self.seed = seed

    def points(self, name: str) -> Tensor:
        """Images [N, C, H, W] at a point."""
        return self.seen[name].images

    def logits(self, at: str, by: str = "student") -> Tensor:
        """Logits [N, K] at a point by a network; computed at the first call."""
        seen = self.seen[at]
        if by not in seen.logits:
            if seen.constant:
                with torch.no_grad():
                    seen.logits[by] = self.forward(self.networks[by], seen.images)
            else:
                seen.logits[by] = self.forward(self.networks[by], seen.images)
        return seen.logits[by]

    def log_probs(self, at: str, by: str = "student") -> Tensor:
        """Log-softmax of the logits, [N, K]; computed at the first call."""
        seen = self.seen[at]
        if by not in seen.log_probs:
            seen.log_probs[by] = self.logits(at, by).log_softmax(dim=1)
        return seen.log_probs[by]

    def probs(self, at: str, by: str = "student") -> Tensor:
        """Softmax of the logits, [N, K]; computed at the first call."""
        seen = self.seen[at]
        if by not in seen.probs:
            seen.probs[by] = self.log_probs(at, by).exp()
        return seen.probs[by]

    def move(self, **points: Tensor) -> Views:
        """Views with points added or replaced. What did not move keeps its cache, shared with this one."""
        return self._with(self.seen | {name: Seen(images) for name, images in points.items()}, self.targets)

    def aim(self, **targets: Tensor) -> Views:
        """Views with targets [N, K] added or replaced."""
        return self._with(self.seen, self.targets | targets)

    def fresh(self, *constant: str) -> Views:
        """Views with nothing computed yet; the points named carry no gradient."""
        return self._with(
            {name: Seen(seen.images, name in constant) for name, seen in self.seen.items()}, self.targets
        )

    def random(self, purpose: str) -> torch.Generator:
        """A generator on the images' device for one purpose at this moment."""
        device = self.seen["clean"].images.device
        return generator(self.seed, purpose, self.now.epoch, self.now.step, device)

    def _with(self, seen: dict[str, Seen], targets: dict[str, Tensor]) -> Views:
        views = Views.__new__(Views)
        views.networks, views.now, views.forward, views.seed = (
            self.networks,
            self.now,
            self.forward,
            self.seed,
        )
        views.seen, views.targets = seen, targets
        return views
