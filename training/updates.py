"""How a loss moves the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.batchnorm import untracked
from training.views import Moment

Closure = Callable[[], Tensor]
Update = Callable[[Optimizer, Closure, Mapping[str, nn.Module], Moment], Tensor]
TINY = 1e-20  # keeps a zero gradient from dividing by zero, as in AWP's program


def descend(optimizer: Optimizer, closure: Closure, networks: Mapping[str, nn.Module], now: Moment) -> Tensor:
    """One plain optimiser step on the closure's loss; returns the loss, a scalar, detached."""
    optimizer.zero_grad(set_to_none=True)
    loss = closure()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


@dataclass(frozen=True)
class AWP:
    """Adversarial weight perturbation: the step is taken for weights moved up the loss (Wu et al. 2020, Eqs. 7-12).

    Each tensor w of the student moves by radius ||w|| / ||g|| times its gradient g.

    - ``form="awp"``, as published: tensors named ``weight`` of two dimensions or more move; running statistics do
      not in that first pass; the optimiser steps *from the moved weights* (its weight decay sees them), and then the
      move is taken back.
    - ``form="sam"`` (ADR's program): every tensor moves; the first pass is the ordinary one, which moves running
      statistics, and the second does not; the move is taken back *before* the optimiser steps.

    Before epoch ``since`` the step is a plain one.
    """

    radius: float = 0.005
    since: int = 0
    form: Literal["awp", "sam"] = "awp"

    def __call__(
        self, optimizer: Optimizer, closure: Closure, networks: Mapping[str, nn.Module], now: Moment
    ) -> Tensor:
        if now.epoch < self.since or self.radius == 0:
            return descend(optimizer, closure, networks, now)
        return (self._awp if self.form == "awp" else self._sam)(optimizer, closure, networks, now)

    def _awp(
        self, optimizer: Optimizer, closure: Closure, networks: Mapping[str, nn.Module], now: Moment
    ) -> Tensor:
        named = networks["student"].named_parameters()
        weights = [w for name, w in named if "weight" in name and w.dim() > 1 and w.requires_grad]
        with untracked(*networks.values()):
            gradients = torch.autograd.grad(closure(), weights, allow_unused=True)
        moves = self._moved(weights, gradients)
        loss = descend(optimizer, closure, networks, now)
        _take_back(weights, moves)
        return loss

    def _sam(
        self, optimizer: Optimizer, closure: Closure, networks: Mapping[str, nn.Module], now: Moment
    ) -> Tensor:
        weights = [w for w in networks["student"].parameters() if w.requires_grad]
        moves = self._moved(weights, torch.autograd.grad(closure(), weights, allow_unused=True))
        optimizer.zero_grad(set_to_none=True)
        with untracked(*networks.values()):
            loss = closure()
            loss.backward()  # type: ignore[no-untyped-call]
        _take_back(weights, moves)
        optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def _moved(self, weights: list[nn.Parameter], gradients: tuple[Tensor | None, ...]) -> list[Tensor]:
        """Move the weights; what they moved by."""
        filled = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, gradients, strict=True)]
        here = [w.detach() for w in weights]
        sizes, slopes = torch._foreach_norm(here), torch._foreach_norm(filled)
        torch._foreach_mul_(sizes, self.radius)
        torch._foreach_add_(slopes, TINY)
        moves = list(torch._foreach_mul(filled, torch._foreach_div(sizes, slopes)))
        torch._foreach_add_(here, moves)
        return moves


@torch.no_grad()
def _take_back(weights: list[nn.Parameter], moves: list[Tensor]) -> None:
    torch._foreach_sub_([w.detach() for w in weights], moves)
