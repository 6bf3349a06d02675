"""Search spaces: what is refused, what is drawn, how sections are laid over each other."""

import math
import random

import pytest

from orchestrate.space import Range, find, merge, place
from training.errors import UserError


def only(tree):
    ((_, dimension),) = find(tree).items()
    return dimension


def test_spaces_are_found_anywhere_by_their_path_and_replaced_by_values():
    tree = {
        "method": {
            "name": "hat",
            "beta": {"grid": [1, 3]},
            "with": {"wa": {"decay": {"uniform": [0.9, 0.99]}}},
        },
        "model": {"choice": [{"name": "mlp"}, {"name": "small-cnn", "width": 8}]},
        "train": {"lr": 0.1},
    }
    assert list(find(tree)) == ["method.beta", "method.with.wa.decay", "model"]
    values = {"method.beta": 3, "method.with.wa.decay": 0.95, "model": {"name": "mlp"}}
    assert place(tree, values) == {
        "method": {"name": "hat", "beta": 3, "with": {"wa": {"decay": 0.95}}},
        "model": {"name": "mlp"},
        "train": {"lr": 0.1},
    }
    assert tree["model"] == {"choice": [{"name": "mlp"}, {"name": "small-cnn", "width": 8}]}, "left alone"


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"grid": 3}, "grid takes a list"),
        ({"grid": []}, "grid takes a list"),
        ({"grid": [1, 1.0]}, "names a value twice"),
        ({"grid": [1], "choice": [2]}, "one key"),
        ({"grid": [1, {"uniform": [0, 1]}]}, "inside a search space"),
        ({"uniform": [1]}, "two numbers"),
        ({"uniform": ["a", 2]}, "two numbers"),
        ({"uniform": [True, 2]}, "two numbers"),
        ({"uniform": [2, 1]}, "lowest value below its highest"),
        ({"uniform": [0, float("inf")]}, "lowest value below its highest"),
        ({"loguniform": [0, 1]}, "above 0"),
        ({"int": [1, 2.5]}, "whole numbers"),
        ({"unifrom": [1, 2]}, "did you mean 'uniform'?"),
        ({"loguniorm": [1, 2]}, "did you mean 'loguniform'?"),
    ],
)
def test_a_malformed_space_is_refused_with_its_path(space, words):
    with pytest.raises(UserError, match=r"^method\.beta: ") as refused:
        find({"method": {"name": "trades", "beta": space}})
    assert words in str(refused.value)


def test_a_section_with_one_list_is_no_misspelt_space():
    assert find({"helpers": {"standard": {"model": {"hidden": [64]}}}, "x": {"milestones": [3]}}) == {}


def test_true_is_not_one():
    assert find({"a": {"grid": [True, 1]}})["a"].values == (True, 1)
    assert not only({"a": {"grid": [1, 2]}}).holds(True)


def test_ranges_take_fractions():
    assert only({"eps": {"uniform": ["2/255", "8/255"]}}) == Range("eps", "uniform", 2 / 255, 8 / 255)


def test_samples_stay_inside_and_have_the_right_median():
    cases = {
        "uniform": ([2, 6], 4.0),
        "loguniform": ([0.01, 1], 0.1),  # the median of a log-uniform is the geometric mean
        "int": ([1, 9], 5),
    }
    for kind, (ends, median) in cases.items():
        dimension = only({"x": {kind: ends}})
        drawn = sorted(dimension.sample(random.Random(i)) for i in range(2001))
        assert ends[0] <= drawn[0] < drawn[-1] <= ends[1]
        assert math.isclose(drawn[1000], median, rel_tol=0.2), kind
        assert all(dimension.holds(v) for v in drawn)
    assert {only({"x": {"int": [1, 3]}}).sample(random.Random(i)) for i in range(50)} == {1, 2, 3}


def test_a_section_that_names_another_thing_replaces_the_one_below():
    base = {
        "model": {"name": "small-cnn", "width": 32},
        "data": {"name": "digits", "val": 0.2},
        "train": {"lr": 1},
    }
    other = merge(base, {"model": {"name": "mlp"}, "data": {"name": "mnist"}, "train": {"epochs": 3}})
    assert other["model"] == {"name": "mlp"}, "a width of another model means nothing"
    assert other["data"] == {"name": "mnist", "val": 0.2}
    assert other["train"] == {"lr": 1, "epochs": 3}
    assert merge(base, {"model": {"name": "small-cnn"}})["model"]["width"] == 32
    assert merge(base, {"model": {"grid": [{"name": "mlp"}]}})["model"] == {"grid": [{"name": "mlp"}]}
    assert base["model"] == {"name": "small-cnn", "width": 32}, "the base is left alone"
