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
- {method: hat+awp+wa}
- {method: standard, setup: null}
- {method: {name: trades+awp, beta: {linear: [1, 6]}, with: {wa: {decay: 0.99}}}}
- {method: {grid: [trades, hat+awp, {name: hat, beta: 3}]}}
- {method: {name: {grid: [trades, trades+awp]}, beta: {steps: [[0, 1], [5, 6]]}}}
import: [my_methods.py]
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
        (["trials", 4, "method"], "hat+apw"),
        (["trials", 4, "method"], "hta"),
        (["trials", 4, "method"], "hat+"),
        (["trials", 4, "method"], 3),
        (["trials", 5, "setup"], "nothing/here"),
        (["trials", 5, "imports"], {}),
        (["trials", 6, "method", "betta"], 3),
        (["trials", 6, "method", "beta"], {"sine": [1, 6]}),
        (["trials", 6, "method", "with", "wa"], {"dacay": 0.9}),
        (["trials", 8, "method", "name"], "trades+apw"),
        (["import"], "my_methods.yaml"),
        (["import"], {"my_methods.py": "abc"}),
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


def test_a_file_of_ones_own_adds_to_it(own_files, tmp_path):
    import own_methods

    from training import extensions

    own = content() | {
        "trials": [{"method": "halved+untouched", "model": {"name": "linear", "dropout": 0.1}}]
    }
    (tmp_path / "mine.py").write_text(own_methods.HALVED)
    assert list(jsonschema.Draft7Validator(document()).iter_errors(own))
    extensions.load(tmp_path / "mine.py")
    assert list(jsonschema.Draft7Validator(document()).iter_errors(own)) == []


def test_every_registered_thing_and_parameter_can_be_completed(schema):
    from training.models import MODELS
    from training.recipes import RECIPES

    text = str(schema.schema)
    for registry in (RECIPES, MODELS):
        for name, entry in registry.entries.items():
            assert f"'const': '{name}'" in text
            assert all(f"'{parameter}'" in text for parameter in entry.parameters)


def test_the_kinds_of_annealed_values_are_those_of_training():
    from orchestrate.schema import ANNEALED_VALUE
    from training.spec import ANNEALED

    assert set(ANNEALED) == set(ANNEALED_VALUE["properties"])
