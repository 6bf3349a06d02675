"""What happens to a minibatch before the loss: stages that add points and targets, in written order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training.terms import Objective, Term, objective
from training.threat import Ball
from training.views import Number, Views, value

BatchNormMode = Literal["eval", "train-tracked", "train-untracked"]
Start = Literal["clean", "gaussian", "uniform", "given"]


class Stage(Protocol):
    """Adds points or targets to a minibatch."""

    def __call__(self, views: Views) -> Views:
        """Views with more points or targets."""


@contextmanager
def searching(network: nn.Module, mode: BatchNormMode) -> Iterator[None]:
    """The network as it is while points are searched: its BatchNorm in ``mode``, its weights constant.

    ``eval`` uses running statistics; ``train-tracked`` uses and updates batch statistics, as the step itself
    does; ``train-untracked`` uses batch statistics and leaves the running ones alone.
    """
    training = network.training
    weights = [w for w in network.parameters() if w.requires_grad]
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    untracked = mode == "train-untracked"
    network.train(mode != "eval")
    for weight in weights:
        weight.requires_grad_(False)
    if untracked:
        for norm in norms:
            norm.track_running_stats = False
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)
        if untracked:
            for norm in norms:
                norm.track_running_stats = True
        network.train(training)


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent on any objective (Madry et al. 2018; TRADES' and HAT's searches are this one).

    Args:
        ball: the threat model.
        objective: what is increased, summed over images; every point but ``point`` is constant in it.
        steps: how often the point moves.
        step_size: of each move, in pixel units.
        start: ``gaussian`` is x + 0.001 N(0, I) (TRADES), ``uniform`` a draw from the ball (Madry), ``clean``
            is x itself, ``given`` the ``point`` that is there already. As published, the start is not clipped:
            the first move is.
        batchnorm: the student's BatchNorm while searching.
        point: the name of the point found.
    """

    ball: Ball
    objective: Objective | Term
    steps: int = 10
    step_size: Number = 2 / 255
    start: Start = "gaussian"
    batchnorm: BatchNormMode = "eval"
    point: str = "adv"

    def __call__(self, views: Views) -> Views:
        x = views.points("clean")
        student = views.networks["student"]
        goal = objective(self.objective)
        step_size = value(self.step_size, views.now)
        x_adv = self._begin(views)
        project = self.ball.around(x)
        with torch.enable_grad(), searching(student, self.batchnorm):
            inner = views.fresh(*views.seen)
            for _ in range(self.steps):
                x_adv.requires_grad_()
                gain = goal(inner.move(**{self.point: x_adv})).sum()
                (grad,) = torch.autograd.grad(gain, x_adv)
                with torch.no_grad():
                    ascent = self.ball.direction(grad).mul_(step_size).add_(x_adv)
                    x_adv = project(ascent)
        return views.move(**{self.point: x_adv})

    def _begin(self, views: Views) -> Tensor:
        x = views.points("clean")
        if self.start in ("clean", "given"):
            return views.points("clean" if self.start == "clean" else self.point).clone()
        generator = views.random(f"attack.{self.point}")
        if self.start == "uniform":
            return self.ball.noise(x, generator).add_(x)
        return torch.empty_like(x).normal_(0, 0.001, generator=generator).add_(x)


@dataclass(frozen=True)
class Extrapolate:
    """HAT's helper examples (Rade and Moosavi-Dezfooli 2022, Sec. 4 and Algorithm 1, lines 10-11).

    The helper point is x + factor (x' - x) for the adversarial x'; it is not clipped to [0, 1]. Its label is what
    the network ``by`` (standard training, eval mode) says at x + label_at (x' - x): at x' itself by default.
    """

    factor: float = 2.0
    label_at: float = 1.0
    by: str = "standard"

    def __call__(self, views: Views) -> Views:
        x, x_adv = views.points("clean"), views.points("adv")
        r = x_adv - x
        with torch.no_grad():
            if self.label_at == 1:
                logits = views.logits("adv", self.by)
            else:
                logits = views.forward(views.networks[self.by], x + self.label_at * r)
        label = torch.zeros_like(logits).scatter_(1, logits.argmax(dim=1, keepdim=True), 1.0)
        return views.move(help=x + self.factor * r).aim(help=label)
