"""How a loss moves the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.optim import Optimizer

from training.views import Moment

Closure = Callable[[], Tensor]
Update = Callable[[Optimizer, Closure, Mapping[str, nn.Module], Moment], Tensor]


def descend(optimizer: Optimizer, closure: Closure, networks: Mapping[str, nn.Module], now: Moment) -> Tensor:
    """One plain optimiser step on the closure's loss; returns the loss, a scalar, detached."""
    optimizer.zero_grad(set_to_none=True)
    loss = closure()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()
