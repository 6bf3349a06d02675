"""Distances between what networks say at points. A loss, inner or outer, is a weighted sum of them.

>>> CE("clean") + 6.0 * KL("adv", "clean")
CE(clean) + 6*KL(adv to clean)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

from torch import Tensor
from torch.nn.functional import cross_entropy

from training.annealing import scaled
from training.views import Moment, Number, Views, value

At = str | tuple[str, str]  # a point, or (point, network); the network is the student unless it is named


def pair(at: At) -> tuple[str, str]:
    """(point, network) of a place."""
    return at if isinstance(at, tuple) else (at, "student")


def words(at: At) -> str:
    """A place as formulas print it."""
    return at if isinstance(at, str) else f"{at[0]} by {at[1]}"


def dotted(at: At) -> str:
    """A place as metric names have it."""
    return at if isinstance(at, str) else ".".join(at)


class Term(Protocol):
    """A distance per image. ``name`` is its metric name (trackers refuse parentheses)."""

    @property
    def name(self) -> str:
        """Metric name, as in ``KL.adv.clean``."""

    @property
    def reads(self) -> tuple[At, ...]:
        """The points that it reads, in forward order."""

    def __call__(self, views: Views) -> Tensor:
        """The distances, [N]."""

    def elsewhere(self, old: str, new: str) -> Term:
        """The same distance with the point ``old`` replaced by ``new``."""


class Writable:
    """Lets a term be written in a formula, ``2.0 * KL("adv", "clean") + CE("clean")``, and moved to another point.

    A dataclass whose fields ``at``, ``to``, ``a`` and ``b``, as far as it has them, are points.
    """

    def __add__(self: Term, other: Term | Objective) -> Objective:
        return objective(self) + other

    def __rmul__(self: Term, weight: Number) -> Objective:
        return Objective(((weight, self),))

    def elsewhere(self, old: str, new: str) -> Self:
        moved: dict[str, At] = {}
        for field in ("at", "to", "a", "b"):
            at = getattr(self, field, None)
            if at == old:
                moved[field] = new
            elif isinstance(at, tuple) and at[0] == old:
                moved[field] = (new, at[1])
        return dataclasses.replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True)
class CE(Writable):
    """Cross-entropy at a point against a target, -sum_k target_k log p_k, in nats.

    ``margin`` is taken off the target's logits (of the label's, where the target is one-hot): Pang et al. 2020,
    Eq. 6, where it is s*m.
    """

    at: At
    target: str = "label"
    margin: float = 0.0

    @property
    def name(self) -> str:
        return f"CE.{dotted(self.at)}" + ("" if self.target == "label" else f".{self.target}")

    @property
    def reads(self) -> tuple[At, ...]:
        return (self.at,)

    def __repr__(self) -> str:
        target = "" if self.target == "label" else f", {self.target} label"
        margin = f", margin {self.margin:g}" if self.margin else ""
        return f"CE({words(self.at)}{target}{margin})"

    def __call__(self, views: Views) -> Tensor:
        logits, target = views.logits(*pair(self.at)), views.targets[self.target]
        if self.margin:
            logits = logits - self.margin * target
        return cross_entropy(logits, target, reduction="none")


@dataclass(frozen=True)
class KL(Writable):
    """Kullback-Leibler divergence sum_k p_to (log p_to - log p_at), in nats; the gradient flows into both.

    ``to`` is forwarded before ``at``, or after it with ``at_first``.
    """

    at: At
    to: At
    at_first: bool = False

    @property
    def name(self) -> str:
        return f"KL.{dotted(self.at)}.{dotted(self.to)}"

    @property
    def reads(self) -> tuple[At, ...]:
        return (self.at, self.to) if self.at_first else (self.to, self.at)

    def __repr__(self) -> str:
        return f"KL({words(self.at)} to {words(self.to)})"

    def __call__(self, views: Views) -> Tensor:
        to, at = pair(self.to), pair(self.at)
        views.logits(*pair(self.reads[0]))
        return (views.probs(*to) * (views.log_probs(*to) - views.log_probs(*at))).sum(dim=1)


@dataclass(frozen=True)
class MSE(Writable):
    """Mean over classes of the squared difference of logits; the gradient flows into both.

    LBGAT's guidance (Cui et al. 2021, Eq. 2: the mean is over batch and classes) and ALP's pairing. Logits of a
    hypersphere head are ``scale`` times a cosine: divided by it, the pairing is of cosines (Pang et al. 2020, Table 1).
    """

    a: At
    b: At
    scale: float = 1.0

    @property
    def name(self) -> str:
        return f"MSE.{dotted(self.a)}.{dotted(self.b)}"

    @property
    def reads(self) -> tuple[At, ...]:
        return (self.a, self.b)

    def __repr__(self) -> str:
        scale = f" / {self.scale:g}" if self.scale != 1 else ""
        return f"MSE({words(self.a)}, {words(self.b)}{scale})"

    def __call__(self, views: Views) -> Tensor:
        gap = views.logits(*pair(self.a)) - views.logits(*pair(self.b))
        return (gap if self.scale == 1 else gap / self.scale).square().mean(dim=1)


@dataclass(frozen=True)
class Margin(Writable):
    """How far the best wrong logit is above the label's, max_{k != y} z_k - z_y (Carlini and Wagner 2017)."""

    at: At

    @property
    def name(self) -> str:
        return f"margin.{dotted(self.at)}"

    @property
    def reads(self) -> tuple[At, ...]:
        return (self.at,)

    def __repr__(self) -> str:
        return f"margin({words(self.at)})"

    def __call__(self, views: Views) -> Tensor:
        logits = views.logits(*pair(self.at))
        label = views.targets["label"].argmax(dim=1, keepdim=True)
        wrong = logits.scatter(1, label, -math.inf).amax(dim=1)
        return wrong - logits.gather(1, label)[:, 0]


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms. Its repr is the formula; a weight may be a schedule."""

    terms: tuple[tuple[Number, Term], ...]

    def __add__(self, other: Term | Objective) -> Objective:
        return Objective(self.terms + objective(other).terms)

    def __rmul__(self, weight: float) -> Objective:
        return Objective(tuple((scaled(w, weight), term) for w, term in self.terms))

    def __repr__(self) -> str:
        return " + ".join(
            repr(t) if w == 1 else f"{f'({w!r})' if callable(w) else format(w, 'g')}*{t!r}"
            for w, t in self.terms
        )

    def map(self, change: Callable[[Term], Term]) -> Objective:
        """The same weights on changed terms."""
        return Objective(tuple((weight, change(term)) for weight, term in self.terms))

    def without_idle(self) -> Objective:
        """Without terms of weight 0, whose forwards would still move running statistics."""
        return Objective(tuple((w, t) for w, t in self.terms if callable(w) or w != 0))

    @property
    def named(self) -> tuple[Term, ...]:
        """Its terms, without their weights."""
        return tuple(term for _, term in self.terms)

    @property
    def reads(self) -> tuple[At, ...]:
        """The (point, network) pairs that its terms read, each once, in forward order."""
        return tuple(dict.fromkeys(at for _, term in self.terms for at in term.reads))

    def __call__(self, views: Views) -> Tensor:
        """The weighted sum per image, [N]."""
        total, _ = self.parts(views)
        return total

    def parts(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum per image [N], and every term by name, unweighted, [N]."""
        named: dict[str, Tensor] = {}
        total: Tensor | None = None
        for weight, term in self.terms:
            distance = term(views)
            named[term.name] = distance
            weighed = _weigh(weight, distance, views.now)
            total = weighed if total is None else total + weighed
        assert total is not None, "an objective has at least one term"
        return total, named


def objective(of: Term | Objective) -> Objective:
    """A term as the objective that it is."""
    return of if isinstance(of, Objective) else Objective(((1.0, of),))


def _weigh(weight: Number, distance: Tensor, now: Moment) -> Tensor:
    number = value(weight, now)
    return distance if number == 1 else number * distance
