"""MART's two terms, which weigh images by how misclassified they are (Wang et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from training.terms import At, Writable, dotted, pair, words
from training.views import Views


def _label(views: Views) -> Tensor:
    """The class of the label, [N, 1]."""
    return views.targets["label"].argmax(dim=1, keepdim=True)


@dataclass(frozen=True)
class RunnerUp(Writable):
    """-log(1.0001 - max_{k != y} p_k): large where a wrong class is probable (MART Eq. 8, second half of its BCE).

    With the published program's 1.0001 where the paper has 1, so that it stays finite.
    """

    at: At

    @property
    def name(self) -> str:
        return f"runner-up.{dotted(self.at)}"

    @property
    def reads(self) -> tuple[At, ...]:
        return (self.at,)

    def __repr__(self) -> str:
        return f"runner-up({words(self.at)})"

    def __call__(self, views: Views) -> Tensor:
        probs = views.probs(*pair(self.at))
        wrong = probs.scatter(1, _label(views), 0.0).amax(dim=1)
        return -(1.0001 - wrong).log()


@dataclass(frozen=True)
class WeightedKL(Writable):
    """KL(at to to) times 1.0000001 - p_y(to): how wrong the clean prediction is (MART Eq. 9, as its program has it).

    The gradient flows through the weight too, as published.
    """

    at: At
    to: At

    @property
    def name(self) -> str:
        return f"weighted-KL.{dotted(self.at)}.{dotted(self.to)}"

    @property
    def reads(self) -> tuple[At, ...]:
        return (self.to, self.at)

    def __repr__(self) -> str:
        return f"KL({words(self.at)} to {words(self.to)})*(1 - p_y({words(self.to)}))"

    def __call__(self, views: Views) -> Tensor:
        to, at = pair(self.to), pair(self.at)
        probs = views.probs(*to)
        kl = (probs * (views.log_probs(*to) - views.log_probs(*at))).sum(dim=1)
        return kl * (1.0000001 - probs.gather(1, _label(views))[:, 0])
