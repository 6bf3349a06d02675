"""Symmetric distances between two predictions: what Squeeze Training compares (Li et al. 2023, Sec. 4.1 and Fig. 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from training.terms import At, Writable, dotted, pair, words
from training.views import Views

Kind = Literal["symmetric-kl", "js", "l2"]
WORDS = {"symmetric-kl": "KL", "js": "JS", "l2": "L2"}


def divergence(kind: Kind, a: Tensor, b: Tensor) -> Tensor:
    """The distance of two predictions with logits ``a`` and ``b`` [N, K], per image [N].

    ``symmetric-kl`` is (KL(a to b) + KL(b to a)) / 2 with each target constant, as in the published program (the
    paper's formula does not say); ``js`` is the Jensen-Shannon divergence, in nats; ``l2`` the squared Euclidean
    distance of probabilities, summed over classes. The gradient of the last two flows into both.
    """
    log_p, log_q = a.log_softmax(dim=1), b.log_softmax(dim=1)
    p, q = log_p.exp(), log_q.exp()
    if kind == "symmetric-kl":
        toward_q = q.detach() * (log_q.detach() - log_p)
        toward_p = p.detach() * (log_p.detach() - log_q)
        return (toward_q + toward_p).sum(dim=1) / 2
    if kind == "js":
        log_m = torch.logaddexp(log_p, log_q) - math.log(2)
        return (p * (log_p - log_m) + q * (log_q - log_m)).sum(dim=1) / 2
    return (p - q).square().sum(dim=1)


@dataclass(frozen=True)
class Divergence(Writable):
    """A symmetric distance between the predictions at two points; ``b`` is forwarded first, unless ``a_first``."""

    kind: Kind
    a: At
    b: At
    a_first: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind}.{dotted(self.a)}.{dotted(self.b)}"

    @property
    def reads(self) -> tuple[At, ...]:
        # As KL("adv", "clean"): what one compares to comes first.
        return (self.a, self.b) if self.a_first else (self.b, self.a)

    def __repr__(self) -> str:
        return f"{WORDS[self.kind]}({words(self.a)} ~ {words(self.b)})"

    def __call__(self, views: Views) -> Tensor:
        views.logits(*pair(self.reads[0]))
        return divergence(self.kind, views.logits(*pair(self.a)), views.logits(*pair(self.b)))


TRIPLET = ("clean", "adv", "col")


def extremes(views: Views) -> tuple[Tensor, Tensor]:
    """Positions in TRIPLET, [N] each: where the label is least probable, and where it is most probable."""
    label = views.targets["label"]
    # Forwarded with their graph: Gap reads them too.
    log_probs = [views.log_probs(name).detach() for name in TRIPLET]
    belief = torch.stack([(log_p * label).sum(dim=1) for log_p in log_probs])
    return belief.argmin(dim=0), belief.argmax(dim=0)


def chosen(among: Tensor, position: Tensor) -> Tensor:
    """Per image, one of three: ``among`` [3, N, ...] and ``position`` [N] to [N, ...]."""
    index = position.view(1, -1, *[1] * (among.dim() - 2)).expand(1, *among.shape[1:])
    return among.gather(0, index)[0]


@dataclass(frozen=True)
class Gap(Writable):
    """Squeeze Training's regulariser: the distance between the two extremes of {clean, adv, col} (ST Eq. 6, Alg. 1).

    Per image, the extremes are the points at which the label is least and most probable. Each of the three is forwarded
    as a batch of its own and *logits* are picked: under batch statistics, forwarding picked images would be another
    computation.
    """

    kind: Kind = "symmetric-kl"

    @property
    def name(self) -> str:
        return f"gap.{self.kind}"

    @property
    def reads(self) -> tuple[At, ...]:
        return TRIPLET

    def __repr__(self) -> str:
        return f"{WORDS[self.kind]}(worst ~ best of {', '.join(TRIPLET)})"

    def __call__(self, views: Views) -> Tensor:
        low, high = extremes(views)
        logits = torch.stack([views.logits(name) for name in TRIPLET])
        return divergence(self.kind, chosen(logits, low), chosen(logits, high))

    def elsewhere(self, old: str, new: str) -> Gap:
        """Its three points are its meaning."""
        assert old not in TRIPLET, f"{self!r} cannot be moved from {old}"
        return self
