"""The optimiser is PyTorch's, bit for bit, with all that a training asks of it."""

import copy

import pytest
import torch
from torch import nn, optim

from training.sgd import SGD


@pytest.mark.parametrize("nesterov", [False, True])
def test_it_steps_as_torchs_does_and_goes_on_from_its_state(tiny, minibatch, nesterov: bool) -> None:
    x, y = minibatch
    settings = {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": nesterov}
    theirs = tiny(1)
    ours = copy.deepcopy(theirs)

    def grouped(network: nn.Module) -> list[dict[str, object]]:
        return [
            {"params": network.conv.parameters(), "weight_decay": 0.0},
            {"params": [*network.norm.parameters(), *network.head.parameters()]},
        ]

    reference = optim.SGD(grouped(theirs), lr=0.1, **settings)
    optimizer = SGD(grouped(ours), lr=0.1, **settings)
    for step in range(6):
        if step == 3:  # as after an interruption
            before, optimizer = optimizer, SGD(grouped(ours), lr=0.1, **settings)
            optimizer.load_state_dict(copy.deepcopy(before.state_dict()))
        for network, sgd in ((theirs, reference), (ours, optimizer)):
            for group in sgd.param_groups:
                group["lr"] = 0.1 / (step + 1)
            sgd.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(network(x), y).backward()
            sgd.step()
    for a, b in zip(theirs.parameters(), ours.parameters(), strict=True):
        assert torch.equal(a, b)
    assert optimizer.state_dict()["param_groups"] == reference.state_dict()["param_groups"]
