"""Adversarial weight perturbation (Wu et al. 2020), in both published forms."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from pydantic import Field

from training.method import Method
from training.recipes.base import MODIFIERS, refuse
from training.stages import Free
from training.updates import AWP, descend

Radius = Annotated[float, Field(ge=0, le=1)]
Epoch = Annotated[int, Field(ge=0)]


@MODIFIERS.register("awp", source="Wu et al. 2020, Algorithm 1; form sam: Wu et al. 2024's program")
def awp(
    method: Method, *, radius: Radius = 0.005, since: Epoch = 0, form: Literal["awp", "sam"] = "awp"
) -> Method:
    """Take each step for weights moved up the loss, by ``radius`` times their own size.

    Published: 0.01 (later 0.005) from epoch 0 on AT, 0.005 from epoch 10 on TRADES. ``sam`` is ADR's program, meant
    without Nesterov momentum.
    """
    if any(isinstance(stage, Free) for stage in method.stages):
        raise refuse("awp", "FreeAT has one backward for weights and noise, and awp needs two")
    if method.update != descend:
        raise refuse("awp", "the method has an update of its own already")
    return dataclasses.replace(method, update=AWP(radius, since, form))
