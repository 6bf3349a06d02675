"""Threat models: balls around an image. Pixels are in [0, 1], and so is every radius (8/255, not 8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from training.spec import AttackSpec

Projection = Callable[[Tensor], Tensor]


class Ball(Protocol):
    """What an attacker may do to an image."""

    @property
    def eps(self) -> float:
        """Radius in pixel units."""

    def around(self, x: Tensor) -> Projection:
        """The projection onto the ball around images ``x`` [N, C, H, W] and [0, 1]: what is the same at every step
        of a search is computed once."""

    def limit(self, noise: Tensor) -> Tensor:
        """The nearest perturbation of the radius, whatever the image: [N, C, H, W]."""

    def direction(self, grad: Tensor) -> Tensor:
        """The unit step of steepest ascent for a gradient [N, C, H, W]."""

    def noise(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A uniform draw from the ball around zero, shaped like ``x``."""


@dataclass(frozen=True)
class Linf:
    """No pixel moves by more than ``eps``."""

    eps: float

    def around(self, x: Tensor) -> Projection:
        low, high = (x - self.eps).clamp_(min=0), (x + self.eps).clamp_(max=1)
        return lambda x_adv: torch.clamp(x_adv, low, high)

    def limit(self, noise: Tensor) -> Tensor:
        return noise.clamp(-self.eps, self.eps)

    def direction(self, grad: Tensor) -> Tensor:
        return grad.sign()

    def noise(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return torch.empty_like(x).uniform_(-self.eps, self.eps, generator=generator)


@dataclass(frozen=True)
class L2:
    """No image moves by more than ``eps`` in Euclidean norm over all its pixels and channels."""

    eps: float

    def around(self, x: Tensor) -> Projection:
        def project(x_adv: Tensor) -> Tensor:
            # Clipping to [0, 1] moves every pixel towards x, which lies there, so it cannot leave the ball again.
            return (x + self.limit(x_adv - x)).clamp(0, 1)

        return project

    def limit(self, noise: Tensor) -> Tensor:
        return noise * (self.eps / _norms(noise)).clamp(max=1)

    def direction(self, grad: Tensor) -> Tensor:
        return grad / _norms(grad)

    def noise(self, x: Tensor, generator: torch.Generator) -> Tensor:
        # A Gaussian direction, and a radius whose d-th power is uniform, fill the ball evenly.
        towards = self.direction(torch.empty_like(x).normal_(generator=generator))
        share = torch.empty(len(x), 1, 1, 1, device=x.device, dtype=x.dtype).uniform_(generator=generator)
        return self.eps * share ** (1 / x[0].numel()) * towards


def _norms(x: Tensor) -> Tensor:
    """Euclidean norm of every image, [N, 1, 1, 1], never zero."""
    norms: Tensor = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
    return norms.clamp(min=1e-12)


def ball(attack: AttackSpec) -> Ball:
    """The ball that a spec names."""
    return Linf(attack.eps) if attack.norm == "linf" else L2(attack.eps)
