"""Squeeze Training, and its two-neighbour variants of other methods (Li et al. 2023)."""

from __future__ import annotations

import dataclasses

from training.annealing import Weight, annealed, scaled
from training.batchnorm import BatchNormMode
from training.divergences import Gap, Kind
from training.method import Method
from training.recipes.base import MODIFIERS, RECIPES, Threat, refuse, searches
from training.recipes.baselines import RandomStart
from training.squeeze import Squeeze
from training.terms import CE, Objective, Term, objective
from training.views import Number

TWIN = "twin"  # the second neighbour


@RECIPES.register("st", source="Li et al. 2023, Eq. 6 and Algorithm 1")
def st(
    threat: Threat,
    *,
    beta: Weight = 6.0,
    regulariser: Kind = "symmetric-kl",
    start: RandomStart = "gaussian",
    batchnorm: BatchNormMode = "train-untracked",
) -> Method:
    """Cross-entropy on clean images, and beta times the gap between the worst and the best image of the ball.

    Running statistics follow the clean and the adversarial batch, as in the published program. With extra data
    (``data.extra``) and a uniform start it is ST-RST.
    """
    squeeze = Squeeze(threat.ball, Gap(regulariser), threat.steps, threat.step_size, start, batchnorm)
    return Method((squeeze,), CE("clean") + annealed(beta) * Gap(regulariser), untracked=frozenset({"col"}))


@MODIFIERS.register("two-neighbours", source="Li et al. 2023, App. C, Table 6")
def two_neighbours(method: Method) -> Method:
    """Two adversarial neighbours of every image, from two starts; what was asked of one is asked of both on average."""
    found = searches(method)
    if len(found) != 1:
        raise refuse(
            "two-neighbours",
            "doubles a method's one PGD search, and this one has " + str(len(found) or "none"),
        )
    (search,) = found
    goal = objective(search.objective).map(lambda term: term.elsewhere("adv", TWIN))
    twin = dataclasses.replace(search, objective=goal, point=TWIN)
    at = method.stages.index(search) + 1
    stages = (*method.stages[:at], twin, *method.stages[at:])
    return dataclasses.replace(method, stages=stages, objective=_averaged(method.objective))


def _averaged(loss: Objective) -> Objective:
    """Terms at ``adv`` at half their weight, and the same at the twin."""
    terms: list[tuple[Number, Term]] = []
    for weight, term in loss.terms:
        twin = term.elsewhere("adv", TWIN)
        if twin == term:
            terms.append((weight, term))
        else:
            half = scaled(weight, 0.5)
            terms += [(half, term), (half, twin)]
    return Objective(tuple(terms))
