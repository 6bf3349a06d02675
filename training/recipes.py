"""The methods by name, each an expression in the parts of this package; and what papers add to a method."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from training.guides import Average, Frozen
from training.method import Method
from training.registry import Registry
from training.spec import AttackSpec, MethodChoice
from training.stages import PGD, BatchNormMode, Extrapolate, Start
from training.terms import CE, KL, Objective, Term, objective
from training.threat import Ball, ball

RECIPES = Registry("method")
MODIFIERS = Registry("modifier")

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Threat:
    """The ball and the search that a spec's ``attack`` section asks for."""

    ball: Ball
    steps: int
    step_size: float

    def search(self, goal: Term | Objective, start: Start, batchnorm: BatchNormMode = "eval") -> PGD:
        """Look for the worst image in the ball."""
        return PGD(self.ball, objective(goal), self.steps, self.step_size, start, batchnorm)


@RECIPES.register("standard", source="plain training on clean images")
def standard(threat: Threat) -> Method:
    """Cross-entropy on clean images; its best epoch is the most accurate one."""
    return Method((), objective(CE("clean")), select="clean")


@RECIPES.register("pgd-at", source="Madry et al. 2018, Eq. 2.1")
def pgd_at(threat: Threat, *, batchnorm: BatchNormMode = "eval") -> Method:
    """Cross-entropy on the images that PGD finds from a uniform start."""
    return Method((threat.search(CE("adv"), "uniform", batchnorm),), objective(CE("adv")))


@RECIPES.register("trades", source="Zhang et al. 2019, Eq. 5")
def trades(threat: Threat, *, beta: Weight = 6.0, batchnorm: BatchNormMode = "eval") -> Method:
    """Cross-entropy on clean images, and beta times how far the prediction moves within the ball.

    Differs from the published code in forwarding the clean batch once per step in train mode, not twice.
    """
    search = threat.search(KL("adv", "clean"), "gaussian", batchnorm)
    return Method((search,), CE("clean") + beta * KL("adv", "clean"))


@RECIPES.register("hat", source="Rade and Moosavi-Dezfooli 2022, Algorithm 1", helpers=("standard",))
def hat(
    threat: Threat,
    *,
    beta: Weight = 2.5,
    gamma: Weight = 0.5,
    factor: float = 2.0,
    label_at: float = 1.0,
    batchnorm: BatchNormMode = "eval",
) -> Method:
    """TRADES, and helper examples beyond the ball, labelled by a standard-trained network.

    With gamma 0 it is TRADES, in batch statistics too: helpers are not forwarded.
    """
    base = trades(threat, beta=beta, batchnorm=batchnorm)
    return _helped(base, gamma, factor, label_at)


@RECIPES.register("hat-at", source="Rade and Moosavi-Dezfooli 2022, App. C.3", helpers=("standard",))
def hat_at(
    threat: Threat,
    *,
    beta: Weight = 1.75,
    gamma: Weight = 1.0,
    factor: float = 2.0,
    label_at: float = 1.0,
    batchnorm: BatchNormMode = "eval",
) -> Method:
    """HAT on adversarial training: cross-entropy for the search and for the robust loss."""
    search = threat.search(CE("adv"), "gaussian", batchnorm)
    return _helped(Method((search,), CE("clean") + beta * CE("adv")), gamma, factor, label_at)


def _helped(base: Method, gamma: float, factor: float, label_at: float) -> Method:
    if gamma == 0:
        return base
    return dataclasses.replace(
        base,
        stages=(*base.stages, Extrapolate(factor, label_at)),
        objective=base.objective + gamma * CE("help", target="help"),
        guides={"standard": Frozen("standard")},
    )


@MODIFIERS.register("wa", source="Izmailov et al. 2018; decay as in Gowal et al. 2021")
def averaged(method: Method, *, decay: Share = 0.995) -> Method:
    """Evaluate an exponential moving average of the weights."""
    return dataclasses.replace(
        method, guides={**method.guides, "average": Average(decay)}, evaluate="average"
    )


def build(choice: MethodChoice, attack: AttackSpec) -> Method:
    """The method that a resolved spec names, its modifiers applied in written order."""
    assert attack.step_size is not None, "an attack's step size is filled in when it is read"
    threat = Threat(ball(attack), attack.steps, attack.step_size)
    method: Method = RECIPES.get(choice.name, "method.name").build(threat, **choice.parameters)
    for name, given in choice.with_.items():
        method = MODIFIERS.get(name, "method.with").build(method, **given)
    return method
