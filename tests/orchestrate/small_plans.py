"""Sweeps on digits with a tiny network, planned and not run; a checkpoint that a plan can name."""

from pathlib import Path

import pytest

from orchestrate.plan import Planner, all_of
from orchestrate.runs import Runs
from orchestrate.sweep_file import build
from training import checkpoint
from training.errors import UserError
from training.models import build as build_model
from training.resolve import resolve
from training.spec import Choice, TrialSpec

BASE = {
    "data": {"name": "digits"},
    "model": {"name": "mlp", "hidden": [4]},
    "train": {"epochs": 3},
    "attack": {"eps": 0.2, "steps": 4},
}


def sweep(*trials, source="f.yaml", overrides=(), **fields):
    return build({"name": "x", "base": BASE, "trials": list(trials)} | fields, source, overrides)


def method(name, **parameters):
    return {"method": {"name": name, **parameters}}


def plan(swept, tmp_path):
    return all_of(swept, Planner(swept, Runs(tmp_path)))


def checkpoint_file(file: Path, classes: int, shape=(1, 8, 8)) -> Path:
    """A real checkpoint of a standard network for so many classes."""
    spec = resolve(TrialSpec.model_validate(BASE | method("standard")))
    network = build_model(Choice(name="mlp", hidden=[4]), shape, classes, (0.5,), (0.5,))
    facts = {"shape": list(shape), "classes": classes, "mean": [0.5], "std": [0.5]}
    content = {"format": checkpoint.FORMAT, "key": "a" * 16, "spec": spec.dump(), "facts": facts}
    checkpoint.save(content | {"epoch": 2, "network": network.state_dict()}, file)
    return file


def refused(swept, tmp_path):
    with pytest.raises(UserError) as error:
        Planner(swept, Runs(tmp_path / "runs")).check()
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()
    return str(error.value)


def planned(tmp_path, **trial):
    base = {"data": {"name": "digits"}, "model": {"name": "small-cnn"}, "attack": {"eps": 0.2}}
    sweep = build({"name": "x", "base": base, "trials": [trial]}, "f.yaml")
    (wanted,) = Planner(sweep, Runs(tmp_path)).check()
    return wanted
