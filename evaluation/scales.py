"""A network whose logits are a scale times something bounded, at the scales that an attack may find it at.

Hypersphere heads (Pang et al. 2020) multiply cosines by s in training, and the published evaluations attack the cosines
themselves. Predictions are the same; verdicts are not: losses of an attack are flat where logits are large, and weak
where they are small. So such a network is attacked at both, and what is robust has to be so at both.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from training.models.heads import HypersphereHead

UNSCALED = "-unscaled"  # what names of attacks on the network at scale 1 end in


def at_scales(network: nn.Module) -> dict[str, nn.Module]:
    """The network to attack by the ending of its attacks' names: as it is, and at scale 1 where it has another."""
    heads = [module for module in network.modules() if isinstance(module, HypersphereHead)]
    if all(float(head.scale) == 1 for head in heads):
        return {"": network}
    plain = copy.deepcopy(network)
    for module in plain.modules():
        if isinstance(module, HypersphereHead):
            module.scale = torch.ones_like(module.scale)
    return {"": network, UNSCALED: plain}
