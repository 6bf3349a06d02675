"""The papers' training recipes: every file resolves to the trials that it is written for."""

import copy

import pytest
from every_method import refusal

from training import setups
from training.errors import UserError
from training.models import MODELS
from training.recipes import MODIFIERS, RECIPES
from training.resolve import resolve
from training.schedules import SCHEDULES
from training.spec import TrialSpec

NAMES = setups.names()
METHODS = [(name, method) for name in NAMES for method in setups.read(name).get("methods", {"standard": {}})]


def spec_of(setup, method, **over):
    """A resolved spec on top of a setup; what a setup leaves to its user is given."""
    data = {"name": "digits"}
    if "extra" in setups.read(setup).get("data", {}):
        data["extra"] = {"path": "extra.npz"}
    elif method == "rst":
        data["extra"] = {"path": "extra.npz", "share": 0.5}
    base = {"setup": setup, "method": method, "data": data, "model": {"name": "small-cnn"}}
    return resolve(TrialSpec.model_validate(base | over))


def number(written):
    """What a file writes as a number, 8/255 too."""
    if isinstance(written, str) and written not in ("true", "false"):
        above, _, below = written.partition("/")
        try:
            return float(above) / float(below or 1)
        except ValueError:
            return written
    return written


def assert_holds(resolved, written, path=""):
    """Everything that a file writes is in the resolved spec."""
    for name, given in written.items():
        here = f"{path}.{name}"
        if isinstance(given, dict) and isinstance(resolved[name], dict):
            assert_holds(resolved[name], given, here)
        elif isinstance(given, list):
            assert [number(item) for item in given] == pytest.approx(list(resolved[name])), here
        else:
            assert resolved[name] == number(given), here


@pytest.mark.parametrize("name", NAMES)
def test_a_setup_says_what_it_is_and_holds_nothing_else_than_sections(name):
    content = setups.read(name)
    assert set(content) <= {"about", "source", *setups.SECTIONS, "model", "methods", "modifiers"}
    assert content.get("model", {}) in ({}, {"normalize": "none"}, {"normalize": "data"})
    assert {"about", "source", "train", "attack"} <= set(content)
    assert all(isinstance(content[word], str) and "\n" not in content[word] for word in ("about", "source"))
    assert set(content.get("methods", {})) <= set(RECIPES.entries)
    assert set(content.get("modifiers", {})) <= set(MODIFIERS.entries)
    assert content["train"]["schedule"]["name"] in SCHEDULES.entries


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_a_setup_resolves_for_each_method_that_it_lists_to_what_is_written_there(name, method):
    content = setups.read(name)
    facts = spec_of(name, method).dump()
    assert facts["method"]["name"] == method
    assert_holds(facts["method"], content.get("methods", {}).get(method) or {})
    assert_holds(facts, {part: content[part] for part in ("train", "data") if part in content})
    assert facts["selection"] == content.get("selection", "val")
    if method != "standard":  # searches nothing, so that how others do is no part of it
        assert_holds(facts, {"attack": content["attack"]})
    last = max(content["train"]["schedule"].get("milestones", [0]))
    assert last < content["train"]["epochs"]


@pytest.mark.parametrize(
    ("name", "modifier"), [(name, m) for name in NAMES for m in setups.read(name).get("modifiers", {})]
)
def test_a_setups_modifiers_have_its_parameters_on_its_methods_and_are_there_only_when_asked_for(
    name, modifier
):
    content = setups.read(name)
    admitted = [m for m in content.get("methods", {"pgd-at": {}}) if refusal(f"{m}+{modifier}") is None]
    admitted = admitted or ["pgd-at"]
    for method in admitted:
        facts = spec_of(name, f"{method}+{modifier}").dump()
        assert_holds(facts["method"]["with"][modifier], content["modifiers"][modifier])
        assert modifier not in spec_of(name, method).dump()["method"]["with"]


@pytest.mark.parametrize("name", NAMES)
def test_any_other_method_takes_the_setups_sections_and_its_own_defaults(name):
    written = setups.read(name).get("methods", {})
    for method in RECIPES.entries.keys() - written.keys():
        facts = spec_of(name, method).dump()
        assert facts["method"] == {"name": method, "with": {}} | RECIPES.entries[method].resolve({}, "method")


def test_what_a_spec_says_itself_lies_over_its_setup():
    spec = spec_of(
        "hat/cifar10",
        {"name": "hat", "beta": 9.0},
        train={"epochs": 3, "schedule": {"name": "cosine"}},
        attack={"eps": 0.1},
    )
    written = setups.read("hat/cifar10")
    assert spec.method.parameters["beta"] == 9.0
    assert spec.method.parameters["gamma"] == written["methods"]["hat"]["gamma"]
    assert (spec.train.epochs, spec.train.lr) == (3, written["train"]["lr"])
    assert (spec.train.schedule.name, spec.train.schedule.parameters) == ("cosine", {})
    assert (spec.attack.eps, spec.attack.step_size) == (0.1, 2 / 255)


def test_a_setup_is_not_changed_by_what_is_laid_over_it():
    before = copy.deepcopy(setups.read("adr/cifar10-awp"))
    spec_of("adr/cifar10-awp", {"name": "trades", "beta": 1.0, "with": {"adr": {"tau": 3.0}}})
    assert setups.read("adr/cifar10-awp") == before


def test_modifiers_stay_in_the_order_in_which_they_are_written():
    method = {"name": "trades", "with": {"wa": {}, "awp": {}, "adr": {}}}
    assert list(spec_of("adr/cifar10-awp", method).method.with_) == ["wa", "awp", "adr"]


@pytest.mark.parametrize(
    ("setup", "expected"),
    [
        ("hat/cifar1O", "did you mean 'hat/cifar10'?"),
        ("cifar10", "there are: adr/"),
        (5, "setup is the name of one"),
        ({"name": "hat/cifar10"}, "setup is the name of one"),
    ],
)
def test_a_setup_that_is_not_there_is_told_with_the_nearest_one(setup, expected):
    facts = {"setup": setup, "method": "hat", "data": {"name": "digits"}, "model": {"name": "mlp"}}
    with pytest.raises(ValueError, match="setup") as raised:
        TrialSpec.model_validate(facts)
    assert expected in str(raised.value)


@pytest.mark.parametrize(
    "method", [5, {"name": "hat", "with": ["awp"]}, {"name": "hat", "with": {"awp": 0.005}}, {"with": {}}]
)
def test_a_method_that_is_none_is_told_with_a_setup_as_without(method):
    facts = {"method": method, "data": {"name": "digits"}, "model": {"name": "mlp"}}
    with pytest.raises(ValueError, match="method"):
        TrialSpec.model_validate(facts | {"setup": "hat/cifar10"})
    with pytest.raises(ValueError, match="method"):
        TrialSpec.model_validate(facts | {"attack": {"eps": 0.1}})


def test_a_modifier_of_a_setup_without_parameters_is_asked_for_by_its_name():
    assert spec_of("lbgat/cifar", "trades+lbgat").method.with_["lbgat"]["model"] in MODELS.entries
    with pytest.raises(UserError, match=r"awps.*did you mean 'awp'"):
        spec_of("st/cifar10", "st+awps")


def test_a_setup_says_whether_networks_normalise_their_input_and_a_spec_has_the_last_word():
    spec = {"setup": "hat/cifar10", "method": "hat", "data": {"name": "digits"}}
    assert TrialSpec.model_validate(spec | {"model": {"name": "resnet18"}}).model.parameters == {
        "normalize": "none"
    }
    own = {"name": "resnet18", "normalize": "data"}
    assert TrialSpec.model_validate(spec | {"model": own}).model.parameters == {"normalize": "data"}
