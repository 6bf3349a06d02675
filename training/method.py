"""A method is data: stages, an objective, guides. This is the whole training step, for every method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from training.guides import Guide
from training.stages import Stage
from training.terms import Objective
from training.updates import Update, descend
from training.views import Forward, Moment, Views, plain_forward


@dataclass(frozen=True)
class Method:
    """How a network is trained.

    Args:
        stages: run in written order on each minibatch; they add points and targets.
        objective: the loss, minimised on average over the minibatch; forwards happen in its order.
        guides: networks beside the student, by name.
        update: how the loss moves the weights.
        evaluate: which network is validated, selected and tested.
        select: which validation accuracy chooses the best epoch.
    """

    stages: tuple[Stage, ...]
    objective: Objective
    guides: Mapping[str, Guide] = field(default_factory=dict)
    update: Update = descend
    evaluate: str = "student"
    select: Literal["robust", "clean"] = "robust"

    @property
    def formula(self) -> str:
        """The loss as people write it."""
        return repr(self.objective)

    def step(
        self,
        networks: Mapping[str, nn.Module],
        optimizer: Optimizer,
        x: Tensor,
        label: Tensor,
        now: Moment,
        *,
        forward: Forward = plain_forward,
        seed: int = 0,
    ) -> dict[str, Tensor]:
        """Train on one minibatch.

        Args:
            networks: ``student`` and one per guide.
            optimizer: of all networks that train.
            x: images [N, C, H, W] in [0, 1].
            label: one-hot labels [N, K].

        Returns:
            ``loss`` and every term by name, scalars on the device, without graph. Nothing here reads them.
        """
        views = Views(networks, {"clean": x}, {"label": label}, now, forward, seed)
        for stage in self.stages:
            views = stage(views)
        log: dict[str, Tensor] = {}

        def closure() -> Tensor:
            total, terms = self.objective.parts(views.fresh())
            for name, distance in terms.items():
                log[name] = distance.detach().mean()
            return total.mean()

        log["loss"] = self.update(optimizer, closure, networks, now)
        for name, guide in self.guides.items():
            guide.follow(networks[name], networks["student"])
        return log
