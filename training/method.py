"""A method is data: stages, an objective, guides, an update. This is the whole training step, for every method."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from training.guides import Guide, Helper
from training.models.heads import Head
from training.stages import Stage
from training.terms import Objective
from training.updates import AWP, Update, descend
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
        replays: how often each minibatch is trained on, one optimiser step each (FreeAT).
        together: groups of points that the loss forwards as one batch; nothing else is ever concatenated.
        untracked: points whose forward in the loss leaves running statistics alone (Squeeze Training's ``col``).
        head: the student's last layer; None: a linear one.
        start: the trained network whose weights the student starts from; None: random ones.
        extra: does it want extra data?
    """

    stages: tuple[Stage, ...]
    objective: Objective
    guides: Mapping[str, Guide] = field(default_factory=dict)
    update: Update = descend
    evaluate: str = "student"
    select: Literal["robust", "clean"] = "robust"
    replays: int = 1
    together: tuple[tuple[str, ...], ...] = ()
    untracked: frozenset[str] = frozenset()
    head: Head | None = None
    start: Helper | None = None
    extra: bool = False

    @property
    def formula(self) -> str:
        """The loss as people write it."""
        return repr(self.objective)

    @property
    def helpers(self) -> tuple[Helper, ...]:
        """The trained networks that it needs, each once."""
        needed = [helper for guide in self.guides.values() for helper in guide.helpers]
        return tuple(dict.fromkeys([*needed, *([self.start] if self.start else [])]))

    @property
    def passes(self) -> int:
        """What one minibatch costs: network passes per image, a forward counts one and a backward two."""
        searched = sum(stage.passes for stage in self.stages)
        losses = 2 if isinstance(self.update, AWP) else 1
        return self.replays * (searched + 3 * losses * len(self.objective.reads))

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
        state: MutableMapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Train on one minibatch.

        Args:
            networks: ``student`` and one per guide.
            optimizer: of all networks that train.
            x: images [N, C, H, W] in [0, 1].
            label: one-hot labels [N, K].
            state: what stages keep from one minibatch to the next; changed in place.

        Returns:
            ``loss`` and every term by name, scalars on the device, without graph. Nothing here reads them.
        """
        log: dict[str, Tensor] = {}
        state = {} if state is None else state
        for _ in range(self.replays):
            views = Views(networks, {"clean": x}, {"label": label}, now, forward, seed, state)
            for stage in self.stages:
                views = stage(views)
            log["loss"] = self._update(views, optimizer, log)
            for stage in self.stages:
                stage.after(views)
            if self.head is not None:
                self.head.settle(networks["student"])
            for name, guide in self.guides.items():
                guide.follow(networks[name], networks["student"], now)
        return log

    def _update(self, views: Views, optimizer: Optimizer, log: dict[str, Tensor]) -> Tensor:
        """One optimiser step; the terms of the loss that it was taken on go into ``log``."""

        def closure() -> Tensor:
            total, terms = self.objective.parts(views.outer(self.together, self.untracked))
            for name, distance in terms.items():
                log[name] = distance.detach().mean()
            return total.mean()

        return self.update(optimizer, closure, views.networks, views.now)
