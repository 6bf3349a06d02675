"""How far numbers are apart, and what that comes to."""

import math

import pytest

from orchestrate.reproduce.compare import Comparison, Tolerance, tolerance
from orchestrate.reproduce.quantity import Quantity, number
from training.errors import UserError

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("then", "now", "measure", "distance"),
    [
        (0.5, 0.5, "relative", 0),
        (NAN, NAN, "relative", 0),
        (1.7976931348623157e308, INF, "relative", 0),  # what a database makes of infinity
        (2.0, 1.0, "relative", 0.5),
        (-1.0, 1.0, "relative", 2),
        (0.0, 1e-9, "relative", 1),
        (0.50, 0.75, "absolute", 0.25),
        (NAN, 1.0, "relative", INF),
        (None, 1.0, "absolute", INF),
        (1.0, None, "absolute", INF),
    ],
)
def test_a_distance(then, now, measure, distance):
    part = number("here", then, now, measure, 0.1)
    assert part.distance == distance
    assert part.unequal == (distance > 0)
    assert part.beyond == (distance > 0.1)


def test_the_first_beyond_is_what_differs_even_when_a_later_one_is_further():
    parts = [
        number(f"epoch {n}, loss", 1.0, 1.0 + off, "relative", 0.01)
        for n, off in enumerate([0, 0.001, 0.1, 3])
    ]
    comparison = Comparison((Quantity("metrics", tuple(parts)),), (), Tolerance())
    assert comparison.sentence.startswith("differs: first epoch 2, loss: 1 then, 1.1 now, 0.0909 relative")
    near = Comparison((Quantity("metrics", tuple(parts[:2])),), (), Tolerance())
    assert near.sentence.startswith(
        "within tolerance: furthest epoch 1, loss, 0.000999 relative (tolerance 0.01)"
    )
    assert Comparison((Quantity("metrics", tuple(parts[:1])),), (), Tolerance()).verdict == "identical"


def test_a_tolerance_is_one_number_or_several():
    assert tolerance(None) == Tolerance()
    assert tolerance("0.1") == Tolerance(0.1, 0.1, 0.1, 0.1)
    assert tolerance("accuracy=0.1, weights=1") == Tolerance(accuracy=0.1, weights=1)
    for wrong in ("", "-1", "nan", "speed=1", "accuracy="):
        if wrong:
            with pytest.raises(UserError, match="--tolerance"):
                tolerance(wrong)
