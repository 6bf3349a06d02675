"""Hyperparameters that change while a network is trained: functions of the moment, written as data in a spec.

========================= ============================================================================================
``{cosine: [a, b]}``      from a to b as half a cosine, per step
``{linear: [a, b]}``      from a to b in a straight line, per step
``{steps: [[s, v], ..]}`` v from epoch s on, or from a share s < 1 of all epochs on; the first s is 0
========================= ============================================================================================

>>> annealed({"cosine": [2.5, 2.0]})
2.5 to 2 (cosine)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from training.spec import ANNEALED, fraction
from training.views import Moment, Number, Schedule


@dataclass(frozen=True)
class Cosine:
    """From ``start`` to ``end`` as half a cosine, per step (Wu et al. 2024, Sec. 4.2: ADR's temperature and ratio)."""

    start: float
    end: float

    def __call__(self, now: Moment) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * now.progress)) / 2

    def __repr__(self) -> str:
        return f"{self.start:g} to {self.end:g} (cosine)"


@dataclass(frozen=True)
class Linear:
    """From ``start`` to ``end`` in a straight line, per step."""

    start: float
    end: float

    def __call__(self, now: Moment) -> float:
        return self.start + (self.end - self.start) * now.progress

    def __repr__(self) -> str:
        return f"{self.start:g} to {self.end:g} (linear)"


@dataclass(frozen=True)
class Steps:
    """The value of the last row whose epoch has come; an epoch below 1 is a share of all epochs."""

    rows: tuple[tuple[float, float], ...]

    def __call__(self, now: Moment) -> float:
        come = [value for since, value in self.rows if now.epoch >= self._epoch(since, now.epochs)]
        return come[-1]

    @staticmethod
    def _epoch(since: float, epochs: int) -> float:
        return since * epochs - 1e-9 if since < 1 else since

    def __repr__(self) -> str:
        return ", then ".join(
            f"{value:g}" + (f" from {since:.3g}" if since else "") for since, value in self.rows
        )


@dataclass(frozen=True)
class Scaled:
    """Another schedule times a factor."""

    of: Schedule
    factor: float

    def __call__(self, now: Moment) -> float:
        return self.factor * self.of(now)

    def __repr__(self) -> str:
        return f"{self.factor:g}*({self.of!r})"


def scaled(number: Number, by: float) -> Number:
    """A hyperparameter times a factor."""
    return Scaled(number, by) if callable(number) else by * number


def annealed(number: float | dict[str, Any]) -> Number:
    """What a spec holds as what a method reads."""
    if not isinstance(number, dict):
        return number
    ((kind, given),) = number.items()
    if kind == "steps":
        return Steps(tuple((since, value) for since, value in given))
    return Cosine(*given) if kind == "cosine" else Linear(*given)


def always(number: Number, what: float) -> bool:
    """Is it this number, and no schedule?"""
    return not callable(number) and number == what


def _plain(value: Any) -> Any:
    """A number or a schedule with its shape checked; ``8/255`` as a number."""
    if not isinstance(value, dict):
        return fraction(value)
    if len(value) != 1 or next(iter(value)) not in ANNEALED:
        raise ValueError(
            f"should be a number, or one of {{cosine: [a, b]}}, {{linear: [a, b]}}, {{steps: ...}}, got {value!r}"
        )
    ((kind, given),) = value.items()
    if kind == "steps":
        try:
            rows = [[float(fraction(since)), float(fraction(number))] for since, number in given]
        except (TypeError, ValueError):
            raise ValueError(
                f"steps are pairs of an epoch and a value, like [[0, 1], [50, 2]], got {given!r}"
            ) from None
        epochs = [since for since, _ in rows]
        if not rows or epochs[0] != 0 or not all(a < b < math.inf for a, b in pairwise(epochs)):
            raise ValueError(f"steps begin at epoch 0 and go upwards, got {given!r}")
        if any(since < 1 for since in epochs[1:]) and epochs[-1] >= 1:
            raise ValueError(f"steps count epochs, or shares below 1 of all epochs, not both, got {given!r}")
        return {kind: rows}
    try:
        if not isinstance(given, (list, tuple)):
            raise TypeError
        start, end = (float(fraction(end)) for end in given)
    except (TypeError, ValueError):
        raise ValueError(f"{kind} goes from one number to another, like [0.7, 0.95], got {given!r}") from None
    return {kind: [start, end]}


def _numbers(value: Any) -> list[float]:
    if not isinstance(value, dict):
        return [value]
    ((kind, given),) = value.items()
    return [number for _, number in given] if kind == "steps" else list(given)


def bounded(low: float, high: float = math.inf) -> Callable[[Any], Any]:
    """A check that a number, or every number of a schedule, lies in [low, high]."""

    def check(value: Any) -> Any:
        for number in _numbers(value):
            if not (math.isfinite(number) and low <= number <= high):
                upper = "" if high == math.inf else f" and at most {high:g}"
                raise ValueError(f"should be at least {low:g}{upper}, got {number!r}")
        return value

    return check


Annealed = float | dict[str, list[Any]]
Weight = Annotated[Annealed, BeforeValidator(_plain), AfterValidator(bounded(0))]
Ratio = Annotated[Annealed, BeforeValidator(_plain), AfterValidator(bounded(0, 1))]
Temperature = Annotated[Annealed, BeforeValidator(_plain), AfterValidator(bounded(1e-6))]
