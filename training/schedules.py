"""Learning-rate schedules, as functions of the moment alone: a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from training.registry import Registry
from training.spec import Choice
from training.views import Moment, Schedule

SCHEDULES = Registry("schedule")

Share = Annotated[float, Field(gt=0, lt=1)]
Divisor = Annotated[float, Field(ge=1)]


@SCHEDULES.register("constant")
def constant(lr: float) -> Schedule:
    """The same rate throughout."""
    return lambda now: lr


@SCHEDULES.register("onecycle", source="Smith and Topin 2018; two cosine phases, as torch's OneCycleLR")
def onecycle(lr: float, *, rise: Share = 0.25, start: Divisor = 25.0, end: Divisor = 1e4) -> Schedule:
    """Up from lr / start for the first ``rise`` of all steps, then down to lr / (start * end), both as cosines."""
    low, last = lr / start, lr / start / end

    def at(now: Moment) -> float:
        total = now.epochs * now.steps
        step = now.epoch * now.steps + now.step
        top = rise * total - 1
        if step <= top or total == 1:
            return _cosine(low, lr, step / top if top > 0 else 1.0)
        return _cosine(lr, last, (step - top) / (total - 1 - top))

    return at


@SCHEDULES.register("multistep")
def multistep(lr: float, *, milestones: tuple[int, ...], factor: Share = 0.1) -> Schedule:
    """Multiplied by ``factor`` at the start of each milestone epoch (0-based)."""
    return lambda now: lr * factor ** sum(now.epoch >= epoch for epoch in milestones)


@SCHEDULES.register("cosine", source="Loshchilov and Hutter 2017, Eq. 5, without restarts, per step")
def cosine(lr: float) -> Schedule:
    """From lr to 0 as half a cosine."""
    return lambda now: _cosine(lr, 0.0, now.progress)


def build(choice: Choice, lr: float) -> Schedule:
    """The schedule that a resolved spec names."""
    schedule: Schedule = SCHEDULES.get(choice.name, "train.schedule").build(lr, **choice.parameters)
    return schedule


def _cosine(a: float, b: float, share: float) -> float:
    return b + (a - b) * (1 + math.cos(math.pi * share)) / 2
