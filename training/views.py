"""One minibatch, seen at named points through named networks against named targets.

Stages add points and targets; terms read logits. Each (point, network) pair is forwarded once however many terms
ask for it, so a ten-step TRADES search is eleven forwards, not twenty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.batchnorm import untracked
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
        state: tensors that stages keep from one minibatch to the next, by name; checkpoints hold them.
    """

    __slots__ = ("forward", "networks", "now", "seed", "seen", "state", "targets", "together", "unseen")

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        points: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        now: Moment,
        forward: Forward = plain_forward,
        seed: int = 0,
        state: MutableMapping[str, Tensor] | None = None,
    ) -> None:
        self.networks = networks
        self.seen = {name: Seen(images) for name, images in points.items()}
        self.targets = dict(targets)
        self.now = now
        self.forward = forward
        self.seed = seed
        self.state = {} if state is None else state
        self.together: tuple[tuple[str, ...], ...] = ()
        self.unseen: frozenset[str] = frozenset()

    def points(self, name: str) -> Tensor:
        """Images [N, C, H, W] at a point."""
        return self.seen[name].images

    def logits(self, at: str, by: str = "student") -> Tensor:
        """Logits [N, K] at a point by a network; computed at the first call."""
        seen = self.seen[at]
        if by not in seen.logits:
            for group in self.together:
                if at in group:
                    self._forward_as_one(group, by)
                    return seen.logits[by]
            network = self.networks[by]
            with torch.set_grad_enabled(torch.is_grad_enabled() and not seen.constant):
                if at in self.unseen:
                    with untracked(network):
                        seen.logits[by] = self.forward(network, seen.images)
                else:
                    seen.logits[by] = self.forward(network, seen.images)
        return seen.logits[by]

    def _forward_as_one(self, group: tuple[str, ...], by: str) -> None:
        """Points that BatchNorm sees as one batch, in the group's order."""
        images = torch.cat([self.seen[name].images for name in group])
        parts = self.forward(self.networks[by], images).chunk(len(group))
        for name, logits in zip(group, parts, strict=True):
            self.seen[name].logits[by] = logits

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

    def outer(
        self, together: tuple[tuple[str, ...], ...] = (), unseen: frozenset[str] = frozenset()
    ) -> Views:
        """Fresh views for the loss that moves the weights.

        Args:
            together: groups of points that are forwarded as one batch.
            unseen: points whose forward leaves running statistics alone.
        """
        views = self.fresh()
        views.together, views.unseen = together, unseen
        return views

    def random(self, purpose: str) -> torch.Generator:
        """A generator on the images' device for one purpose at this moment."""
        device = self.seen["clean"].images.device
        return generator(self.seed, purpose, self.now.epoch, self.now.step, device)

    def _with(self, seen: dict[str, Seen], targets: dict[str, Tensor]) -> Views:
        views = Views.__new__(Views)
        views.networks, views.now, views.forward = self.networks, self.now, self.forward
        views.seed, views.state = self.seed, self.state
        views.together, views.unseen = self.together, self.unseen
        views.seen, views.targets = seen, targets
        return views
