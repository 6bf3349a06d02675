"""Attacks on a trained network, and the check that what they found lies in the ball.

An attack only searches: it maps images to adversarial images. Whether those count is for :func:`inside` and the
network that is evaluated to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from evaluation.noise import normal, uniform
from training.spec import AttackSpec
from training.stages import PGD
from training.terms import CE
from training.threat import L2, Ball, ball
from training.views import Moment, Views

TOLERANCE = 1e-6  # pixel units at eps = 1; a float32 image cannot keep to a ball more exactly


class Attack(Protocol):
    """A search for images that a network gets wrong."""

    def __call__(self, network: nn.Module, x: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """Adversarial images for ``x`` [N, C, H, W].

        Args:
            network: maps images in [0, 1] to logits [N, K]; in eval mode, its weights constant.
            labels: int64 [N].
            indices: int64 [N], the images' places in the test set: what random draws depend on.
        """


@dataclass(frozen=True)
class UntargetedPGD:
    """``steps`` steps up the cross-entropy from a uniform start in the ball (Madry et al. 2018).

    The last point counts, as is usual for "PGD-20"; of several restarts, the first one's that the network gets wrong.
    Starts depend on (seed, restart, image), not on the batch.
    """

    threat: AttackSpec
    steps: int
    classes: int
    seed: int = 0
    step_size: float | None = None  # default: eps / 4
    restarts: int = 1

    def __call__(self, network: nn.Module, x: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        found = self._search(network, x, labels, indices, 0)
        for restart in range(1, self.restarts):
            with torch.no_grad():
                right = network(found).argmax(dim=1) == labels
            left = right.nonzero()[:, 0]
            if not len(left):
                break
            found[left] = self._search(network, x[left], labels[left], indices[left], restart)
        return found

    def _search(self, network: nn.Module, x: Tensor, labels: Tensor, indices: Tensor, restart: int) -> Tensor:
        around = ball(self.threat)
        start = x + ball_noise(around, self.seed, "pgd", restart, indices, x)
        step = around.eps / 4 if self.step_size is None else self.step_size
        search = PGD(around, CE("adv"), self.steps, step, "given", "eval")
        label = one_hot(labels, self.classes).to(x.dtype)
        views = Views({"student": network}, {"clean": x, "adv": start}, {"label": label}, Moment())
        return search(views).points("adv")


def ball_noise(around: Ball, seed: int, attack: str, restart: int, indices: Tensor, x: Tensor) -> Tensor:
    """A uniform draw from the ball around zero for each image of ``x`` [N, C, H, W], the same in any batch."""
    shape = x.shape[1:]
    if not isinstance(around, L2):
        return around.eps * (2 * uniform(seed, attack, restart, indices, shape) - 1)
    # A Gaussian direction, and a radius whose d-th power is uniform, fill the ball evenly.
    towards = around.direction(normal(seed, f"{attack}.direction", restart, indices, shape))
    share = uniform(seed, f"{attack}.radius", restart, indices, (1, 1, 1))
    return around.eps * share ** (1 / shape.numel()) * towards


def inside(x_adv: Tensor, x: Tensor, threat: AttackSpec) -> Tensor:
    """Which adversarial images lie in [0, 1] and in the ball around ``x``, but for rounding: bool [N].

    Distances are taken in float64. An image with a NaN is outside.
    """
    move = (x_adv.double() - x.double()).flatten(1)
    distance = move.norm(dim=1) if threat.norm == "l2" else move.abs().amax(dim=1)
    near = distance <= threat.eps + TOLERANCE * max(1.0, threat.eps)
    flat = x_adv.flatten(1)
    return near & (flat.amin(dim=1) >= -TOLERANCE) & (flat.amax(dim=1) <= 1 + TOLERANCE)
