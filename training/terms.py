"""Distances between what networks say at points. A loss, inner or outer, is a weighted sum of them.

>>> CE("clean") + 6.0 * KL("adv", "clean")
CE(clean) + 6*KL(adv to clean)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn.functional import cross_entropy

from training.views import Moment, Number, Views, value

At = str | tuple[str, str]  # a point, or (point, network); the network is the student unless it is named


def _pair(at: At) -> tuple[str, str]:
    return at if isinstance(at, tuple) else (at, "student")


def _print(at: At) -> str:
    return at if isinstance(at, str) else f"{at[0]} by {at[1]}"


def _key(at: At) -> str:
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


class _Sums:
    """Lets a term be written in a formula: ``2.0 * KL("adv", "clean") + CE("clean")``."""

    def __add__(self: Term, other: Term | Objective) -> Objective:
        return objective(self) + other

    def __rmul__(self: Term, weight: Number) -> Objective:
        return Objective(((weight, self),))


@dataclass(frozen=True)
class CE(_Sums):
    """Cross-entropy at a point against a target, -sum_k target_k log p_k, in nats."""

    at: At
    target: str = "label"

    @property
    def name(self) -> str:
        return f"CE.{_key(self.at)}" + ("" if self.target == "label" else f".{self.target}")

    @property
    def reads(self) -> tuple[At, ...]:
        return (self.at,)

    def __repr__(self) -> str:
        return f"CE({_print(self.at)}" + (")" if self.target == "label" else f", {self.target} label)")

    def __call__(self, views: Views) -> Tensor:
        return cross_entropy(views.logits(*_pair(self.at)), views.targets[self.target], reduction="none")


@dataclass(frozen=True)
class KL(_Sums):
    """Kullback-Leibler divergence sum_k p_to (log p_to - log p_at), in nats; the gradient flows into both."""

    at: At
    to: At

    @property
    def name(self) -> str:
        return f"KL.{_key(self.at)}.{_key(self.to)}"

    @property
    def reads(self) -> tuple[At, ...]:
        return (self.to, self.at)

    def __repr__(self) -> str:
        return f"KL({_print(self.at)} to {_print(self.to)})"

    def __call__(self, views: Views) -> Tensor:
        to, at = _pair(self.to), _pair(self.at)
        return (views.probs(*to) * (views.log_probs(*to) - views.log_probs(*at))).sum(dim=1)


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms. Its repr is the formula; a weight may be a schedule."""

    terms: tuple[tuple[Number, Term], ...]

    def __add__(self, other: Term | Objective) -> Objective:
        return Objective(self.terms + objective(other).terms)

    def __rmul__(self, weight: float) -> Objective:
        for w, term in self.terms:
            if callable(w):
                raise ValueError(
                    f"{term!r} has a scheduled weight, which cannot be scaled; scale the schedule"
                )
        return Objective(tuple((weight * w, term) for w, term in self.terms if not callable(w)))

    def __repr__(self) -> str:
        return " + ".join(
            repr(t) if w == 1 else f"{w if callable(w) else format(w, 'g')}*{t!r}" for w, t in self.terms
        )

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
