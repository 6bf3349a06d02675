"""Learning-rate schedules, as functions of the moment alone: a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from training.registry import Registry
from training.spec import Choice
from training.views import Moment, Schedule

SCHEDULES = Registry("schedule")


@dataclass(frozen=True)
class Rates:
    """What the optimiser's step depends on; ``momentum`` None: it stays as the spec says."""

    lr: Schedule
    momentum: Schedule | None = None


Share = Annotated[float, Field(gt=0, lt=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Divisor = Annotated[float, Field(ge=1)]


@SCHEDULES.register("constant")
def constant(lr: float) -> Schedule:
    """The same rate throughout."""
    return lambda now: lr


@SCHEDULES.register("onecycle", source="Smith and Topin 2018; two cosine phases, as torch's OneCycleLR")
def onecycle(
    lr: float,
    *,
    rise: Share = 0.25,
    start: Divisor = 25.0,
    end: Divisor = 1e4,
    momentum: tuple[Momentum, Momentum] | None = None,
) -> Rates:
    """Up from lr / start for the first ``rise`` of all steps, then down to lr / (start * end), both as cosines.

    ``momentum`` (high, low) goes down while the rate goes up, and back. torch does so with (0.95, 0.85) unless told not
    to, and HAT's program does not tell it.
    """
    rate = _two_phases(rise, lr / start, lr, lr / start / end)
    if momentum is None:
        return Rates(rate)
    high, low = momentum
    return Rates(rate, _two_phases(rise, high, low, high))


def _two_phases(rise: float, first: float, turn: float, last: float) -> Schedule:
    def at(now: Moment) -> float:
        total = now.epochs * now.steps
        step = now.epoch * now.steps + now.step
        top = rise * total - 1
        if step <= top or total == 1:
            return _cosine(first, turn, step / top if top > 0 else 1.0)
        return _cosine(turn, last, (step - top) / (total - 1 - top))

    return at


@SCHEDULES.register("multistep")
def multistep(lr: float, *, milestones: tuple[int, ...], factor: Share = 0.1) -> Schedule:
    """Multiplied by ``factor`` at the start of each milestone epoch (0-based)."""
    return lambda now: lr * factor ** sum(now.epoch >= epoch for epoch in milestones)


@SCHEDULES.register("triangle", source="Smith 2017; as in Wong et al. 2020's program")
def triangle(lr: float, *, peak: Share = 0.5) -> Schedule:
    """From 0 to lr in the first ``peak`` of all steps, and back to 0, in straight lines."""
    return lambda now: lr * min(now.progress / peak, (1 - now.progress) / (1 - peak))


@SCHEDULES.register("cosine", source="Loshchilov and Hutter 2017, Eq. 5, without restarts, per step")
def cosine(lr: float) -> Schedule:
    """From lr to 0 as half a cosine."""
    return lambda now: _cosine(lr, 0.0, now.progress)


@SCHEDULES.register(
    "warmup-multistep", source="Cui et al. 2021's program: the first epoch at a rate of its own"
)
def warmup_multistep(
    lr: float, *, milestones: tuple[int, ...], first: Divisor = 5.0, factor: Share = 0.1
) -> Schedule:
    """As multistep, with the first epoch at lr / ``first``."""
    later = multistep(lr, milestones=milestones, factor=factor)
    return lambda now: lr / first if now.epoch == 0 else later(now)


def build(choice: Choice, lr: float) -> Rates:
    """The schedule that a resolved spec names."""
    made: Rates | Schedule = SCHEDULES.get(choice.name, "train.schedule").build(lr, **choice.parameters)
    return made if isinstance(made, Rates) else Rates(made)


def _cosine(a: float, b: float, share: float) -> float:
    return b + (a - b) * (1 + math.cos(math.pi * share)) / 2
