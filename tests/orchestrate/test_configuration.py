"""A configuration is what repetitions have in common: known before the images are at hand, and again after."""

from pathlib import Path
from typing import Any

import pytest

from orchestrate import configuration
from orchestrate.plan import Planner, all_of
from orchestrate.runs import Runs
from orchestrate.sweep_file import build
from training.spec import TrialSpec, overlay

SPEC: dict[str, Any] = {
    "method": {"name": "hat", "beta": 2, "gamma": 0.5},
    "data": {"name": "digits", "train_size": 200},
    "model": {"name": "mlp"},
    "train": {"epochs": 2, "batch_size": 32},
    "attack": {"eps": 0.1},
}


def of(**changes: Any) -> str:
    return configuration.of(TrialSpec.model_validate(overlay(SPEC, changes)))[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 5},
        {"data": {"root": "/elsewhere"}},
        {"train": {"compile": True}},
        {"train": {"channels_last": True}},
    ],
)
def test_seed_place_and_speed_are_no_part_of_it(changes: dict[str, Any]) -> None:
    assert of(**changes) == of()


@pytest.mark.parametrize(
    "changes",
    [
        {"method": {"gamma": 0.25}},
        {"method": {"with": {"wa": {}}}},
        {"data": {"train_size": 199}},
        {"data": {"split_seed": 1}},
        {"train": {"lr": 0.2}},
        {"train": {"precision": "bf16"}},
        {"selection": "test"},
        {"helpers": {"standard": {"train": {"epochs": 1}}}},
        {"helpers": {"standard": {"path": "w.pt"}}},
    ],
)
def test_whatever_else_is_computed_is(changes: dict[str, Any]) -> None:
    assert of(**changes) != of()


def test_what_is_default_may_be_said_or_not() -> None:
    assert of(train={"schedule": {"name": "onecycle"}}, attack={"steps": 10}) == of()


def test_a_planned_trial_has_the_configuration_that_its_spec_had_without_images(tmp_path: Path) -> None:
    sweep = build({"name": "s", "seeds": [0, 1], "base": SPEC, "evaluate": {"images": 20}}, "s.yaml")
    wanted = all_of(sweep, Planner(sweep, Runs(tmp_path)))
    assert {one.configuration for one in wanted} == {of()}
    [helper] = wanted[0].helpers
    plain = overlay(SPEC, {"method": {"name": "standard"}})
    assert helper.configuration == configuration.of(TrialSpec.model_validate(plain))[1]
