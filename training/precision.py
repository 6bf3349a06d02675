"""How logits are computed: precision, memory format, compilation. Everything else sees float logits."""

from __future__ import annotations

import types
from collections.abc import Callable

import torch
from torch import Tensor, nn

from training.spec import TrainSpec


class Forward:
    """Calls a network as a spec's ``train`` section says.

    With ``compile`` there is one compiled callable per (network, mode, what the gradient is for, batch size): one
    function for all of them would be recompiled at every change of mode and soon given up on.
    """

    def __init__(self, train: TrainSpec, device: torch.device, backend: str = "inductor") -> None:
        self.bf16 = train.precision == "bf16"
        self.compile = train.compile
        self.device_type = device.type
        self.backend = backend
        self.compiled: dict[tuple[object, ...], Callable[[Tensor], Tensor]] = {}

    def __call__(self, network: nn.Module, x: Tensor) -> Tensor:
        """Logits [N, K] in float32, or in the network's own precision without bf16."""
        call = self._compiled(network, x) if self.compile else network
        if not self.bf16:
            logits: Tensor = call(x)
            return logits
        with torch.autocast(self.device_type, torch.bfloat16):
            logits = call(x)
        return logits.float()

    def _compiled(self, network: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
        first = next(network.parameters())
        norm = next((m for m in network.modules() if isinstance(m, nn.BatchNorm2d)), None)
        tracked = norm is not None and norm.track_running_stats
        gradient = torch.is_grad_enabled()
        key = (
            id(network),
            network.training,
            tracked,
            gradient,
            x.requires_grad,
            first.requires_grad,
            x.shape,
        )
        if key not in self.compiled:
            self.compiled[key] = torch.compile(_own_copy(network), dynamic=False, backend=self.backend)
        return self.compiled[key]


def _own_copy(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """A function with a code object of its own: the compiler counts recompilations per code object."""

    def run(x: Tensor) -> Tensor:
        logits: Tensor = network(x)
        return logits

    return types.FunctionType(run.__code__.replace(), run.__globals__, "run", None, run.__closure__)
