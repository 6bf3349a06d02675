"""The JSON Schema agrees with what the program says about the same files."""

from pathlib import Path

import jsonschema
import pytest
import yaml

from orchestrate.schema import document

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def schema():
    return jsonschema.Draft7Validator(document())


def content():
    return yaml.safe_load(
        """
name: x
seeds: [0, 1]
base: {data: {name: digits}, model: {name: small-cnn}, train: {lr: {loguniform: [0.01, 1]}}, attack: {eps: 8/255}}
trials:
- {method: {name: standard}, seeds: 3}
- {method: {name: trades, beta: {grid: [1, 3]}, with: {wa: {decay: {uniform: [0.9, 0.99]}}}}}
- {method: {name: hat}, helpers: {standard: {path: FILE}}, model: {choice: [{name: mlp}, {name: resnet18}]}}
- {method: {name: hat}, helpers: {standard: {train: {epochs: 3, schedule: {name: multistep, milestones: [1]}}}}}
search: {name: random, samples: 3}
evaluate: {attacks: autoattack, checkpoint: both}
"""
    )


def test_a_right_file_and_the_demo_sweeps_are_valid(schema):
    jsonschema.Draft7Validator.check_schema(schema.schema)
    assert list(schema.iter_errors(content())) == []
    files = sorted((ROOT / "sweeps").glob("*.yaml"))
    assert files
    for file in files:
        assert list(schema.iter_errors(yaml.safe_load(file.read_text()))) == [], file


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["sedes"], [0]),
        (["base", "train", "epoch"], 3),
        (["base", "train", "epochs"], "many"),
        (["base", "attack", "eps"], "8-255"),
        (["base", "attack", "norm"], "l3"),
        (["base", "data", "name"], "minst"),
        (["base", "model", "widht"], 3),
        (["base", "seed"], 3),
        (["trials", 1, "method", "betta"], 3),
        (["trials", 1, "method", "beta"], {"gird": [1, 2]}),
        (["trials", 1, "method", "beta"], {"uniform": [1]}),
        (["trials", 1, "method", "with"], {"ema": {}}),
        (["trials", 1, "method", "name"], "tradse"),
        (["trials", 2, "model"], {"name": "mpl"}),
        (["trials", 3, "helpers", "standard", "train", "epoch"], 3),
        (["search", "name"], "optima"),
        (["evaluate", "attack"], "pgd"),
        (["trials"], []),
    ],
)
def test_a_wrong_field_or_value_is_marked(schema, path, value):
    wrong = content()
    at = wrong
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    assert list(schema.iter_errors(wrong)), path


def test_every_registered_thing_and_parameter_can_be_completed(schema):
    from training.models import MODELS
    from training.recipes import RECIPES

    text = str(schema.schema)
    for registry in (RECIPES, MODELS):
        for name, entry in registry.entries.items():
            assert f"'const': '{name}'" in text
            assert all(f"'{parameter}'" in text for parameter in entry.parameters)
