"""What recipes and modifiers are written in: the registries, the threat a spec asks for, and changes of a method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from training.batchnorm import BatchNormMode
from training.errors import UserError
from training.method import Method
from training.registry import Registry
from training.stages import PGD, Stage, Start
from training.terms import CE, Objective, Term, objective
from training.threat import Ball
from training.views import Number

RECIPES = Registry("method")
MODIFIERS = Registry("modifier")

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Threat:
    """The ball and the search that a spec's ``attack`` section asks for."""

    ball: Ball
    steps: int
    step_size: float

    def search(
        self,
        goal: Term | Objective,
        start: Start,
        batchnorm: BatchNormMode = "eval",
        *,
        steps: int | None = None,
        step_size: Number | None = None,
        clip_start: bool = False,
    ) -> PGD:
        """Look for the worst image in the ball."""
        return PGD(
            self.ball,
            objective(goal),
            self.steps if steps is None else steps,
            self.step_size if step_size is None else step_size,
            start,
            batchnorm,
            clip_start=clip_start,
        )


def searches(method: Method) -> tuple[PGD, ...]:
    """The method's PGD searches."""
    return tuple(stage for stage in method.stages if isinstance(stage, PGD))


def with_searches(method: Method, change: Callable[[PGD], Stage]) -> Method:
    """The method with each of its PGD searches changed."""
    stages = tuple(change(stage) if isinstance(stage, PGD) else stage for stage in method.stages)
    return dataclasses.replace(method, stages=stages)


def retargeted(goal: Term | Objective, old: str, new: str) -> Objective:
    """The objective with cross-entropies against one target turned against another."""

    def change(term: Term) -> Term:
        return dataclasses.replace(term, target=new) if isinstance(term, CE) and term.target == old else term

    return objective(goal).map(change)


def refuse(modifier: str, reason: str) -> UserError:
    """The error of a combination that makes no sense."""
    return UserError(f"method.with.{modifier}: {reason}")
