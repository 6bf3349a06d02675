"""What happens to a minibatch before the loss: stages that add points and targets, in written order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from training.batchnorm import BatchNormMode, searching
from training.terms import Objective, Term, objective
from training.threat import Ball
from training.views import Number, Views, value

Start = Literal["clean", "gaussian", "uniform", "positive", "given"]


class Stage(Protocol):
    """Adds points or targets to a minibatch. Subclasses inherit what most stages do not need."""

    @property
    def passes(self) -> int:
        """What it costs: network passes per image (a forward is one, a gradient with respect to images another)."""
        return 0

    def __call__(self, views: Views) -> Views:
        """Views with more points or targets."""

    def after(self, views: Views) -> None:
        """Called with its own views after the optimiser's step, when gradients are still there."""
        return None


@dataclass(frozen=True)
class PGD(Stage):
    """Projected gradient ascent on any objective (Madry et al. 2018; TRADES' and HAT's searches are this one).

    Args:
        ball: the threat model.
        objective: what is increased, summed over images; every point but ``point`` is constant in it.
        steps: how often the point moves.
        step_size: of each move, in pixel units.
        start: ``gaussian`` is x + 0.001 N(0, I) (TRADES), ``uniform`` a draw from the ball (Madry), ``positive`` is
            x + 0.001 U[0, 1) (ADR's program on TRADES), ``clean`` is x itself, ``given`` the ``point`` that is there
            already.
        batchnorm: the student's BatchNorm while searching.
        point: the name of the point found.
        clip_start: clip the start to [0, 1] (FastAT, FAT). The other programs leave that to the first move.
        patience: move an image at most so often after it was first misclassified (FAT, Zhang et al. 2020, Alg. 1);
            None: for all the steps.
    """

    ball: Ball
    objective: Objective | Term
    steps: int = 10
    step_size: Number = 2 / 255
    start: Start = "gaussian"
    batchnorm: BatchNormMode = "eval"
    point: str = "adv"
    clip_start: bool = False
    patience: Number | None = None

    @property
    def passes(self) -> int:
        return 2 * self.steps + 1

    def __call__(self, views: Views) -> Views:
        x = views.points("clean")
        student = views.networks["student"]
        goal = objective(self.objective)
        step_size = value(self.step_size, views.now)
        x_adv = begin(self.start, self.ball, views, self.point)
        if self.clip_start:
            x_adv = x_adv.clamp_(0, 1)
        project = self.ball.around(x)
        friend = None if self.patience is None else _Friend(views, value(self.patience, views.now))
        with torch.enable_grad(), searching(student, self.batchnorm):
            inner = views.fresh(*views.seen)
            for _ in range(self.steps):
                x_adv.requires_grad_()
                at = inner.move(**{self.point: x_adv})
                (grad,) = torch.autograd.grad(goal(at).sum(), x_adv)
                with torch.no_grad():
                    ascent = self.ball.direction(grad).mul_(step_size).add_(x_adv)
                    moved = project(ascent)
                    x_adv = moved if friend is None else friend.decide(at.logits(self.point), x_adv, moved)
        return views.move(**{self.point: x_adv.detach()})


class _Friend:
    """Who still moves, when searches end ``patience`` moves after an image was first misclassified."""

    def __init__(self, views: Views, patience: float) -> None:
        self.label = views.targets["label"].argmax(dim=1)
        self.left = torch.full_like(self.label, int(patience))
        self.moving = torch.ones_like(self.label, dtype=torch.bool)

    def decide(self, logits: Tensor, here: Tensor, there: Tensor) -> Tensor:
        """``there`` for the images that go on, ``here`` for the others; ``logits`` [N, K] are of ``here``."""
        fooled = logits.argmax(dim=1) != self.label
        self.moving = self.moving & ~(fooled & (self.left == 0))
        self.left = self.left - (fooled & self.moving).to(self.left.dtype)
        return torch.where(self.moving.view(-1, 1, 1, 1), there, here)


def begin(start: Start, ball: Ball, views: Views, point: str) -> Tensor:
    """Where a search for ``point`` starts, [N, C, H, W], a tensor of its own; not clipped to [0, 1]."""
    x = views.points("clean")
    if start in ("clean", "given"):
        return views.points("clean" if start == "clean" else point).clone()
    generator = views.random(f"attack.{point}")
    if start == "uniform":
        return ball.noise(x, generator).add_(x)
    if start == "positive":
        return torch.empty_like(x).uniform_(0, 0.001, generator=generator).add_(x)
    return torch.empty_like(x).normal_(0, 0.001, generator=generator).add_(x)


@dataclass(frozen=True)
class Free(Stage):
    """FreeAT's noise (Shafahi et al. 2019, Alg. 1): one backward of the loss serves the weights and the noise.

    The noise stays from one minibatch to the next. After the optimiser's step it moves up its gradient by ``step_size``
    and back into the ball. What keeps pixels in [0, 1] is what is clipped:

    - ``point``: the point is clip(x + noise, 0, 1), in the graph, as in Shafahi et al.'s program. Where the clip bites
      the noise stands still, for good where most images are black there (digits).
    - ``noise``: the point is x + noise, and the moved noise is clipped to [0, 1] - x, as in Wong et al.'s program. The
      first replay of a minibatch may then leave [0, 1], with noise that was clipped for other images.
    """

    ball: Ball
    step_size: Number = 8 / 255
    clip: Literal["point", "noise"] = "point"

    KEY = "free.noise"

    def __call__(self, views: Views) -> Views:
        x = views.points("clean")
        kept = views.state.get(self.KEY)
        noise = torch.zeros_like(x) if kept is None else kept.detach()
        views.state[self.KEY] = noise.requires_grad_()
        return views.move(adv=(x + noise).clamp(0, 1) if self.clip == "point" else x + noise)

    @torch.no_grad()
    def after(self, views: Views) -> None:
        noise = views.state[self.KEY]
        assert noise.grad is not None, "the loss does not read FreeAT's point"
        move = self.ball.direction(noise.grad).mul_(value(self.step_size, views.now))
        moved = self.ball.limit(noise.detach() + move)
        if self.clip == "noise":
            x = views.points("clean")
            moved = torch.clamp(moved, -x, 1 - x)
        views.state[self.KEY] = moved


@dataclass(frozen=True)
class Extrapolate(Stage):
    """HAT's helper examples (Rade and Moosavi-Dezfooli 2022, Sec. 4 and Algorithm 1, lines 10-11).

    The helper point is x + factor (x' - x) for the adversarial x'; it is not clipped to [0, 1]. Its label is what
    the network ``by`` (standard training, eval mode) says at x + label_at (x' - x): at x' itself by default.
    """

    factor: float = 2.0
    label_at: float = 1.0
    by: str = "standard"

    @property
    def passes(self) -> int:
        return 1

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


@dataclass(frozen=True)
class Rectify(Stage):
    """ADR's label, softened by what an average of the student says of the clean image (Wu et al. 2024, Eqs. 3-5).

    P = softmax(z / temperature) at the clean image; lambda_i = clip(ratio - (max P - P_y), 0, 1); the label is
    lambda_i P + (1 - lambda_i) onehot, so the true class stays the most probable one.
    """

    temperature: Number
    ratio: Number
    by: str = "average"
    target: str = "rectified"

    @property
    def passes(self) -> int:
        return 1

    @torch.no_grad()
    def __call__(self, views: Views) -> Views:
        label = views.targets["label"]
        probs = (views.logits("clean", self.by) / value(self.temperature, views.now)).softmax(dim=1)
        mistake = probs.amax(dim=1) - (probs * label).sum(dim=1)
        trust = (value(self.ratio, views.now) - mistake).clamp(0, 1)[:, None]
        return views.aim(**{self.target: trust * probs + (1 - trust) * label})


@dataclass(frozen=True)
class Smooth(Stage):
    """The label with ``amount`` of it spread evenly over all classes (Szegedy et al. 2016, Sec. 7)."""

    amount: float
    target: str = "smooth"

    def __call__(self, views: Views) -> Views:
        label = views.targets["label"]
        return views.aim(**{self.target: (1 - self.amount) * label + self.amount / label.shape[1]})


@dataclass(frozen=True)
class Again(Stage):
    """The clean images as a second point, forwarded once more: the published TRADES program does (``again``)."""

    point: str = "again"

    def __call__(self, views: Views) -> Views:
        return views.move(**{self.point: views.points("clean")})
