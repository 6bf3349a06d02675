"""Squeeze Training's search: two points at once, the worst and the best of the ball (Li et al. 2023, Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from training.batchnorm import BatchNormMode, searching
from training.divergences import Gap, chosen, extremes
from training.stages import Stage, Start, begin
from training.threat import Ball
from training.views import Number, Views, value


@dataclass(frozen=True)
class Squeeze(Stage):
    """Moves ``adv`` and ``col`` apart: each step picks the least and the most probable of {clean, adv, col} per image.

    Both are moved up the gradient of the gap between them and become the next ``adv`` and ``col``; where clean is
    picked, it is clean that is moved from. Exactly ``steps`` moves (the paper's ``while K >= 0`` prints one more).
    Differs from the published program, which in a step where no image of the batch picks clean exchanges gradients
    without choosing again; this is the paper's algorithm.
    """

    ball: Ball
    gap: Gap
    steps: int = 10
    step_size: Number = 2 / 255
    start: Start = "gaussian"
    batchnorm: BatchNormMode = "train-untracked"

    @property
    def passes(self) -> int:
        return (
            5 * self.steps + 1
        )  # clean is forwarded once; each step forwards two and asks for three gradients

    def __call__(self, views: Views) -> Views:
        x = views.points("clean")
        step_size = value(self.step_size, views.now)
        adv = begin(self.start, self.ball, views, "adv")
        col = begin(self.start, self.ball, views, "col")
        project = self.ball.around(x)
        with torch.enable_grad(), searching(views.networks["student"], self.batchnorm):
            clean = x.detach().clone().requires_grad_()
            inner = views.fresh().move(clean=clean)  # its logits are computed once, its gradient every step
            for _ in range(self.steps):
                triplet = [clean, adv.requires_grad_(), col.requires_grad_()]
                at = inner.move(adv=adv, col=col)
                grads = torch.autograd.grad(self.gap(at).sum(), triplet, retain_graph=True)
                with torch.no_grad():
                    images, ascents = torch.stack(triplet), torch.stack(grads)
                    adv, col = (
                        project(
                            self.ball.direction(chosen(ascents, which))
                            .mul_(step_size)
                            .add_(chosen(images, which))
                        )
                        for which in extremes(at)
                    )
        return views.move(adv=adv, col=col)
