"""What was compared, then and now: how much of it is equal bit for bit, and how far apart the rest is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

LARGEST = 1.7976931348623157e308  # what a database makes of infinity

Measure = Literal["absolute", "relative", "share"]


class Part(NamedTuple):
    """One thing, then and now.

    Args:
        where: as ``epoch 2, val/robust``.
        distance: 0 for what is equal; infinite for what is missing, or can have no distance.
        measure: of the distance, and of ``limit``, the greatest that is within tolerance.
        text: both sides in words, ``0.5 then, 0.6 now``.
        unequal, of: how many of its numbers, tensors or images are not equal bit for bit.
    """

    where: str
    distance: float
    measure: Measure
    limit: float
    text: str
    unequal: int
    of: int = 1

    @property
    def beyond(self) -> bool:
        """Is it outside of the tolerance?"""
        return self.unequal > 0 and self.distance > self.limit

    @property
    def far(self) -> str:
        """How far it is, in words."""
        of = {"absolute": "", "relative": " relative", "share": " of the images"}[self.measure]
        return f"{self.distance:.3g}{of} (tolerance {self.limit:g})"


def number(where: str, then: float | None, now: float | None, measure: Measure, limit: float) -> Part:
    """A number; None: it is missing. Relative is to the greater of both."""
    a, b = _infinite(then), _infinite(now)
    text = f"{_told(a, b)} then, {_told(b, a)} now"
    if a is None or b is None:
        return Part(where, math.inf, measure, limit, text, 1)
    if a == b or (math.isnan(a) and math.isnan(b)):
        return Part(where, 0.0, measure, limit, text, 0)
    apart = abs(a - b) / (max(abs(a), abs(b)) if measure == "relative" else 1.0)
    return Part(where, apart if math.isfinite(apart) else math.inf, measure, limit, text, 1)


@dataclass(frozen=True)
class Quantity:
    """One kind of what was compared, as ``metrics of epochs``, with its parts in their order."""

    name: str
    parts: tuple[Part, ...]

    @property
    def compared(self) -> int:
        """How many numbers, tensors or images."""
        return sum(part.of for part in self.parts)

    @property
    def unequal(self) -> int:
        """How many of them are not equal bit for bit."""
        return sum(part.unequal for part in self.parts)

    @property
    def first(self) -> Part | None:
        """The first part that is not equal bit for bit."""
        return next((part for part in self.parts if part.unequal), None)

    @property
    def furthest(self) -> Part | None:
        """The part that is furthest apart, for its tolerance; None when all are equal."""
        unequal = [part for part in self.parts if part.unequal]
        return max(unequal, key=lambda part: part.distance / (part.limit or 1e-300), default=None)

    @property
    def beyond(self) -> Part | None:
        """The first part that is outside of the tolerance."""
        return next((part for part in self.parts if part.beyond), None)

    @property
    def verdict(self) -> str:
        """``identical``, ``within tolerance`` or ``differs``."""
        return "differs" if self.beyond else "within tolerance" if self.first else "identical"


def _infinite(value: float | None) -> float | None:
    return math.copysign(math.inf, value) if value is not None and abs(value) >= LARGEST else value


def _told(value: float | None, other: float | None) -> str:
    """A number in nine digits, or in as many as tell it from the other."""
    if value is None or other is None or f"{value:.9g}" != f"{other:.9g}":
        return "missing" if value is None else f"{value:.9g}"
    return repr(value)
