"""What every method says of itself: comparisons, prints, names of terms, formulas, parameters.

The rows are those of every_method.py. What a method computes is for the tests against the papers.
"""

import pickle
import re
from typing import get_args

import pytest
from every_method import (
    EPS,
    EVERY,
    NOW,
    SECTIONS,
    SINGLE,
    Step,
    method_of,
)

from training.recipes import MODIFIERS, RECIPES
from training.views import value

ROWS = pytest.mark.parametrize("name", EVERY)


@ROWS
def test_methods_compare_and_pickle(name):
    one, two = method_of(SECTIONS[name]), method_of(SECTIONS[name])
    assert one == two
    assert pickle.loads(pickle.dumps(one)) == one
    assert (method_of(SECTIONS[name], eps=EPS / 2) == one) == (not one.stages or not uses_eps(one))


def uses_eps(method):
    return any(hasattr(stage, "ball") for stage in method.stages)


@ROWS
def test_methods_print_what_they_are(name):
    method = method_of(SECTIONS[name])
    assert " at 0x" not in re.sub(r"update=<function descend at \w+>", "", repr(method))
    number = r"([\d.e+-]+|\([^()]*(\([^()]*\))*[^()]*\))\*"
    term = r"[A-Za-z\d-]+\([^()]+\)(\*\(1 - p_y\([^()]+\)\))?"
    assert re.fullmatch(rf"({number})?{term}( \+ ({number})?{term})*", method.formula), method.formula


@ROWS
def test_the_terms_of_a_loss_have_names_that_trackers_take_and_tell_apart(name):
    names = [term.name for term in method_of(SECTIONS[name]).objective.named]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", term) for term in names)


@ROWS
def test_the_logged_terms_add_up_to_the_logged_loss(name):
    step = Step(name)
    log = step.take()
    total = sum(value(weight, NOW) * log[term.name] for weight, term in step.method.objective.terms)
    assert log["loss"].item() == pytest.approx(total.item(), rel=1e-12)
    assert not any(tensor.requires_grad for tensor in log.values())


FORMULAS = {
    "standard": "CE(clean)",
    "pgd-at": "CE(adv)",
    "trades": "CE(clean) + 6*KL(adv to clean)",
    "trades (clean twice)": "CE(clean) + 6*KL(adv to again)",
    "trades (js)": "CE(clean) + 6*JS(adv ~ clean)",
    "trades (ramp)": "CE(clean) + (0, then 6 from 0.5)*KL(adv to clean)",
    "mart": "5*KL(adv to clean)*(1 - p_y(clean)) + CE(adv) + runner-up(adv)",
    "alp": "0.5*CE(clean) + 0.5*CE(adv) + 0.5*MSE(adv, clean)",
    "alp+he": "0.5*CE(clean, margin 3) + 0.5*CE(adv, margin 3) + 0.5*MSE(adv, clean / 15)",
    "hat": "CE(clean) + 2.5*KL(adv to clean) + 0.5*CE(help, help label)",
    "hat-at": "CE(clean) + 1.75*CE(adv) + CE(help, help label)",
    "st": "CE(clean) + 6*KL(worst ~ best of clean, adv, col)",
    "lbgat": "MSE(adv, clean by natural) + CE(clean by natural)",
    "trades+lbgat": "MSE(adv, clean by natural) + CE(clean by natural) + 6*KL(adv to clean)",
    "pgd-at+bgat": "MSE(adv, clean by natural)",
    "trades+adr": "CE(clean, rectified label) + 6*KL(adv to clean)",
    "pgd-at+label-smoothing": "CE(adv, smooth label)",
    "pgd-at+two-neighbours": "0.5*CE(adv) + 0.5*CE(twin)",
    "free-at": "CE(adv)",
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_formula_is_the_papers(name):
    assert method_of(SECTIONS[name]).formula == FORMULAS[name]


PARAMETERS = [
    (kind, name, parameter)
    for kind, registry in (("recipe", RECIPES), ("modifier", MODIFIERS))
    for name, entry in registry.entries.items()
    for parameter in entry.parameters
]
OTHERS = {  # where a default does not tell what else there could be
    "fat.tau": 1.0,
    "he.scale": 20.0,
    "lbgat.model": "mlp",
    "lbgat.parameters": {"width": 3},
    "pretrained.by": "pgd-at",
}
WITH_IT = {"lbgat.parameters": {"model": "small-cnn"}, "he.features": {"margin": 0.0}}


@pytest.mark.parametrize(("kind", "name", "parameter"), PARAMETERS)
def test_every_parameter_that_a_spec_can_set_makes_another_method(kind, name, parameter):
    entry = (RECIPES if kind == "recipe" else MODIFIERS).entries[name]
    also = WITH_IT.get(f"{name}.{parameter}", {})
    other = also | {parameter: another(entry, parameter)}

    def method(given):
        if kind == "recipe":
            return method_of({"name": name, **given})
        first = next(single.partition("+")[0] for single in SINGLE if single.endswith(f"+{name}"))
        base = "pgd-at" if f"pgd-at+{name}" in SINGLE else first
        return method_of({"name": base, "with": {name: given}})

    assert method(other) != method(also)


def another(entry, parameter):
    """A value that the parameter may have, and by default has not."""
    default, hint = entry.parameters[parameter].default, entry.hints[parameter]
    choices = [choice for choice in get_args(hint) if isinstance(choice, str)]
    if f"{entry.name}.{parameter}" in OTHERS:
        return OTHERS[f"{entry.name}.{parameter}"]
    if choices:
        return next(choice for choice in choices if choice != default)
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    return 0.25 if default != 0.25 else 0.5
