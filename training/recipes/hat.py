"""Helper-based adversarial training (Rade and Moosavi-Dezfooli 2022)."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from pydantic import Field

from training.annealing import Weight, always, annealed
from training.batchnorm import BatchNormMode
from training.guides import Frozen, Helper
from training.method import Method
from training.recipes.base import RECIPES, Threat
from training.recipes.baselines import RandomStart, trades
from training.stages import Extrapolate
from training.terms import CE
from training.views import Number

Factor = Annotated[float, Field(ge=0, le=100)]


@RECIPES.register("hat", source="Rade and Moosavi-Dezfooli 2022, Algorithm 1", helpers=("standard",))
def hat(
    threat: Threat,
    *,
    beta: Weight = 2.5,
    gamma: Weight = 0.5,
    factor: Factor = 2.0,
    label_at: Factor = 1.0,
    start: RandomStart = "gaussian",
    batchnorm: BatchNormMode = "eval",
) -> Method:
    """TRADES, and helper examples beyond the ball, labelled by a standard-trained network.

    With gamma 0 it is TRADES, in batch statistics too: helpers are not forwarded. The published large recipe takes
    the helper loss in a second backward, which gives the same gradient.
    """
    return _helped(
        trades(threat, beta=beta, start=start, batchnorm=batchnorm), annealed(gamma), factor, label_at
    )


@RECIPES.register("hat-at", source="Rade and Moosavi-Dezfooli 2022, App. C.3", helpers=("standard",))
def hat_at(
    threat: Threat,
    *,
    beta: Weight = 1.75,
    gamma: Weight = 1.0,
    factor: Factor = 2.0,
    label_at: Factor = 1.0,
    start: RandomStart = "uniform",
    batchnorm: BatchNormMode = "eval",
) -> Method:
    """HAT on adversarial training: cross-entropy for the search and for the robust loss.

    The paper does not say where this search starts; its program starts it anywhere in the ball.
    """
    search = threat.search(CE("adv"), start, batchnorm)
    return _helped(
        Method((search,), CE("clean") + annealed(beta) * CE("adv")), annealed(gamma), factor, label_at
    )


def _helped(base: Method, gamma: Number, factor: float, label_at: float) -> Method:
    if always(gamma, 0):
        return base
    return dataclasses.replace(
        base,
        stages=(*base.stages, Extrapolate(factor, label_at)),
        objective=base.objective + gamma * CE("help", target="help"),
        guides={"standard": Frozen((Helper("standard"),))},
    )
