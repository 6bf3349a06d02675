"""The methods by name, each an expression in the parts of this package; and what papers add to a method.

A recipe is a function ``(threat, *, parameters) -> Method`` under ``@RECIPES.register(name)``, a modifier a function
``(method, *, parameters) -> Method`` under ``@MODIFIERS.register(name)``. One file per paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from training.method import Method
from training.recipes import adr, averaging, awp, baselines, friendly, guided, hat, hypersphere, squeeze
from training.recipes.base import MODIFIERS, RECIPES, Threat
from training.spec import AttackSpec, MethodChoice
from training.threat import ball

__all__ = [
    "MODIFIERS",
    "RECIPES",
    "Threat",
    "adr",
    "averaging",
    "awp",
    "baselines",
    "build",
    "friendly",
    "guided",
    "hat",
    "hypersphere",
    "squeeze",
]


def build(choice: MethodChoice, attack: AttackSpec) -> Method:
    """The method that a resolved spec names, its modifiers applied in written order.

    Raises:
        UserError: there is no such recipe or modifier, or they make no sense together.
    """
    *_, (_, method) = _built(choice, attack)
    return method


def of_the_network(choice: MethodChoice, attack: AttackSpec) -> dict[str, dict[str, Any]]:
    """The modifiers that change what the student is (its head), not only how it is trained, with their parameters."""
    steps = list(_built(choice, attack))
    changing = {name for (_, before), (name, after) in pairwise(steps) if after.head != before.head}
    return {name: given for name, given in choice.with_.items() if name in changing}


def _built(choice: MethodChoice, attack: AttackSpec) -> Iterator[tuple[str, Method]]:
    """The recipe's method, and then what each modifier makes of it, by name."""
    assert attack.step_size is not None, "an attack's step size is filled in when it is read"
    threat = Threat(ball(attack), attack.steps, attack.step_size)
    method: Method = RECIPES.get(choice.name, "method.name").build(threat, **choice.parameters)
    yield choice.name, method
    for name, given in choice.with_.items():
        method = MODIFIERS.get(name, "method.with").build(method, **given)
        yield name, method
