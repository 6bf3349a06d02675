"""Planning: keys, seeds, labels and evaluations of trials."""

import numpy as np
import pytest
import yaml
from small_plans import checkpoint_file, method, plan, planned, sweep

from orchestrate.sweep_file import build
from training.resolve import formula
from training.spec import TrialSpec


def test_a_trial_has_everything_filled_in_and_the_key_of_just_that(tmp_path):
    (wanted,) = plan(sweep(method("trades")), tmp_path)
    assert wanted.spec.method.parameters["beta"] == 6.0
    assert wanted.spec.attack.step_size == 0.05
    from training.data import digest

    assert wanted.key == wanted.spec.key(digest(wanted.spec.data))
    assert wanted.formula == formula(wanted.spec) == "CE(clean) + 6*KL(adv to clean)"
    assert wanted.cost > 0


def test_the_key_knows_what_training_computes_and_nothing_else(tmp_path):
    def key(*overrides):
        return plan(sweep(method("trades"), overrides=overrides), tmp_path)[0].key

    plain = key()
    for same in ("method.beta=6", "attack.step_size=0.05", "name=y", "limits.hours=1", "evaluate.images=5"):
        assert key(same) == plain, same
    for other in ("method.beta=5", "seeds=1", "train.epochs=4", "attack.eps=0.1", "data.split_seed=1"):
        assert key(other) != plain, other
    assert key("data.train_size=1000") != plain, "other images, by their contents"


def test_seeds_dimensions_and_evaluations(tmp_path):
    swept = sweep(
        method("trades", beta={"grid": [1, 3]}) | {"seeds": [0, 5]},
        method("standard"),
        evaluate={"attacks": "pgd", "checkpoint": "both"},
    )
    wanted = plan(swept, tmp_path)
    assert [(w.config.get("method.beta"), w.seed) for w in wanted] == [
        (1, 0),
        (1, 5),
        (3, 0),
        (3, 5),
        (None, 0),
    ]
    assert len({w.key for w in wanted}) == 5
    assert [e.checkpoint for e in wanted[0].evaluations.values()] == ["best", "last"]
    assert [e.digest(wanted[0].spec.attack) for e in wanted[0].evaluations.values()] == list(
        wanted[0].evaluations
    )


def test_labels_hold_the_method_and_what_differs(tmp_path):
    swept = sweep(
        method("standard"),
        method("trades", beta={"grid": [1, 3.5]}),
        method("trades", beta=6) | {"train": {"epochs": 5}},
        method("hat", beta=3, gamma=0.5),
        method("hat", beta=3, gamma={"grid": [0.1, 0.25]}, **{"with": {"wa": {"decay": 0.9}}}),
        method("pgd-at") | {"attack": {"eps": "8/255"}, "model": {"name": "small-cnn", "width": 4}},
        method("pgd-at"),
    )
    labels = [w.label for w in plan(swept, tmp_path)]
    assert labels == [
        "standard",
        "trades beta=1 epochs=3",
        "trades beta=3.5 epochs=3",
        "trades beta=6 epochs=5",
        "hat gamma=0.5",
        "hat+wa gamma=0.1 decay=0.9",
        "hat+wa gamma=0.25 decay=0.9",
        "pgd-at model=small-cnn eps=8/255",
        "pgd-at model=mlp eps=0.2",
    ]


def test_short_names_are_the_trials_that_they_stand_for(tmp_path):
    long = sweep(
        method("hat", **{"with": {"awp": {}, "wa": {}}}), method("trades", beta=2, **{"with": {"awp": {}}})
    )
    short = sweep({"method": "hat+awp+wa"}, method("trades+awp", beta=2))
    assert [w.key for w in plan(short, tmp_path)] == [w.key for w in plan(long, tmp_path)]
    assert [w.label for w in plan(short, tmp_path)] == ["hat+awp+wa", "trades+awp"]


def test_methods_can_be_searched_by_their_short_names(tmp_path):
    whole = sweep({"method": {"grid": ["trades", "hat+awp", {"name": "hat", "beta": 3}]}})
    assert [w.label for w in plan(whole, tmp_path)] == ["trades", "hat+awp", "hat beta=3"]
    names = sweep(method({"grid": ["trades", "trades+awp"]}, beta={"grid": [1, 3]}))
    assert [w.label for w in plan(names, tmp_path)] == [
        "trades beta=1",
        "trades beta=3",
        "trades+awp beta=1",
        "trades+awp beta=3",
    ]


def test_an_annealed_parameter_is_one_value_in_a_label(tmp_path):
    swept = sweep(
        method("trades", beta={"linear": [1, 6]}), method("trades", beta={"grid": [3, {"cosine": [1, 6]}]})
    )
    assert [w.label for w in plan(swept, tmp_path)] == [
        "trades beta=linear[1, 6]",
        "trades beta=3",
        "trades beta=cosine[1, 6]",
    ]


def test_paths_are_the_current_directorys_wherever_the_sweep_goes_on(tmp_path, monkeypatch):
    images, labels = np.zeros((200, 8, 8), np.uint8), np.arange(200) % 10
    np.savez(
        tmp_path / "own.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels
    )
    checkpoint_file(tmp_path / "h.pt", 10)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    small = ["data.name=npz", "train.batch_size=9"]
    for data, helper in (("own.npz", "h.pt"), ("~/own.npz", "~/h.pt")):
        paths = [f"data.root={data}", f"helpers.standard.path={helper}"]
        again = build(sweep(method("hat"), overrides=[*small, *paths]).dump(), "sweep.yaml")
        monkeypatch.chdir("/")
        (wanted,) = plan(again, tmp_path / "runs")
        assert wanted.spec.data.root == str(tmp_path / "own.npz")
        assert wanted.spec.helpers["standard"]["path"] == str(tmp_path / "h.pt")
        monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARAPET_DATA", "own.npz")
    (wanted,) = plan(sweep(method("trades"), overrides=small), tmp_path / "runs")
    assert wanted.spec.data.root == str(tmp_path / "own.npz")


def test_planning_writes_nothing(tmp_path):
    plan(sweep(method("hat"), method("standard")), tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


def test_a_spec_read_back_from_its_file_has_the_same_key(tmp_path):
    (wanted,) = plan(sweep(method("hat", **{"with": {"wa": {}}})), tmp_path)
    again = TrialSpec.model_validate(yaml.safe_load(yaml.safe_dump(wanted.spec.dump(), sort_keys=False)))
    from training.data import digest

    assert again.key(digest(again.data)) == wanted.key


@pytest.mark.parametrize("name", ["standard", "fast-at", "free-at"])
def test_how_others_search_is_no_part_of_the_key_of_what_does_not(tmp_path, name):
    keys = {planned(tmp_path, method=name, attack={"steps": steps}).key for steps in (3, 10)}
    assert len(keys) == 1
    keys = {planned(tmp_path, method="pgd-at", attack={"steps": steps}).key for steps in (3, 10)}
    assert len(keys) == 2
