"""Compositions that make no sense, and what is said of them.

The rows are those of every_method.py. What a method computes is for the tests against the papers.
"""

import re

import pytest
from every_method import (
    refusal,
)

from training.recipes import MODIFIERS, RECIPES

UNSEARCHED = {"standard", "free-at", "st"}  # no PGD search
REFUSES = {
    "adr": UNSEARCHED | {"mart", "lbgat"},
    "awp": {"free-at"},
    "bgat": UNSEARCHED | {"mart", "lbgat"},
    "fat": UNSEARCHED | {"fast-at"},
    "he": {"lbgat"},
    "label-smoothing": set(),
    "lbgat": UNSEARCHED | {"mart", "lbgat"},
    "m-he": {"lbgat"},
    "pretrained": set(),
    "two-neighbours": UNSEARCHED,
    "wa": set(),
}
REFUSES_AFTER = {  # on PGD-AT; where TRADES differs, see below
    "adr": {"bgat", "label-smoothing", "lbgat"},
    "awp": set(),
    "bgat": {"adr", "he", "label-smoothing", "lbgat", "m-he", "two-neighbours"},
    "fat": set(),
    "he": {"bgat", "lbgat", "m-he"},
    "label-smoothing": {"adr", "bgat"},
    "lbgat": {"adr", "bgat", "he", "label-smoothing", "m-he", "two-neighbours"},
    "m-he": {"bgat", "he", "lbgat"},
    "pretrained": set(),
    "two-neighbours": set(),
    "wa": set(),
}
REFUSED = {  # for what is asked of them
    "he: nothing left": {
        "name": "pgd-at",
        "with": {"he": {"features": False, "weights": "free", "margin": 0}},
    },
    "he: angle without features": {
        "name": "pgd-at",
        "with": {"he": {"features": False, "angle": True, "margin": 0}},
    },
    "he: on a shared network": {"name": "lbgat", "shared": True, "with": {"he": {}}},
    "wa: another decay": {"name": "pgd-at", "with": {"adr": {}, "wa": {"decay": 0.9}}},
    "wa: another warm-up": {"name": "pgd-at", "with": {"adr": {}, "wa": {"warmup": True}}},
    "adr: another decay": {"name": "pgd-at", "with": {"wa": {"decay": 0.9}, "adr": {}}},
    "label-smoothing: no clean loss": {"name": "pgd-at", "with": {"label-smoothing": {"where": "clean"}}},
    "pretrained: needs help itself": {"name": "pgd-at", "with": {"pretrained": {"by": "hat"}}},
    "lbgat: shared with a model": {"name": "pgd-at", "with": {"lbgat": {"shared": True, "model": "mlp"}}},
    "lbgat: no such model": {"name": "pgd-at", "with": {"lbgat": {"model": "resnet81"}}},
    "lbgat: no such parameter": {
        "name": "pgd-at",
        "with": {"lbgat": {"model": "mlp", "parameters": {"hiden": [8]}}},
    },
    "lbgat: parameters of no model": {"name": "pgd-at", "with": {"lbgat": {"parameters": {"width": 3}}}},
}


def gives_a_reason(told, modifier):
    return re.match(rf"method\.with\.{modifier}(\.\w+)*: [\w'].{{25,}}", told)


@pytest.mark.parametrize("modifier", MODIFIERS.entries)
@pytest.mark.parametrize("recipe", RECIPES.entries)
def test_a_recipe_refuses_the_modifiers_that_make_no_sense_on_it(recipe, modifier):
    told = refusal(f"{recipe}+{modifier}")
    assert (told is not None) == (recipe in REFUSES[modifier])
    assert told is None or gives_a_reason(told, modifier)


@pytest.mark.parametrize("second", MODIFIERS.entries)
@pytest.mark.parametrize("base", ["pgd-at", "trades"])
def test_a_modifier_refuses_those_that_it_cannot_follow(base, second):
    refused = set()
    for first in MODIFIERS.entries:
        told = refusal(f"{base}+{first}+{second}") if first != second else None
        if told is not None:
            assert gives_a_reason(told, second)
            refused.add(first)
    assert refused == REFUSES_AFTER[second]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_asked_of_a_modifier_is_refused_where_it_makes_no_sense(name):
    told = refusal(REFUSED[name])
    assert told is not None
    assert gives_a_reason(told, name.partition(":")[0])
