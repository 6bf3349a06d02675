"""Every row of every sheet: its spec resolves, its networks can be built, its kind of method trains a narrow one."""

from __future__ import annotations

import copy
import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrate import configuration
from orchestrate.papers import sheet
from orchestrate.papers.images import DATA
from orchestrate.papers.sheet import Row
from training.data import Dataset, Extra, Images
from training.fit import Training
from training.guides import Joint
from training.models import build as build_model
from training.recipes import build as build_method
from training.resolve import needed_helpers
from training.spec import Choice, TrialSpec

ROWS = {row.id: row for one in sheet.all_sheets() for row in one.rows}
TRAINED = {name: row for name, row in ROWS.items() if row.sections is not None}
STEPS, SEARCH = 2, 1
NARROW = {"resnet": {"width": 4}, "preact": {"width": 4}, "wrn": {"width": 2}, "lbgat": {"width": 4}}
# Networks that no paper's numbers depend on are what they are.
SMALL = ("toy-mlp", "mlp", "small-cnn")


def spec_of(row: Row) -> TrialSpec:
    spec = row.spec()
    assert spec is not None
    return configuration.of(spec)[0]


def once_each(keys: dict[str, TrialSpec]) -> list[Any]:
    """Rows of equal spec (two tables print one network) are one test, called by the first one's name."""
    seen: dict[str, str] = {}
    for name, spec in keys.items():
        seen.setdefault(json.dumps(spec.dump(), sort_keys=True), name)
    return [pytest.param(keys[name], id=name) for name in seen.values()]


def parts_of(spec: TrialSpec) -> set[str]:
    """What a row's training is made of: method and modifiers but for numbers; network and images; optimiser."""
    method, model = spec.dump()["method"], json.dumps(spec.dump()["model"], sort_keys=True)
    return {
        f"{json.dumps(_without_numbers(method), sort_keys=True)} {spec.attack.norm}",
        f"{model} {spec.data.name} {spec.data.extra is not None}",
        f"{spec.train.schedule} {spec.train.nesterov} {spec.train.momentum}",
    }


def _without_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_numbers(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_numbers(one) for one in value]
    return value if value is None or isinstance(value, bool | str) else value == 0


def enough_rows(keys: dict[str, TrialSpec]) -> dict[str, TrialSpec]:
    """So many of these rows, in their order, that every part of any row is in one of them."""
    seen: set[str] = set()
    chosen = {}
    for name, spec in keys.items():
        if not parts_of(spec) <= seen:
            seen |= parts_of(spec)
            chosen[name] = spec
    return chosen


SPECS = {name: spec_of(row) for name, row in TRAINED.items()}


def test_there_are_many_rows_with_published_numbers() -> None:
    assert sum(bool(row.given.published) for row in ROWS.values()) >= 150
    assert {name.partition("/")[0] for name in sheet.names()} == set(sheet.PAPERS)


@pytest.mark.parametrize("name", TRAINED)
def test_a_row_says_what_files_it_needs_and_its_images_are_known(name: str) -> None:
    spec = SPECS[name]
    assert spec.data.name in DATA
    assert (spec.data.extra is not None) == ("data.extra.path" in TRAINED[name].given.needs)
    needed = {helper.name for helper in needed_helpers(spec)}
    given = {field.split(".")[1] for field in TRAINED[name].given.needs if field.startswith("helpers.")}
    assert given <= needed


@pytest.mark.parametrize("name", [name for name, row in TRAINED.items() if row.compared_with in TRAINED])
def test_what_is_compared_was_trained_by_one_recipe(name: str) -> None:
    """Arrows go from a baseline to a method of the same data, network, optimiser, schedule, search and selection."""
    base = TRAINED[name].compared_with
    assert base is not None
    one, other = recipe_of(name), recipe_of(base)
    if "standard" in (
        SPECS[name].method.name,
        SPECS[base].method.name,
    ):  # it does not search, and is chosen otherwise
        one["search"], other["search"] = (), ()
    if name.startswith("st/appendix-c/"):  # which compares numbers of steps
        one["search"], other["search"] = (), ()
    if ("awp" in SPECS[name].method.with_) != ("awp" in SPECS[base].method.with_) and name.startswith("adr/"):
        one["train"].pop("nesterov")  # ADR's program runs AWP without it
        other["train"].pop("nesterov")
    assert one == other


def recipe_of(name: str) -> dict[str, Any]:
    """What a row has in common with those that it is compared with."""
    spec = SPECS[name]
    return {
        "data": spec.data.model_dump(exclude={"extra"}),
        "model": spec.model,
        "train": spec.train.model_dump(),
        "threat": (spec.attack.norm, spec.attack.eps),
        "search": (spec.attack.steps, spec.attack.step_size),
        "selection": spec.selection,
    }


@pytest.mark.parametrize("spec", once_each(SPECS))
def test_a_row_builds_its_networks_and_its_method(spec: TrialSpec) -> None:
    assert_can_be_built(spec.model.model_dump_json(), spec.data.name)
    with torch.device("meta"):
        method = build_method(spec.method, spec.attack)
    for guide in method.guides.values():  # LBGAT's natural network
        if isinstance(guide, Joint) and guide.model is not None:
            own = Choice(name=guide.model, **guide.parameters)
            assert_can_be_built(own.model_dump_json(), spec.data.name)
    build_method(narrow(spec).method, narrow(spec).attack)


@functools.cache
def assert_can_be_built(model: str, data: str) -> None:
    """The network (a ``Choice`` as JSON) as it is printed, without memory; one that many rows have is built once."""
    middle = [0.5] * DATA[data].shape[0]
    with torch.device("meta"):
        network = build_model(
            Choice.model_validate_json(model), DATA[data].shape, DATA[data].classes, middle, middle
        )
    assert all(p.is_meta for p in network.parameters())


@pytest.mark.parametrize("spec", once_each(enough_rows(SPECS)))
def test_each_kind_of_method_and_each_network_trains(spec: TrialSpec, tmp_path: Path) -> None:
    training = training_of(narrow(spec), tmp_path)
    before = copy.deepcopy(training.networks["student"].state_dict())
    training.epoch = 1  # some schedules begin at a rate of 0
    order = training.batches.order(torch.Generator().manual_seed(0))
    for _ in range(STEPS):
        training._step(order)  # and no checkpoint, of which hundreds would be written
    assert math.isfinite(float(training.sums["loss"]))
    after = training.networks["student"].state_dict()
    moved = [name for name, p in training.networks["student"].named_parameters() if p.requires_grad]
    assert all(torch.isfinite(after[name]).all() for name in moved)
    assert sum(not torch.equal(before[name], after[name]) for name in moved) > len(moved) / 2


def narrow(spec: TrialSpec) -> TrialSpec:
    """The same method, model and recipe, with few channels, a batch of few images, and short searches."""
    facts = spec.dump()
    facts["model"] |= _width(spec.model)
    kinds = 1 if spec.data.extra is None else 2  # of images, both of which are in a batch
    facts["train"] |= {"batch_size": 2 * kinds}
    facts["attack"]["steps"] = SEARCH + ("fat" in spec.method.with_)  # FAT ends searches early
    facts["data"] |= {
        "val": 0.25,
        "augment": "none" if spec.data.augment == "resized-crop" else spec.data.augment,
    }
    for guided in (facts["method"], *facts["method"]["with"].values()):
        if guided.get("model"):
            own = _width(Choice(name=guided["model"]))
            guided["parameters"] = (guided.get("parameters") or {}) | own
    return TrialSpec.model_validate(facts)


def _width(model: Choice) -> dict[str, int]:
    kinds = [width for kind, width in NARROW.items() if kind in model.name]
    assert kinds or model.name in SMALL, f"how is a narrow {model.name} made?"
    return kinds[0] if kinds else {}


def training_of(spec: TrialSpec, folder: Path) -> Training:
    shape, classes = DATA[spec.data.name].shape, DATA[spec.data.name].classes
    draw = torch.Generator().manual_seed(0)

    def images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = torch.randint(256, (count, *shape), generator=draw, dtype=torch.uint8)
        return pixels, torch.arange(count) % classes

    batch = spec.train.batch_size
    extra = Extra(*images(4 * batch), spec.data.extra.share) if spec.data.extra else None
    middle = (0.5,) * shape[0]
    data = Dataset(
        Images(*images(4 * batch), extra), Images(*images(batch)), classes, middle, middle, spec.data.name
    )
    method, helpers = build_method(spec.method, spec.attack), {}
    for helper in method.helpers:
        torch.manual_seed(1)
        head = method.head if helper == method.start else None
        helpers[helper.name] = build_model(spec.model, shape, classes, middle, middle, head).eval()
    return Training(spec, data, folder, "k", torch.device("cpu"), helpers)
