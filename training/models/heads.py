"""The hypersphere head: logits that are angles between features and class weights (Pang et al. 2020, Sec. 2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

if TYPE_CHECKING:
    from training.models.network import Network

Weights = Literal["project", "differentiate", "free"]
NEAR_ONE = 1 - 1e-6  # cosines are kept this far from +-1, where arccos has no slope


@dataclass(frozen=True)
class Head:
    """A last layer without bias: ``scale`` times the cosine of feature and class weight, or minus the angle.

    Args:
        scale: s; in search and training. It is a buffer of the head, so that evaluation can ask for another.
        features: are features divided by their norm (FN)?
        weights: are class weights (WN)? ``project``: rows are made unit after every optimiser step and the gradient is
            taken there, which is what the published program computes (it overwrites the weight inside forward);
            ``differentiate``: the gradient goes through the normalisation, as the paper's formula says (the last
            layer's gradient differs by a third or more); ``free``: they are not normalised.
        angle: m-HE: -theta = -arccos(cosine) in place of the cosine (Sec. 3.5).
    """

    scale: float = 15.0
    features: bool = True
    weights: Weights = "project"
    angle: bool = False

    def attach(self, network: Network) -> None:
        """Give the network this head in place of its linear one; drawn from torch's global generator."""
        linear_one = network.head
        assert isinstance(linear_one, nn.Linear), "the network has a hypersphere head already"
        network.head = HypersphereHead(linear_one.in_features, linear_one.out_features, self)

    def settle(self, network: nn.Module) -> None:
        """After an optimiser step: put class weights back onto the sphere, where that is how they are normalised."""
        if self.weights == "project":
            for module in network.modules():
                if isinstance(module, HypersphereHead):
                    module.project()


class HypersphereHead(nn.Module):
    """Features [N, D] to logits [N, K]; see :class:`Head`."""

    scale: Tensor

    def __init__(self, features: int, classes: int, how: Head) -> None:
        super().__init__()
        self.how = how
        self.weight = nn.Parameter(nn.Linear(features, classes, bias=False).weight.detach())
        self.register_buffer("scale", torch.tensor(float(how.scale)))
        if how.weights == "project":
            self.project()

    @torch.no_grad()
    def project(self) -> None:
        """Make the class weights unit vectors."""
        self.weight.copy_(normalize(self.weight, dim=1))

    def forward(self, features: Tensor) -> Tensor:
        # Not in bfloat16, which has no cosine between 0.996 and 1: arccos has no slope there.
        with torch.autocast(self.scale.device.type, enabled=False):
            return self.scale * self._products(features.to(self.weight.dtype))

    def _products(self, features: Tensor) -> Tensor:
        """Cosines, or what is asked for in their place, [N, K]."""
        weight: Tensor = self.weight
        if self.how.weights == "differentiate":
            weight = normalize(weight, dim=1)
        elif self.how.weights == "project":
            # An average of unit vectors is shorter than one: the value is unit, the gradient as if it were not divided.
            weight = weight + (normalize(weight, dim=1) - weight).detach()
        products = linear(normalize(features, dim=1) if self.how.features else features, weight)
        return -products.clamp(-NEAR_ONE, NEAR_ONE).arccos() if self.how.angle else products

    def extra_repr(self) -> str:
        return repr(self.how)
