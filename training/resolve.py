"""From what a user wrote to a spec with every default filled in; and what follows from a resolved spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.errors import UserError
from training.guides import Helper
from training.models import MODELS
from training.recipes import MODIFIERS, RECIPES, build, of_the_network
from training.schedules import SCHEDULES
from training.spec import AttackSpec, Choice, TrialSpec, overlay


def resolve(spec: TrialSpec, where: str = "spec") -> TrialSpec:
    """The spec with the parameters of its method, modifiers, model and schedule checked and filled in.

    Raises:
        UserError: naming ``where`` and the field.
    """
    at = f"{where}." if where else ""
    recipe = RECIPES.get(spec.method.name, f"{at}method.name")
    modifiers = {
        name: MODIFIERS.get(name, f"{at}method.with").resolve(given, f"{at}method.with.{name}")
        for name, given in spec.method.with_.items()
    }
    method = {"name": spec.method.name, "with": modifiers} | recipe.resolve(
        spec.method.parameters, f"{at}method"
    )
    facts = spec.dump() | {"method": method}
    model = MODELS.get(spec.model.name, f"{at}model.name")
    facts["model"] = {"name": spec.model.name} | model.resolve(spec.model.parameters, f"{at}model")
    schedule: Choice = spec.train.schedule
    entry = SCHEDULES.get(schedule.name, f"{at}train.schedule.name")
    facts["train"]["schedule"] = {"name": schedule.name} | entry.resolve(
        schedule.parameters, f"{at}train.schedule"
    )
    resolved = TrialSpec.model_validate(facts)
    built = build(resolved.method, resolved.attack)
    if built.extra and resolved.data.extra is None:
        raise UserError(
            f"{at}data.extra: '{spec.method.name}' trains on extra images, give them as {{path: FILE, share: 0.5}}"
        )
    assert resolved.attack.step_size is not None, "filled in when it is read"
    moved = {"steps": resolved.attack.steps + 1, "step_size": 2 * resolved.attack.step_size}
    if build(resolved.method, resolved.attack.model_copy(update=moved)) == built:
        # Nothing searches in training: how the others search must not make this another trial.
        plain = {"norm": spec.attack.norm, "eps": spec.attack.eps}
        resolved = resolved.model_copy(update={"attack": AttackSpec.model_validate(plain)})
    return TrialSpec.model_validate(resolved.dump())  # tuples as JSON writes them: one form, one key


def formula(spec: TrialSpec) -> str:
    """The loss of a resolved spec as people write it."""
    return build(spec.method, spec.attack).formula


def needed_helpers(spec: TrialSpec) -> tuple[Helper, ...]:
    """The trained networks that the method of a resolved spec reads."""
    return build(spec.method, spec.attack).helpers


def helper_spec(spec: TrialSpec, helper: Helper, overrides: Mapping[str, Any]) -> TrialSpec:
    """The trial of a helper network (not yet resolved).

    Trained by the helper's method with the trial's own data, model, recipe and threat model, but always with the
    helper's seed, so that trials which differ only in seed or method share one. ``overrides`` is laid over that. A
    network that the student starts from has the student's head.
    """
    method: dict[str, Any] = {"name": helper.method}
    if build(spec.method, spec.attack).start == helper:
        method["with"] = of_the_network(spec.method, spec.attack)
    facts = spec.dump() | {"method": method, "helpers": {}, "seed": helper.seed}
    if helper.method == "standard":
        facts["data"]["extra"] = None
    return TrialSpec.model_validate(overlay(facts, overrides))


def check_start(spec: TrialSpec, helper: Helper, trained: TrialSpec) -> None:
    """Raise UserError where the student is to start from this helper and is another network (resolved specs)."""
    method, other = build(spec.method, spec.attack), build(trained.method, trained.attack)
    if method.start != helper:
        return
    if trained.model != spec.model:
        raise UserError(
            f"helpers.{helper.name}: its model, '{trained.model.name}', is not the '{spec.model.name}' that is to start"
            " from it; names and parameters must be equal"
        )
    if method.head != other.head:
        raise UserError(
            f"helpers.{helper.name}: ends in {other.head or 'a linear head'}, and the network that is to start from it"
            f" in {method.head or 'a linear head'}; train both with the same he"
        )


def cost(spec: TrialSpec, images: int) -> float:
    """Network passes of one whole training on ``images`` training images, in millions of images.

    A forward counts one, a backward two, a gradient with respect to the input alone one.
    """
    method = build(spec.method, spec.attack)
    share = 1.0 if spec.selection == "test" else 1 - spec.data.val
    judged = (1 - share) * (2 * spec.train.validate_steps + 1) / spec.train.validate_every
    return spec.train.epochs * images * (share * method.passes + judged) / 1e6
