"""Hyperparameters that change: what a spec may say, what a method then reads, and what is refused in one sentence."""

import math

import pytest

from training.annealing import Ratio, Temperature, Weight, always, annealed, scaled
from training.errors import UserError
from training.registry import Registry
from training.views import Moment, value

THINGS = Registry("thing")


@THINGS.register("thing")
def thing(*, weight: Weight = 1.0, ratio: Ratio = 0.5, tau: Temperature = 2.0) -> None:
    """Has a hyperparameter of each kind."""


def read(given, parameter="weight"):
    """What a spec's value becomes, as when a spec is resolved."""
    return THINGS.entries["thing"].resolve({parameter: given}, "method")[parameter]


def told(given, parameter="weight"):
    with pytest.raises(UserError) as raised:
        read(given, parameter)
    return str(raised.value)


def course(given, epochs=4, steps=5):
    """The values of every step of a training."""
    number = annealed(read(given))
    return [value(number, Moment(e, s, steps, epochs)) for e in range(epochs) for s in range(steps)]


def test_a_number_stays_a_number():
    assert read(3) == 3.0
    assert read("8/255") == 8 / 255
    assert annealed(read(3)) == 3.0
    assert course(3) == [3.0] * 20


def test_a_cosine_is_half_a_cosine_from_one_number_to_the_other():
    values = course({"cosine": [2.5, 2.0]})
    for step, number in enumerate(values):
        assert number == pytest.approx(2.25 + 0.25 * math.cos(math.pi * step / 20), rel=1e-12)
    assert values[0] == 2.5
    assert values[10] == pytest.approx(2.25)


def test_a_line_is_straight():
    assert course({"linear": [1, 3]}) == pytest.approx([1 + 0.1 * step for step in range(20)])
    assert course({"linear": [0, "1/2"]})[10] == pytest.approx(0.25)


@pytest.mark.parametrize("ends", [[0.7, 0.95], [2.5, 2.0], [1.0, 1.0]])
@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_what_goes_from_one_number_to_another_never_turns_back(kind, ends):
    values = course({kind: ends}, epochs=7, steps=13)
    assert values[0] == ends[0]
    assert sorted(values, reverse=ends[1] < ends[0]) == values
    assert min(ends) <= min(values) <= max(values) <= max(ends)
    assert abs(values[-1] - ends[1]) < 0.02 * abs(ends[1] - ends[0]) + 1e-12


def test_steps_hold_from_their_epochs_on():
    values = course({"steps": [[0, 0], [1, 0.5], [3, 6]]})
    assert values == [0.0] * 5 + [0.5] * 10 + [6.0] * 5


@pytest.mark.parametrize("epochs", [60, 120, 240, 119])
def test_steps_at_shares_of_all_epochs_come_in_the_first_epoch_that_is_there(epochs):
    """FAT's tau: 0, 1 and 2 from epochs 0, 50 and 90 of 120 on."""
    tau = annealed(read({"steps": [[0, 0], [50 / 120, 1], [90 / 120, 2]]}))
    for epoch in range(epochs):
        expected = (120 * epoch >= 50 * epochs) + (120 * epoch >= 90 * epochs)
        assert value(tau, Moment(epoch, 0, 1, epochs)) == expected


def test_every_share_of_every_length_is_exact():
    for epochs in range(1, 201):
        for since in range(1, epochs):
            steps = annealed({"steps": [[0, 0], [since / epochs, 1]]})
            assert value(steps, Moment(since - 1, 0, 1, epochs)) == 0
            assert value(steps, Moment(since, 0, 1, epochs)) == 1


def test_it_prints_as_people_say_it():
    assert repr(annealed({"cosine": [2.5, 2.0]})) == "2.5 to 2 (cosine)"
    assert repr(annealed({"linear": [0.0, 6.0]})) == "0 to 6 (linear)"
    assert (
        repr(annealed({"steps": [[0, 0], [50 / 120, 1], [100, 2]]}))
        == "0, then 1 from 0.417, then 2 from 100"
    )
    assert repr(scaled(annealed({"cosine": [2.5, 2.0]}), 0.5)) == "0.5*(2.5 to 2 (cosine))"


def test_a_schedule_times_a_factor_and_a_number_times_a_factor():
    now = Moment(1, 0, 1, 2)
    assert value(scaled(annealed({"linear": [0, 6]}), 0.5), now) == 1.5
    assert scaled(3.0, 0.5) == 1.5
    assert always(0.0, 0)
    assert not always(annealed({"linear": [0, 0]}), 0)


def test_what_was_read_is_read_again_as_it_is():
    """A resolved spec is written to a file, and resolved again."""
    for given in (3, {"cosine": [2, "3/2"]}, {"linear": [0, 1]}, {"steps": [[0, 1], [5, 2]]}):
        assert read(read(given)) == read(given)


WRONG = {
    "words": ("much", "should be a number"),
    "nothing": (None, "should be a number"),
    "no kind": ({}, "one of {cosine: [a, b]}, {linear: [a, b]}, {steps: ...}"),
    "unknown kind": ({"cosin": [1, 2]}, "one of {cosine: [a, b]}"),
    "two kinds": ({"cosine": [1, 2], "linear": [1, 2]}, "one of {cosine: [a, b]}"),
    "one end": ({"cosine": [1]}, "cosine goes from one number to another"),
    "three ends": ({"linear": [1, 2, 3]}, "linear goes from one number to another"),
    "ends in words": ({"cosine": ["a", 1]}, "cosine goes from one number to another"),
    "an end missing": ({"cosine": [None, 1]}, "cosine goes from one number to another"),
    "an end of two": ({"linear": "12"}, "linear goes from one number to another"),
    "ends by name": ({"linear": {1: 2, 3: 4}}, "linear goes from one number to another"),
    "no step": ({"steps": []}, "begin at epoch 0"),
    "a step as a number": ({"steps": 5}, "pairs of an epoch and a value"),
    "steps that are no pairs": ({"steps": [0, 1]}, "pairs of an epoch and a value"),
    "steps of three": ({"steps": [[0, 1, 2]]}, "pairs of an epoch and a value"),
    "steps in words": ({"steps": [[0, "much"]]}, "pairs of an epoch and a value"),
    "a late first step": ({"steps": [[1, 1], [2, 2]]}, "begin at epoch 0"),
    "steps back": ({"steps": [[0, 1], [50, 2], [30, 3]]}, "go upwards"),
    "the same step twice": ({"steps": [[0, 1], [50, 2], [50, 3]]}, "go upwards"),
    "a step at no time": ({"steps": [[0, 1], [math.nan, 2]]}, "go upwards"),
    "a step that never comes": ({"steps": [[0, 1], [math.inf, 2]]}, "go upwards"),
    "epochs and shares": ({"steps": [[0, 1], [0.5, 2], [100, 3]]}, "not both"),
    "negative": (-1, "at least 0"),
    "a negative end": ({"cosine": [1, -1]}, "at least 0, got -1.0"),
    "a negative step": ({"steps": [[0, 1], [50, -2]]}, "at least 0, got -2.0"),
    "endless": (math.inf, "at least 0"),
    "an endless end": ({"linear": [1, math.inf]}, "at least 0"),
    "no number": ({"steps": [[0, math.nan]]}, "at least 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_told_in_one_sentence(name):
    given, expected = WRONG[name]
    message = told(given)
    assert message.startswith("method.weight: ")
    assert expected in message
    assert "\n" not in message
    assert "validation error" not in message


def test_each_kind_of_hyperparameter_has_its_bounds():
    assert "at least 0 and at most 1, got 1.5" in told({"cosine": [0.5, 1.5]}, "ratio")
    assert "at least 1e-06, got 0.0" in told({"cosine": [2, 0]}, "tau")
    assert read(0) == 0.0
    assert read({"cosine": [0, 1]}, "ratio") == {"cosine": [0.0, 1.0]}
